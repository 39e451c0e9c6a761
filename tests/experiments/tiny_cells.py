"""Trains the cells of studies on few tiny images."""

import json
import pathlib
from typing import Any

import ml_collections

from experiments import training
from tokenlearner_flexivit import train


def train_cell(
  c: ml_collections.ConfigDict, workdir: pathlib.Path, cell: str
) -> dict[str, Any]:
  """Returns the report of a cell's training with seed 0, at the scale "cpu".

  Args:
    c: the config of the cell; its data become tiny rendered scenes.
    workdir: of the study.
    cell: its name.
  """
  for section in (c.data, *(e.data for e in c.evals.values())):
    section.name = "rendered_scenes/tiny"
    section.split = section.split.partition("[")[0]  # It has few.
  folder = workdir / training.run_name(cell, 0, "cpu")
  train.train_and_evaluate(c, folder)
  return json.loads((folder / "report.json").read_text(encoding="utf-8"))
