"""What the README shows works as it stands."""

import pathlib
import re

from tokenlearner_flexivit.train import setup

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(
  encoding="utf-8"
)


def code_after(heading: str, language: str) -> str:
  section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
  return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def test_the_config_describes_a_run():
  names = {}
  exec(code_after("A config", "python"), names)
  setup.Experiment(names["get_config"]())


def test_the_modules_alone(capsys):
  code = code_after("The modules alone", "python")
  exec(code, {})
  promised = re.search(r"# (\(.+\))$", code, re.MULTILINE)[1]
  assert capsys.readouterr().out.split() == promised.split()


def test_the_commands_name_what_is_there():
  root = pathlib.Path(__file__).parent.parent
  for name in set(re.findall(r"(?:configs|experiments)/[\w/.]+\w", README)):
    assert (root / name).exists(), name
