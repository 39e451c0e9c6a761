"""What the README and its kin show is there, and works as it stands."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.train import setup

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# CHANGELOG.md names what is gone, too.
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "benchmarks" / "README.md",
  *sorted(ROOT.glob("docs/*.md")),
  *sorted(ROOT.glob("experiments/**/README.md")),
]
FOLDERS = "configs|docs|experiments|benchmarks|tests|launch|notebooks"
PACKAGES = "tokenlearner_flexivit|experiments|benchmarks"


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
  return request.param


def code_after(heading: str, language: str) -> str:
  section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
  return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def apply(function):
  return function()


def test_the_config_describes_a_run():
  names = {}
  exec(code_after("A config", "python"), names)
  setup.Experiment(names["get_config"]())


@pytest.mark.parametrize(
  "run", [jax.eval_shape, pytest.param(apply, marks=pytest.mark.slow)]
)
def test_the_modules_alone(run, capsys):
  """Shapes are all that it prints, so that tracing it is enough by default."""
  code = code_after("The modules alone", "python")
  run(lambda: exec(code, {}))
  promised = re.search(r"# (\(.+\))$", code, re.MULTILINE)[1]
  assert capsys.readouterr().out.split() == promised.split()


def test_files_and_links_lead_somewhere(page):
  text = page.read_text(encoding="utf-8")
  links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
  missing = [link for link in links if not (page.parent / link).exists()]
  names = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/.]*\w", text)
  missing += [name for name in names if not (ROOT / name).exists()]
  # Files of the package, such as `train/loop.py`.
  names = re.findall(r"`([a-z_]+/[\w/]+\.py)", text)
  places = (ROOT, ROOT / "tokenlearner_flexivit", page.parent)
  missing += [n for n in names if not any((p / n).exists() for p in places)]
  assert not missing


def test_commands_name_modules(page):
  text = page.read_text(encoding="utf-8")
  names = set(re.findall(rf"python -m\s+((?:{PACKAGES})[\w.]*\w)", text))
  names -= {"experiments.NAME.run", "tokenlearner_flexivit.analysis"}
  assert not [name for name in names if not importlib.util.find_spec(name)]


def test_suites_of_benchmarks_are_there(page):
  text = page.read_text(encoding="utf-8")
  for suites in re.findall(r"--suite=([a-z_,]+)", text):
    for suite in suites.split(","):
      assert (ROOT / "benchmarks" / f"{suite}.py").exists(), suite


def test_the_preprocessing_of_masks_moves_them():
  names = {}
  exec(code_after("Masks and boxes", "python"), names)
  example = {
    "image": np.zeros((100, 120, 3), np.uint8),
    "semantic": np.full((100, 120), 26, np.int32),  # Cars.
  }
  result = data.parse(names["pp"])(example, np.random.default_rng(0))
  assert result["image"].shape == (768, 768, 3)
  assert set(np.unique(result["semantic"])) == {13, 255}
