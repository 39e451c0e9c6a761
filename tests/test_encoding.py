"""Text files are UTF-8, whatever the locale is."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("tokenlearner_flexivit", "configs", "benchmarks", "experiments")
PATHS = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")]


def is_text(call):
  """Tells whether a call opens a file as text."""
  if isinstance(call.func, ast.Name):
    mode = call.args[1:2] if call.func.id == "open" else None
  elif not isinstance(call.func, ast.Attribute):
    return False
  elif call.func.attr in ("read_text", "write_text"):
    return True
  else:
    mode = call.args[:1] if call.func.attr == "open" else None
    # Without a mode it may be a picture's or a video's.
    mode = mode or None
  if mode is None:
    return False
  mode = mode[0] if mode else ast.Constant("r")
  return isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rwax+")


@pytest.mark.parametrize(
  "line, expected",
  [
    ("open(p)", True),
    ("open(p, 'w')", True),
    ("open(p, 'rb')", False),
    ("p.open('a')", True),
    ("p.open('wb')", False),
    ("Image.open(p)", False),
    ("(p / 'x').read_text()", True),
    ("p.read_bytes()", False),
  ],
)
def test_is_text(line, expected):
  assert is_text(ast.parse(line).body[0].value) == expected


def test_every_text_file_has_an_encoding():
  missing = []
  for path in [*PATHS, ROOT / "setup.py"]:
    for node in ast.walk(ast.parse(path.read_bytes())):
      if isinstance(node, ast.Call) and is_text(node):
        names = {keyword.arg for keyword in node.keywords}
        if not names & {"encoding", "mode"}:
          missing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
  assert not missing, f"encoding='utf-8' is missing: {', '.join(missing)}"
