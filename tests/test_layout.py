"""The layout of the package: no circles of imports, few modules at the top."""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[1] / "tokenlearner_flexivit"
MOST_MODULES = 10


def _all_imports(path):
  """Yields the dotted names that a module imports."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    yield from names


def _imports(path):
  """Yields the dotted names inside the package that a module imports."""
  for name in _all_imports(path):
    package, _, rest = name.partition(".")
    if package == PACKAGE.name and rest:
      yield rest


def _rooms():
  """Returns the rooms that each imports: packages, and modules at the top."""
  rooms = {}
  for path in PACKAGE.rglob("*.py"):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    others = {name.split(".")[0] for name in _imports(path)} - {room}
    rooms.setdefault(room, set()).update(others)
  rooms.pop("__init__")
  return {room: others & rooms.keys() for room, others in rooms.items()}


def test_no_package_imports_one_that_imports_it():
  rooms = _rooms()
  while leaves := {room for room, others in rooms.items() if not others}:
    rooms = {
      room: others - leaves
      for room, others in rooms.items()
      if room not in leaves
    }
  assert not rooms, f"these import one another: {rooms}"


def test_few_modules_lie_at_the_top():
  modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
  assert len(modules) <= MOST_MODULES, sorted(modules)


def test_only_its_commands_and_the_report_import_analysis():
  importers = {
    room for room, others in _rooms().items() if "analysis" in others
  }
  assert importers == {"report"}


def test_nobody_else_names_a_kind_of_parallelism_or_an_axis():
  names = (
    r"""["']pmap["']|axis_name|jax\.(pmap|shard_map)"""
    r"""|lax\.(p(?!latform)[a-z]+|all_)"""
  )
  named = [
    f"{path.relative_to(PACKAGE)}: {line.strip()}"
    for path in PACKAGE.rglob("*.py")
    if path.parent.name != "parallel"
    for line in path.read_text(encoding="utf-8").splitlines()
    if re.search(names, line.replace('"', "'"))
  ]
  assert not named, named


def test_benchmarks_and_experiments_share_the_package_alone():
  """Neither imports the other, and the package imports none of them."""
  root, apart = PACKAGE.parent, ("benchmarks", "experiments")
  folders = {name: {*apart} - {name} for name in (*apart, PACKAGE.name)}
  for folder, others in folders.items():
    paths = [*(root / folder).rglob("*.py")]
    assert paths
    for path in paths:
      imported = {name.partition(".")[0] for name in _all_imports(path)}
      assert not imported & others, path
