"""The launch scripts: what gpu_box.sh starts again, and what it passes on."""

import pathlib
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
ARGUMENTS = ["--config=a config.py:runlocal", "--workdir=/some/where", "*"]

# Stands in for Python: writes its arguments down, one start after another, and
# exits as `exits` says; with "wait", when it gets a signal.
PYTHON = """#!/bin/bash
cd "$(dirname "$0")"
printf '%s\\n' "$@" >>log
code=$(sed -n "$(grep -c main log)p" exits)
if [[ $code == wait ]]; then
  trap 'echo INT >>log; sleep 0.2; exit 75' INT
  trap 'echo TERM >>log; sleep 0.2; exit 75' TERM
  touch waiting
  for _ in {1..1000}; do sleep 0.02; done
fi
exit "$code"
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
  """Starts gpu_box.sh with a `python` that exits with the codes given."""
  python = tmp_path / "python"
  python.write_text(PYTHON)
  python.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
  # Where the tests run in the background, children would ignore it.
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)

  def start(*exits):
    (tmp_path / "exits").write_text("\n".join(map(str, exits)) + "\n")
    return subprocess.Popen([LAUNCH / "gpu_box.sh", *ARGUMENTS])

  yield start
  signal.signal(signal.SIGINT, previous)


def starts(tmp_path):
  return (tmp_path / "log").read_text().splitlines()


ONE_START = ["-m", "tokenlearner_flexivit.main", *ARGUMENTS]


def test_starts_the_same_command_again_while_it_exits_with_75(launch, tmp_path):
  assert launch(75, 75, 0).wait(20) == 0
  assert starts(tmp_path) == 3 * ONE_START


@pytest.mark.parametrize("code", [0, 1, 74, 137])
def test_other_exit_codes_are_passed_on(launch, tmp_path, code):
  assert launch(code, 0).wait(20) == code
  assert starts(tmp_path) == ONE_START


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_signal_reaches_the_program_and_ends_the_loop(launch, tmp_path, name):
  process = launch(75, "wait", 0)
  try:
    while not (tmp_path / "waiting").exists():
      assert process.poll() is None
      time.sleep(0.02)
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.wait(20) == 75
  finally:
    process.kill()
  assert starts(tmp_path) == [*ONE_START, *ONE_START, name]


# Stands in for gcloud: runs the command as a host does.
GCLOUD = """#!/bin/bash
for argument; do
  [[ $argument == --command=* ]] && cd && exec bash -c "${argument#--command=}"
done
"""


@pytest.fixture
def pod(tmp_path, monkeypatch):
  """Calls tpu_pod.sh for a pod of one host, whose home is `tmp_path`."""
  for path, text in {
    "gcloud": GCLOUD,
    "python": PYTHON.replace('"$@"', '"$@" "$TFDS_DATA_DIR"'),
    "venv/bin/activate": "touch ~/activated\n",
  }.items():
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    (tmp_path / path).chmod(0o755)
  (tmp_path / "tokenlearner_flexivit").mkdir()
  (tmp_path / "tokenlearner_flexivit" / "launch").symlink_to(LAUNCH)
  monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("VENV", str(tmp_path / "venv"))
  monkeypatch.setenv("TFDS_DATA_DIR", "/a bucket")
  monkeypatch.setenv("ZONE", "here")

  def call(*arguments):
    return subprocess.run([LAUNCH / "tpu_pod.sh", "pod", *arguments]).returncode

  return call


def wait_for(is_so):
  for _ in range(1000):
    if is_so():
      return
    time.sleep(0.02)
  raise AssertionError("waited too long")


def test_a_run_on_a_pod_outlives_the_connection_and_is_stopped(pod, tmp_path):
  (tmp_path / "exits").write_text("wait\n")
  assert pod(*ARGUMENTS) == 0
  wait_for((tmp_path / "waiting").exists)
  assert pod(*ARGUMENTS) == 1  # It runs already.
  number = int((tmp_path / "run.pid").read_text())
  assert pod("stop") == 0
  wait_for(lambda: not pathlib.Path(f"/proc/{number}").exists())
  command = ["-m", "tokenlearner_flexivit.main", "--multihost", *ARGUMENTS]
  assert starts(tmp_path) == [*command, "/a bucket", "TERM"]
  assert (tmp_path / "activated").exists()
  assert pod("stop") == 0  # Nothing to do.


@pytest.mark.parametrize(
  "script", sorted(LAUNCH.iterdir()), ids=lambda p: p.name
)
def test_scripts_are_bash(script):
  subprocess.run(["bash", "-n", script], check=True)
