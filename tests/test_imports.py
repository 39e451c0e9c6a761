"""Importing the library, as a service does that has its own streams and log."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def test_no_module_imports_tensorflow_or_pytorch():
  for path in (ROOT / "tokenlearner_flexivit").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      roots = {name.partition(".")[0] for name in names}
      assert not roots & {"tensorflow", "torch"}, path


@pytest.mark.processes
def test_imports_change_nothing_and_need_little(tmp_path):
  """No TensorFlow, no streams, no backend, and nothing said to the log.

  Every module imports where importing TensorFlow is an error.
  """
  code = """
import logging, pkgutil, sys
out = sys.stdout
sys.stdout = sys.stderr = None
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] == "tensorflow":
      raise AssertionError("imported tensorflow")
sys.meta_path.insert(0, Refuse())
import tokenlearner_flexivit as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
  __import__(module.name)
  assert not logging.root.handlers, module.name
assert "tensorflow" not in sys.modules
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
logging.info("the service is up")
out.write("imported")
"""
  path = tmp_path / "service.log"
  done = subprocess.run(
    [sys.executable, "-c", code, str(path)],
    cwd=ROOT,
    check=True,
    env={**os.environ, "MPLBACKEND": "module://no_such_backend"},
    stdout=subprocess.PIPE,
  )
  assert done.stdout == b"imported"
  assert "the service is up" in path.read_text()
