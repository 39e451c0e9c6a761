"""A program that imports the library keeps its own logging."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_no_import_configures_the_root_logger(tmp_path):
  code = """
import logging, pkgutil, sys
import tokenlearner_flexivit as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
  __import__(module.name)
  assert not logging.root.handlers, module.name
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
logging.info("the service is up")
"""
  path = tmp_path / "service.log"
  subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
  assert "the service is up" in path.read_text()
