"""Tests the files that are installed, and the pinned tools."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).parent.parent


def test_ruff_is_of_one_version():
  hooks = (ROOT / ".pre-commit-config.yaml").read_text()
  version = re.search(r"rev: v([\d.]+)", hooks)[1]
  assert f'"ruff=={version}"' in (ROOT / "setup.py").read_text()


def _run_setup(folder, command):
  """Runs `setup.py` on a copy, as it writes beside what it reads."""
  for path in ROOT.glob("*.*"):
    if path.is_file():
      (folder / path.name).write_bytes(path.read_bytes())
  for name in ("tokenlearner_flexivit", "configs", "tests"):
    (folder / name).symlink_to(ROOT / name)
  subprocess.run(
    [sys.executable, "setup.py", "-q", command],
    cwd=folder,
    env={**os.environ, "PYTHONWARNINGS": "ignore"},
    capture_output=True,
    check=True,
  )


def test_what_is_installed_has_the_configs(tmp_path):
  _run_setup(tmp_path, "build")
  built = tmp_path / "build" / "lib"
  assert (built / "configs" / "quickstart.py").exists()
  package = built / "tokenlearner_flexivit"
  assert (package / "py.typed").exists()
  assert (package / "data" / "rendered_scenes" / "builder.py").exists()
  assert {path.name for path in built.iterdir()} == {"configs", package.name}


def test_the_source_archive_builds_and_has_no_tests(tmp_path):
  _run_setup(tmp_path, "sdist")
  (archive,) = (tmp_path / "dist").iterdir()
  with tarfile.open(archive) as file:
    names = {pathlib.Path(*pathlib.Path(n).parts[1:]) for n in file.getnames()}
  # All that `setup.py` reads.
  for name in ("README.md", "requirements.txt", "setup.py"):
    assert pathlib.Path(name) in names
  assert not [name for name in names if name.parts[:1] == ("tests",)]
