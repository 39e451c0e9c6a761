"""A tiny trained model: 12 px, two patch sizes, two numbers of tokens."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tokenlearner_flexivit import checkpoint, experiment
from tokenlearner_flexivit import workdir as workdir_lib
from tokenlearner_flexivit.analysis import flops
from tokenlearner_flexivit.inference import Predictor

NAMES = ["ant", "bee", "cat", "dog", "elk"]
# Of patch size 6, then 3; with two learned tokens, then with all.
ACCURACIES = (0.5, 0.7, 0.6, 0.9)


@pytest.fixture(scope="session")
def parts() -> experiment.Experiment:
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
  return experiment.Experiment(c)


@pytest.fixture(scope="session")
def run(parts, tmp_path_factory) -> pathlib.Path:
  """The workdir of a run that has ended, but for the training itself."""
  path = tmp_path_factory.mktemp("run")
  about = {**parts.about_data, "class_names": NAMES}
  workdir_lib.claim_workdir(path, parts.config, about)
  checkpoints = checkpoint.Checkpoints(path, 1, parts.config)
  rng = np.random.default_rng(0)
  shape = parts.image_shape
  shapes = jax.eval_shape(
    parts.task.model.init, jax.random.key(0), jnp.zeros((1, *shape))
  )
  # Zeros, as the head starts with, would hide what depends on what.
  params = jax.tree.map(
    lambda x: jnp.float32(0.3 * rng.normal(size=x.shape)), shapes["params"]
  )
  checkpoints.save(0, {"params": params, "ema": None}, must=True)
  checkpoints.close()
  rows = [
    {
      "patch_size": setting.patch_size[0],
      "num_tokens": setting.num_tokens,
      "accuracy": accuracy,
      "gmacs": flops.macs(parts.task.model, shape, *setting) / 1e9,
      "images_per_s": 100.0,
    }
    for setting, accuracy in zip(parts.dials.settings, ACCURACIES, strict=True)
  ]
  (path / "report.json").write_text(json.dumps({"settings": rows}))
  return path


@pytest.fixture(scope="session")
def predictor(run) -> Predictor:
  return Predictor.load(run, max_batch=4)
