"""Every notebook is stripped, and runs from top to bottom, at a small size.

In a kernel of its own it does so under the mark `processes`.
"""

import ast
import importlib
import importlib.util
import pathlib

import nbclient
import nbformat
import pytest
from jupyter_client import kernelspec, manager
from matplotlib import pyplot

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"
# What takes the place of the cell that is tagged "parameters".
SMALL = {
  "inside": (
    "WORKDIR, IMAGE, NUM_IMAGES = '', '', 8\nSTEPS, WIDTH, DEPTH = 2, 32, 2"
  ),
  "pi_resize": "STORED, SIZES, PATCHES = 16, (24, 8), 500",
  "token_learner": (
    "STEPS, PATCH_SIZES, NUM_TOKENS, WIDTH, DEPTH = 4, (24, 12), 2, 32, 2"
  ),
}


def read(name):
  return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def small(name):
  """Returns the notebook with its parameters replaced."""
  notebook = read(name)
  (parameters,) = [
    cell
    for cell in notebook.cells
    if "parameters" in cell.metadata.get("tags", ())
  ]
  assert assigned(parameters.source) == assigned(SMALL[name])
  parameters.source = SMALL[name]
  return notebook


def assigned(source):
  nodes = ast.walk(ast.parse(source))
  return {node.id for node in nodes if isinstance(node, ast.Name)}


def test_no_notebook_is_forgotten():
  assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_is_stripped(name):
  for cell in read(name).cells:
    assert set(cell.metadata) <= {"tags"}, cell
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None, cell.source


@pytest.mark.parametrize("name", SMALL)
def test_what_is_imported_is_there(name):
  """Told in a second, other than by running it."""
  for cell in read(name).cells:
    if cell.cell_type != "code" or "%pip" in cell.source:
      continue
    source = cell.source.replace("%matplotlib inline", "")
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.ImportFrom):
        module = importlib.import_module(node.module)
        for alias in node.names:
          full = f"{node.module}.{alias.name}"
          there = hasattr(module, alias.name) or importlib.util.find_spec(full)
          assert there, full


def test_its_cells_run():
  """In this process, of the notebook that does not train."""
  pyplot.switch_backend("agg")
  names = {}
  for cell in small("pi_resize").cells:
    if cell.cell_type == "code" and "%pip" not in cell.source:
      exec(cell.source.replace("%matplotlib inline", ""), names)
  assert pyplot.get_fignums()
  pyplot.close("all")


@pytest.mark.parametrize("name", SMALL)
def test_has_the_parameters_that_make_it_small(name):
  small(name)


@pytest.mark.processes
@pytest.mark.parametrize("name", SMALL)
def test_runs(name, tmp_path, monkeypatch):
  notebook = small(name)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
  # Its workdirs go, and nothing of the user's own IPython comes in.
  for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
    monkeypatch.setenv(variable, str(tmp_path))
  kernel = manager.AsyncKernelManager(
    kernel_name="python3",
    # ipykernel's own, so this environment's Python, whatever is installed.
    kernel_spec_manager=kernelspec.KernelSpecManager(kernel_dirs=[]),
  )
  client = nbclient.NotebookClient(
    notebook, km=kernel, timeout=300, resources={"metadata": {"path": tmp_path}}
  )
  client.execute(cleanup_kc=True)

  outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
  errors = [out.text for out in outputs if out.get("name") == "stderr"]
  assert not errors
  pictures = [out for out in outputs if "image/png" in out.get("data", {})]
  assert pictures
