"""Ensembles of patch sizes against NumPy, and their cost."""

import numpy as np
import pytest

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, parallel
from tokenlearner_flexivit.evaluators import ensemble
from tokenlearner_flexivit.models import cost
from tokenlearner_flexivit.train import setup

WHERE = "config.evals.ens.groups"
SETTINGS = tuple(dials.Setting((p, p)) for p in (6, 4, 3))


@pytest.fixture
def config(config):
  config.model.depth = 1
  config.model.token_learner = None
  config.evals.test.type = "ensemble"
  return config


def names(groups):
  groups = ensemble.read_groups(groups, SETTINGS, WHERE)
  return [ensemble.group_name(group) for group in groups]


def test_by_default_every_pair_and_all_together():
  pairs = ["patch6+patch4", "patch6+patch3", "patch4+patch3"]
  assert names(None) == [*pairs, "patch6+patch4+patch3"]
  two = ensemble.read_groups(None, SETTINGS[:2], WHERE)
  assert two == (SETTINGS[:2],)  # All is a pair.


def test_groups_of_the_config():
  assert names([[3, 6], [6, [4, 4], 3]]) == [
    "patch3+patch6",
    "patch6+patch4+patch3",
  ]


@pytest.mark.parametrize(
  "groups, message",
  [
    ([[6, 4], [6, 5]], r"\(5, 5\) of \[6, 5\] .*patch6, patch4, patch3.*Name"),
    ([[6]], "must be two or more different"),
    ([6, 4], "6 must be two or more different"),
    ([[6, 6]], "must be two or more different"),
    ([[6, 4], [4, 6]], r"groups has \[4, 6\] twice"),
    ([[6, "4"]], "no patch size"),
    (6, r"groups=6 must be a list"),
    ([], "groups is empty"),
  ],
)
def test_groups_that_are_none(groups, message):
  with pytest.raises(ValueError, match=message):
    names(groups)


def test_one_patch_size_is_no_ensemble(config):
  config.flexi.patch_size.values = (6,)
  with pytest.raises(ValueError, match=r"at least two patch sizes, .* patch6"):
    setup.Experiment(config)


@pytest.mark.parametrize("groups", [None, [[3, 6]]])
def test_ensembles_are_those_of_numpy_on_the_whole_split(
  config, groups, monkeypatch
):
  """Linear maps stand in for the model under its settings."""
  noise = np.random.default_rng(0).standard_normal
  params = {s.name: noise((432, 9)).astype(np.float32) for s in SETTINGS}

  def predict(params, batch, setting):
    return batch["image"].reshape(-1, 432) @ params[setting.name]

  config.evals.test.groups = groups
  config.data.name = "fake:12x12x3:9:64"
  config.evals.test.data.name = "fake:12x12x3:9:21"
  experiment = setup.Experiment(config)
  monkeypatch.setattr(experiment.task, "predict", predict)
  evaluator = experiment.evaluators["test"]
  results = dict(evaluator.run(parallel.create().place(params)))
  counts = {v for k, v in results.items() if k.endswith("/examples")}
  assert counts == {21}  # In batches of 16: 16 and 5.

  data = config.evals.test.data.to_dict()
  (batch,) = data_lib.eval_batches(data, batch_size=21)
  labels = batch["label"]
  answers, accuracies, gmacs = {}, {}, {}
  for setting in SETTINGS:
    logits = predict(params, batch, setting).astype(np.float64)
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    answers[setting] = exp / exp.sum(axis=-1, keepdims=True)
    right = answers[setting].argmax(axis=-1) == labels
    accuracies[setting] = np.mean(right)
    assert results[f"{setting.name}/accuracy"] == pytest.approx(np.mean(right))
    macs = cost.macs(experiment.task.model, (12, 12, 3), **setting)
    gmacs[setting] = macs / 1e9
  assert len(evaluator.groups) == (1 if groups else 4)
  for group in evaluator.groups:
    mean = np.mean([answers[setting] for setting in group], axis=0)
    total = sum(gmacs[setting] for setting in group)
    affordable = [s for s in gmacs if gmacs[s] <= total]
    expected = {
      "accuracy": np.mean(mean.argmax(axis=-1) == labels),
      "top5": np.mean(
        (mean.argsort(axis=-1)[:, -5:] == labels[:, None]).any(1)
      ),
      "loss": -np.log(mean[np.arange(21), labels]).mean(),
      "gmacs": total,
      "single_accuracy": max(accuracies[s] for s in affordable),
    }
    name = ensemble.group_name(group)
    metrics = {key: results[f"{name}/{key}"] for key in expected}
    assert metrics == pytest.approx(expected, rel=1e-4)
  assert len(results) == 5 * 3 + 8 * len(evaluator.groups)
  speed = evaluator.throughput(parallel.create().place(params), repeats=1)
  assert tuple(speed) == SETTINGS and min(speed.values()) > 0


def test_the_best_single_setting_costs_no_more(config):
  """The best of all is out of reach of the cheap pair, not of the dear."""
  config.flexi.patch_size.values = (6, 4, 2)
  evaluator = setup.Experiment(config).evaluators["test"]
  six, four, two = evaluator.settings
  accuracies = {(six,): 0.5, (four,): 0.4, (two,): 0.9}
  metrics = {group: {"accuracy": v} for group, v in accuracies.items()}
  macs = {six: 1e9, four: 2e9, two: 9e9}
  cheap = evaluator._comparison((six, four), metrics, macs)
  dear = evaluator._comparison((six, two), metrics, macs)
  assert (cheap["single_accuracy"], dear["single_accuracy"]) == (0.5, 0.9)
  assert (cheap["gmacs"], dear["gmacs"]) == (3, 10)
  assert (cheap["single_gmacs"], dear["single_gmacs"]) == (1, 9)
