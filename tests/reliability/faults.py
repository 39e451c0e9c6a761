"""Faults other than a kill, each done to a run from outside.

Each begins a run, does the harm, starts the same command again and raises
`kills.RunError` unless the run ends as if nothing had happened.
"""

import contextlib
import pathlib
import re
import resource
import shutil
import signal
from collections.abc import Sequence

import cv2
import numpy as np
from sklearn import datasets

from tests.reliability import compare, kills, program
from tests.reliability.program import Program
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.train import preemption

# No file may grow beyond this while the disk is "full", in bytes; less than a
# checkpoint has, more than the metrics.
_FULL_BYTES = 40_000


class Fault:
  """One run to be harmed.

  Attributes:
    workdir: of the run.
  """

  def __init__(self, world: kills.World, name: str):
    """Clears the folder.

    Args:
      world: see `kills.World`.
      name: of the fault.
    """
    self.world = world
    self.reference = world.reference
    self.flags: list[str] = []
    self.config = ""
    self.environment: dict[str, str] = {}
    self.cache = world.cache
    self.workdir = world.folder / "faults" / name
    for folder in (self.workdir, kills.logs_of(self.workdir)):
      shutil.rmtree(folder, ignore_errors=True)

  def start(self, workdirs: Sequence[pathlib.Path] | None = None) -> Program:
    """Starts the run, or goes on with it."""
    return Program(
      workdirs or [self.workdir] * self.world.processes,
      kills.logs_of(self.workdir),
      self.cache,
      config=self.config,
      flags=self.flags,
      environment=self.environment,
    )

  def until_saved(self, run: Program, count: int) -> list[int]:
    """Waits until a start has saved `count` times; returns what is there."""
    first = max(program.finished_saves(self.workdir), default=0)

    def saved() -> bool:
      steps = program.finished_saves(self.workdir)
      return sum(step > first for step in steps) >= count

    check(run.until(saved, self.world.limit), f"no {count} checkpoints", run)
    return program.finished_saves(self.workdir)

  def interrupt(self) -> tuple[pathlib.Path, pathlib.Path]:
    """Kills a run that saved a few times: newest checkpoint, one before."""
    with self.start() as run:
      self.until_saved(run, 3)
    folder = self.workdir / "checkpoints"
    before, newest = program.finished_saves(self.workdir)[-2:]
    return folder / str(newest), folder / str(before)

  def finish(self) -> str:
    """Lets the run end by itself and compares it; returns what it printed."""
    with self.start() as run:
      codes = run.wait(self.world.limit)
      check(not any(codes), f"started again: exit codes {codes}", run)
    self.compare()
    return run.all_output()

  def compare(self) -> None:
    """Raises `kills.RunError` unless the result is the undisturbed run's."""
    differs = compare.differences(self.reference, compare.result(self.workdir))
    if differs:
      parts = ", ".join(f"{part} ({len(n)})" for part, n in differs.items())
      raise kills.RunError(f"these differ at the end: {parts}")


def check(holds: bool, otherwise: str, run: Program | None = None) -> None:
  """Raises `kills.RunError` with the run's last line unless `holds`."""
  if not holds:
    lines = run.all_output().strip().splitlines() if run else []
    said = f"; it said {lines[-1]!r}" if lines else ""
    raise kills.RunError(f"{otherwise}{said}")


def a_byte_of_the_newest_checkpoint_flipped(fault: Fault) -> str:
  """The run continues from the checkpoint before and names both."""
  newest, before = fault.interrupt()
  path = max(
    (p for p in newest.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  return _fell_back(fault.finish(), newest, before)


def half_of_the_newest_checkpoint_missing(fault: Fault) -> str:
  """The run continues from the checkpoint before and names both."""
  newest, before = fault.interrupt()
  files = sorted(p for p in newest.rglob("*") if p.is_file())
  for path in files[::2]:
    path.unlink()
  return _fell_back(fault.finish(), newest, before)


def _fell_back(output: str, newest: pathlib.Path, before: pathlib.Path) -> str:
  check(str(newest) in output, f"nothing was said of {newest.name}")
  check(
    f"Training steps {int(before.name) + 1} to" in output,
    f"it did not continue from {before.name}",
  )
  return f"{newest.name} was named, and {before.name} continued"


def metrics_file_cut_in_a_line(fault: Fault) -> str:
  """A record that a crash left half written does no harm."""
  fault.interrupt()
  path = fault.workdir / metric_log.METRICS_FILE
  records = path.read_text(encoding="utf-8").splitlines()
  path.write_text(
    "\n".join([*records, records[-1][: len(records[-1]) // 2]]),
    encoding="utf-8",
  )
  fault.finish()
  return "all records are there, once"


def compiled_programs_cut_in_half(fault: Fault) -> str:
  """They are compiled anew."""
  fault.cache = fault.workdir.with_name(f"{fault.workdir.name}_compiled")
  shutil.rmtree(fault.cache, ignore_errors=True)
  shutil.copytree(fault.world.cache, fault.cache)
  for path in fault.cache.iterdir():
    with path.open("r+b") as file:
      file.truncate(path.stat().st_size // 2)
  fault.finish()
  shutil.rmtree(fault.cache)
  return "compiled anew"


def ctrl_c(fault: Fault) -> str:
  """SIGINT saves at the next step and exits with 75."""
  with fault.start() as run:
    fault.until_saved(run, 1)
    run.send(signal.SIGINT)
    codes = run.wait(fault.world.limit)
    check(codes == [preemption.EXIT_CODE], f"exit codes {codes}", run)
  step = max(program.finished_saves(fault.workdir))
  fault.finish()
  return f"exit code {preemption.EXIT_CODE}, saved at step {step}"


def two_runs_on_one_workdir(fault: Fault) -> str:
  """Started at once, one refuses with an error; the other ends."""
  with fault.start() as one, fault.start() as two:
    codes = one.wait(fault.world.limit) + two.wait(fault.world.limit)
    check(codes.count(0) == 1, f"exit codes {codes}", two)
    refused = two if codes[0] == 0 else one
    said = _last_error(_fails(fault, refused))
    check(str(fault.workdir) in said, "the workdir is not named", refused)
    check(refused.step is None, "both trained", refused)
  fault.compare()
  return said


def disk_full_for_a_while(fault: Fault) -> str:
  """The run says so, trains on, and saves again when it can."""

  def warned() -> bool:
    return bool(re.search(r"(?i)warning.*checkpoint", run.all_output()))

  with fault.start() as run:
    steps = fault.until_saved(run, 1)
    with _full_disk(run):
      check(run.until(warned, fault.world.limit), "nothing was said", run)
      left = program.finished_saves(fault.workdir)
    codes = run.wait(fault.world.limit)
    check(codes == [0], f"exit codes {codes}", run)
  check(set(steps) <= set(left), "the old checkpoint is gone")
  fault.compare()
  return f"it warned and kept step {left[-1]}, then saved again"


def disk_full_for_good(fault: Fault) -> str:
  """The run stops with an error; with room it continues."""
  with fault.start() as run:
    fault.until_saved(run, 1)
    with _full_disk(run):
      said = _last_error(_fails(fault, run))
    step = run.step
  fault.finish()
  return f"stopped after step {step}: {said}"


@contextlib.contextmanager
def _full_disk(run: Program):
  """No file of a program can grow beyond a small size inside."""
  pids = [process.pid for process in run.processes]
  hard = resource.RLIM_INFINITY
  for pid in pids:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, hard))
  yield
  for pid in pids:
    with contextlib.suppress(ProcessLookupError):
      resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def workdir_deleted(fault: Fault) -> str:
  """The run stops with an error; started again it begins anew."""
  with fault.start() as run:
    fault.until_saved(run, 1)
    # Set aside at once: a folder in use cannot be emptied file by file.
    aside = fault.workdir.with_name(f"{fault.workdir.name}_aside")
    fault.workdir.rename(aside)
    shutil.rmtree(aside)
    said = _last_error(_fails(fault, run))
    step = run.step
  shutil.rmtree(fault.workdir, ignore_errors=True)
  fault.finish()
  return f"stopped after step {step}: {said}"


def a_corrupt_image(fault: Fault) -> str:
  """The run stops and names the file; with the file mended it continues."""
  image = _use_images(fault)
  fault.reference, _ = kills.undisturbed(
    fault.workdir, fault.cache, 1, config=fault.config
  )
  shutil.rmtree(fault.workdir)
  whole = _cut_in_half(image)
  with fault.start() as run:
    said = _fails(fault, run)
    check(str(image) in said, f"{image} is not named", run)
    step = run.step
  image.write_bytes(whole)
  fault.finish()
  return f"stopped after step {step} and named the file"


def a_corrupt_image_where_one_is_allowed(fault: Fault) -> str:
  """The run names and skips the file, after a restart just so."""
  image = _use_images(fault)
  _cut_in_half(image)
  fault.flags = ["--config.data.max_corrupt=1"]
  fault.reference, _ = kills.undisturbed(
    fault.workdir, fault.cache, 1, config=fault.config, flags=fault.flags
  )
  shutil.rmtree(fault.workdir)
  fault.interrupt()
  output = fault.finish()
  check(str(image) in output, f"{image} is not named")
  return "named the file and trained on"


def _use_images(fault: Fault) -> pathlib.Path:
  """Makes class folders the run's data; returns one of the training images."""
  images = fault.workdir.with_name(f"{fault.workdir.name}_images")
  digits = datasets.load_digits()
  for i in range(360):
    split = "train" if i % 4 else "test"
    path = images / split / str(digits.target[i]) / f"{i:04}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.uint8(digits.images[i] * 255 / 16))
  fault.config = f"images={images}"
  return max((images / "train").rglob("*.png"))


def _cut_in_half(path: pathlib.Path) -> bytes:
  """Cuts a file in half; returns what it held."""
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  return content


def a_clock_that_jumps(fault: Fault) -> str:
  """It is set ahead by a day while the run trains, and back after a restart."""
  # Python reads this file before anything else.
  folder = fault.workdir.with_name(f"{fault.workdir.name}_clock")
  folder.mkdir(exist_ok=True)
  (folder / "sitecustomize.py").write_text(
    "import os, time\n"
    "real, start = time.time, time.monotonic()\n"
    "after, by = float(os.environ['AFTER']), float(os.environ['BY'])\n"
    "time.time = lambda: real() + by * (time.monotonic() - start > after)\n",
    encoding="utf-8",
  )
  timeline = fault.world.timeline
  after = timeline["start"] + timeline["training"] / 3
  fault.environment = {
    "PYTHONPATH": str(folder),
    "AFTER": str(after),
    "BY": "86400",
  }
  fault.interrupt()
  fault.environment["BY"] = "-86400"
  fault.finish()
  return "nothing"


def workdirs_that_differ(fault: Fault) -> str:
  """Hosts that do not share the workdir find out at the start."""
  others = [
    fault.workdir.with_name(f"{fault.workdir.name}_{i}")
    for i in range(fault.world.processes)
  ]
  with fault.start(others) as run:
    said = _last_error(_fails(fault, run))
    check(run.step is None, "found only after training", run)
  for other in others:
    shutil.rmtree(other, ignore_errors=True)
  return said


def _fails(fault: Fault, run: Program) -> str:
  """Waits for the end, which must be an error; returns all output."""
  codes = run.wait(fault.world.limit)
  good = {0, preemption.EXIT_CODE}
  check(not good & set(codes), f"no error: exit codes {codes}", run)
  return run.all_output()


def _last_error(output: str) -> str:
  """The last exception that was printed, ours rather than another's."""
  for kind in (r"tokenlearner_flexivit\S*Error", r"\w*Error"):
    if found := re.findall(rf"^{kind}: .*", output, re.MULTILINE):
      return found[-1][:300]
  return "nothing was said"


OF_ONE_PROCESS = (
  a_byte_of_the_newest_checkpoint_flipped,
  half_of_the_newest_checkpoint_missing,
  metrics_file_cut_in_a_line,
  compiled_programs_cut_in_half,
  ctrl_c,
  two_runs_on_one_workdir,
  disk_full_for_a_while,
  disk_full_for_good,
  workdir_deleted,
  a_corrupt_image,
  a_corrupt_image_where_one_is_allowed,
  a_clock_that_jumps,
)
OF_SEVERAL = (workdirs_that_differ,)
