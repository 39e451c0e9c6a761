"""A tiny trained model: 12 px, two patch sizes, two numbers of tokens."""

import json
import pathlib

import ml_collections
import pytest

from tests.conftest import write_untrained
from tokenlearner_flexivit.inference import Predictor
from tokenlearner_flexivit.models import cost
from tokenlearner_flexivit.train import setup

NAMES = ["ant", "bee", "cat", "dog", "elk"]
# Of patch size 6, then 3; with two learned tokens, then with all.
ACCURACIES = (0.5, 0.7, 0.6, 0.9)


@pytest.fixture(scope="session")
def parts() -> setup.Experiment:
  """What the config of the run describes."""
  pp = "decode|value_range(-1,1)|keep('image','label')"
  c = ml_collections.ConfigDict()
  c.batch_size = 8
  c.total_steps = 1
  c.data = dict(name="fake:12x12x3:5:8", split="train", pp=pp, num_threads=1)
  c.model = dict(
    width=16,
    depth=2,
    mlp_dim=16,
    num_heads=1,
    patch_size=(4, 4),
    posemb_grid=(3, 3),
    token_learner=dict(layer=1, num_tokens=3),
  )
  c.flexi = dict(
    patch_size=dict(values=(6, 3)), num_tokens=dict(values=(2, None))
  )
  c.optimizer = dict(name="adamw", lr=1e-2)
  c.evals = dict(
    test=dict(data=dict(name="fake:12x12x3:5:21", split="test", pp=pp))
  )
  return setup.Experiment(c)


@pytest.fixture(scope="session")
def run(parts, tmp_path_factory) -> pathlib.Path:
  """The workdir of a run that has ended, but for the training itself."""
  path = write_untrained(
    parts, tmp_path_factory.mktemp("run"), class_names=NAMES
  )
  rows = [
    {
      "patch_size": setting.patch_size[0],
      "num_tokens": setting.num_tokens,
      "accuracy": accuracy,
      "gmacs": cost.macs(parts.task.model, parts.image_shape, **setting) / 1e9,
      "images_per_s": 100.0,
    }
    for setting, accuracy in zip(parts.dials.settings, ACCURACIES, strict=True)
  ]
  (path / "report.json").write_text(json.dumps({"settings": rows}))
  return path


@pytest.fixture(scope="session")
def predictor(run) -> Predictor:
  return Predictor.load(run, max_batch=4)
