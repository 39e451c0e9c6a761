"""The similarity of features to a teacher's, by hand over a split."""

import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import parallel
from tokenlearner_flexivit.train import setup

MODEL = dict(variant="mu", depth=2, patch_size=(4, 4), posemb_grid=(3, 3))
PP = (
  "decode|copy('image','large')|value_range(-1,1)|resize(24,key='large')"
  "|value_range(-1,1,key='large')|keep('image','large')"
)


@pytest.fixture
def config(config):
  """A backbone with learned tokens, whose teacher sees larger images."""
  config.data.pp = PP
  config.model = MODEL | {"token_learner": dict(layer=1, num_tokens=2)}
  config.task = dict(
    name="feature_distillation",
    teachers=dict(
      self=dict(model=MODEL, patch_size=8, image="large", dtype="float32")
    ),
  )
  config.flexi = dict(
    patch_size=dict(values=(6, 4)), num_tokens=dict(values=(2, "all"))
  )
  data = dict(name="fake:12x12x3:5:21", split="test", pp=PP, num_threads=1)
  config.evals = dict(near=dict(type="similarity", data=data))
  return config


def cosine(a, b):
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return (a * b).sum(axis=-1) / lengths


def test_cosines_are_means_over_the_split(config, monkeypatch):
  """On eight devices; the last batch is padded."""
  experiment = setup.Experiment(config)
  task, evaluator = experiment.task, experiment.evaluators["near"]
  (teacher,) = task.teachers
  weights = tiny.init(teacher.model, np.zeros((1, 24, 24, 3)))
  params = tiny.init(task.model, np.zeros((1, 12, 12, 3)), scale=0.3)
  monkeypatch.setattr(type(teacher), "load", lambda _: weights)
  results = dict(evaluator.run(parallel.create().place(params)))

  examples = data_lib.eval_batches(
    config.evals.near.data.to_dict(),
    batch_size=21,
    process_index=0,
    process_count=1,
  )
  batch = next(iter(examples))
  known, out = tiny.apply(
    teacher.model, weights, batch["large"], patch_size=(8, 8)
  )
  for setting in experiment.dials.settings:
    representation, own = tiny.apply(
      task.model, params, batch["image"], **setting
    )
    expected = cosine(np.asarray(representation), np.asarray(known)).mean()
    value = results[f"{setting.name}/cosine"]
    assert value == pytest.approx(expected, rel=1e-4)
    assert abs(value) < 0.99
    assert results[f"{setting.name}/examples"] == 21
    name = f"{setting.name}/patch_cosine"
    assert (name in results) == (setting.num_tokens == "all")
    if setting == experiment.dials.settings[-1]:
      # Both have a grid of 3x3 there.
      patches = cosine(
        np.asarray(own["tokens_2d"]), np.asarray(out["tokens_2d"])
      )
      assert results[name] == pytest.approx(patches.mean(), rel=1e-4)


def test_only_a_task_with_a_teacher_of_features_is_compared(config):
  config.task = dict(name="classification")
  config.data.pp = "decode|value_range(-1,1)|keep('image','label')"
  with pytest.raises(
    ValueError, match=r"near\.type='similarity' cannot evaluate"
  ):
    setup.Experiment(config)
