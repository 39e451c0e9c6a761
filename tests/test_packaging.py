"""Tests the files that are installed, and the pinned tools."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_ruff_is_of_one_version():
  hooks = (ROOT / ".pre-commit-config.yaml").read_text()
  version = re.search(r"rev: v([\d.]+)", hooks)[1]
  assert f'"ruff=={version}"' in (ROOT / "setup.py").read_text()


def test_what_is_installed_has_the_configs(tmp_path):
  """Copies what `setup.py` needs, as a build writes beside it."""
  for name in ("setup.py", "README.md", "requirements.txt"):
    (tmp_path / name).write_bytes((ROOT / name).read_bytes())
  for name in ("tokenlearner_flexivit", "configs"):
    (tmp_path / name).symlink_to(ROOT / name)
  subprocess.run(
    [sys.executable, "setup.py", "-q", "build"],
    cwd=tmp_path,
    env={**os.environ, "PYTHONWARNINGS": "ignore"},
    capture_output=True,
    check=True,
  )
  built = tmp_path / "build" / "lib"
  assert (built / "configs" / "quickstart.py").exists()
  package = built / "tokenlearner_flexivit"
  assert (package / "py.typed").exists()
  assert (package / "data" / "rendered_scenes" / "builder.py").exists()
  assert {path.name for path in built.iterdir()} == {"configs", package.name}
