"""Reports lead to rows, claims, tables and figures, without any training."""

import json

import pytest

from experiments import study, throughput, training
from experiments.flexivit_curves import resized
from experiments.flexivit_curves import run as flexivit_curves
from experiments.quickstart import run as quickstart
from experiments.token_learner_placement import longer
from experiments.token_learner_placement import run as placement
from experiments.two_dials import run as two_dials
from experiments.video_token_learner import positions
from experiments.video_token_learner import run as videos
from tokenlearner_flexivit.models import patch_embed


@pytest.fixture
def measured(monkeypatch):
  """Stands in for what is measured of trained models."""
  monkeypatch.setattr(
    throughput, "measure", lambda models, side: {m: [1.0, 2.0] for m in models}
  )
  monkeypatch.setattr(positions, "effective_size_in_run", lambda workdir: 2.0)
  monkeypatch.setattr(training, "stored", lambda path, compute: compute())
  monkeypatch.setattr(two_dials.Predictor, "load", lambda workdir: None)
  scale = two_dials.STUDY.scales["cpu"]
  monkeypatch.setattr(
    two_dials, "speed", lambda model: dict.fromkeys(scale.settings, 3.0)
  )
  monkeypatch.setattr(
    flexivit_curves,
    "_speed",
    lambda scale: [
      {"size": size, "gmacs": 1 / size, "images_per_s": 1.0 * size}
      for size in scale.sizes
    ],
  )

  def evaluate(trial, scale, runs):
    row = {"trained": trial.trained, "size": trial.size}
    row |= {"scaled": trial.scaled, "accuracies": [0.5] * len(runs)}
    return [{**row, "method": method} for method in patch_embed.METHODS]

  monkeypatch.setattr(resized, "evaluate", evaluate)


def report_of(run):
  """Returns the report of a run that reached 40 to 60 % everywhere."""
  config = run.sections
  dials = config.get("flexi", {})
  sizes = config["evals"]["test"].get("patch_sizes")
  sizes = sizes or dials.get("patch_size", {"values": [None]})["values"]
  numbers = dials.get("num_tokens", {"values": [None]})["values"]
  settings = [
    {
      "patch_size": size,
      "num_tokens": number,
      "seq_len": 9,
      "accuracy": 0.4 + 0.1 * config["seed"],
      "gmacs": 1 / (size or 1),
      "images_per_s": 7.0,
    }
    for size in sizes
    for number in numbers
  ]
  return {
    "settings": settings,
    "num_params": 5,
    "config": config,
    "train": {"seconds": 1.0},
  }


@pytest.mark.parametrize(
  "module, figures",
  [
    (flexivit_curves, 10),
    (longer, 0),
    (placement, 1),
    (quickstart, 1),
    (two_dials, 1),
    (videos, 1),
  ],
  ids=lambda value: getattr(value, "__name__", ""),
)
def test_reports_lead_to_what_is_committed(module, figures, measured, tmp_path):
  declared = module.STUDY
  scale = declared.scales["cpu"]
  own = {"cells": ["at1_2"], "steps": ["1200"]}
  asked = study.Asked(workdir=tmp_path, scale="cpu", seeds=study.SEEDS, own=own)
  reports = {
    cell: [
      report_of(declared.training_run(asked, cell, seed))
      for seed in study.SEEDS
    ]
    for cell in declared.cells(asked, scale)
  }
  rows = list(declared.rows(study.Done(asked, scale, reports)))
  file = declared.folder / f"{declared.file}.json"
  committed = json.loads(file.read_text())["rows"]
  assert [set(row) for row in rows] == [set(row) for row in committed]
  outcome = declared.judge("cpu", study.SEEDS, json.loads(json.dumps(rows)))
  assert outcome.claims
  assert all(declared.tables(outcome).values())
  assert len(declared.figures(outcome)) == figures


def test_the_row_of_a_cell():
  def report(accuracy, gmacs):
    settings = [{"accuracy": accuracy, "gmacs": gmacs}]
    return {"settings": settings, "num_params": 7, "train": {"seconds": 2.0}}

  reports = {"a": [report(0.5, 2.0)], "b": [report(0.25, 1.0)] * 2}
  done = study.Done(study.Asked(), None, reports)
  assert done.row("b", baseline="a") == {
    "num_params": 7,
    "accuracy": {"mean": 0.25, "std": 0, "by_seed": [0.25, 0.25]},
    "gmacs": 1,
    "gmacs_ratio": 0.5,
    "train_seconds": [2, 2],
  }
