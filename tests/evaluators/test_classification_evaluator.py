"""Metrics by hand, and evaluation of every setting in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, parallel
from tokenlearner_flexivit import experiment as experiment_lib
from tokenlearner_flexivit.evaluators import classification


def sums_of(probabilities, labels, mask=None):
  probabilities = jnp.asarray(probabilities, jnp.float32)
  labels = jax.nn.one_hot(jnp.asarray(labels), probabilities.shape[-1])
  logits = jnp.log(probabilities)
  losses = -(labels * logits).sum(axis=-1)
  mask = jnp.ones(len(labels)) if mask is None else jnp.asarray(mask)
  return jax.device_get(
    classification.batch_sums(logits, probabilities, labels, losses, mask)
  )


def test_metrics_by_hand():
  probabilities = [[0.7, 0.2, 0.1], [0.25, 0.4, 0.35], [0.05, 0.05, 0.9]]
  metrics = classification.metrics_of(sums_of(probabilities, [0, 2, 2]))
  assert metrics["accuracy"] == pytest.approx(2 / 3)
  assert metrics["top5"] == 1.0  # Of three classes, all are in the top five.
  loss = -(np.log(0.7) + np.log(0.35) + np.log(0.9)) / 3
  assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
  # Three examples in three bins: |0.7 - 1| + |0.4 - 0| + |0.9 - 1|.
  assert metrics["ece"] == pytest.approx((0.3 + 0.4 + 0.1) / 3, rel=1e-5)


def test_ece_is_zero_for_a_calibrated_classifier():
  # Ten predictions of 0.8, eight of them right.
  metrics = classification.metrics_of(
    sums_of([[0.8, 0.2]] * 10, [0] * 8 + [1] * 2)
  )
  assert metrics["ece"] == pytest.approx(0, abs=1e-6)


def test_top5_of_many_classes():
  ranked = np.linspace(2, 1, 10)[None] / np.linspace(2, 1, 10).sum()
  rows = np.repeat(ranked, 2, axis=0)
  metrics = classification.metrics_of(sums_of(rows, [4, 5]))
  assert (metrics["accuracy"], metrics["top5"]) == (0.0, 0.5)


def test_padding_does_not_count_even_if_it_is_not_a_number():
  probabilities = [[0.7, 0.3], [np.nan, np.nan]]
  masked = sums_of(probabilities, [0, 0], mask=[1.0, 0.0])
  for name, value in sums_of(probabilities[:1], [0]).items():
    if name != "bin_confidence":
      np.testing.assert_allclose(masked[name], value, rtol=1e-6)


def test_examples_without_any_label_do_not_count():
  """As in ImageNet-ReaL, whose other images have one label or several."""
  logits = jnp.asarray([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
  labels = jnp.asarray([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  probabilities = jax.nn.softmax(logits)
  losses, mask = jnp.asarray([1.0, 9.0, 3.0]), jnp.ones(3)
  sums = jax.device_get(
    classification.batch_sums(logits, probabilities, labels, losses, mask)
  )
  metrics = classification.metrics_of(sums)
  assert (metrics["accuracy"], metrics["loss"]) == (0.5, 2.0)
  sums = classification.batch_sums(
    logits, probabilities, jnp.zeros((3, 3)), losses, mask
  )
  with pytest.raises(ValueError, match="No example of the evaluation has"):
    classification.metrics_of(jax.device_get(sums))


def test_every_example_once_for_every_setting_in_one_pass(config, monkeypatch):
  """The sums over a ragged split are those of one batch with all of it."""
  reads = []
  original = data_lib.eval_batches

  def counting(*args, **kwargs):
    for batch in original(*args, **kwargs):
      reads.append(batch)
      yield batch

  monkeypatch.setattr(data_lib, "eval_batches", counting)
  experiment = experiment_lib.Experiment(config)
  evaluator = experiment.evaluators["test"]
  assert evaluator.num_examples == 21  # In batches of 16: 16 and 5.
  params = experiment.task.init(jax.random.key(0), (12, 12, 3))
  noise = np.random.default_rng(0).standard_normal
  params["head"]["kernel"] = jnp.asarray(noise((32, 5)), jnp.float32)
  results = dict(evaluator.run(parallel.replicate(params)))
  assert len(reads) == 2
  assert len(results) == 3 * 4

  images = np.concatenate([b["image"] for b in reads])
  labels = np.concatenate([b["label"] for b in reads])
  keep = np.concatenate([b["mask"] for b in reads]) > 0
  for size in (6, 4, 3):
    logits = jax.jit(experiment.task.predict, static_argnums=2)(
      params, {"image": images[keep]}, dials.Setting((size, size))
    )
    accuracy = np.mean(np.argmax(logits, axis=-1) == labels[keep])
    assert results[f"patch{size}/accuracy"] == pytest.approx(accuracy)
    losses = experiment.task.example_loss(
      logits, jax.nn.one_hot(labels[keep], 5)
    )
    expected = float(losses.mean())
    assert results[f"patch{size}/loss"] == pytest.approx(expected, rel=1e-5)


def test_other_patch_sizes_than_those_of_training(config):
  config.evals.test.patch_sizes = (12, 2)
  evaluator = experiment_lib.Experiment(config).evaluators["test"]
  assert [s.name for s in evaluator.settings] == ["patch12", "patch2"]
  config.evals.test.num_tokens = (2, None)
  evaluator = experiment_lib.Experiment(config).evaluators["test"]
  assert [s.name for s in evaluator.settings] == [
    "patch12_tok2",
    "patch12_tokall",
    "patch2_tok2",
    "patch2_tokall",
  ]
  config.evals.test.num_tokens = (4,)  # It learns three.
  with pytest.raises(ValueError, match="num_tokens=4 is out of range"):
    experiment_lib.Experiment(config)
