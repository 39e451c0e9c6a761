"""Metrics by hand, and evaluation of every setting in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, parallel
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.tasks import labels as labels_lib
from tokenlearner_flexivit.train import setup

batch_sums = jax.jit(classification.batch_sums)


def fresh(experiment):
  return tiny.init(experiment.task.model, np.zeros((1, 12, 12, 3)))


def metrics_of(sums):
  return classification.metrics_from_sums(sums, "config.evals.test")


def sums_of(probabilities, labels, mask=None):
  probabilities = jnp.asarray(probabilities, jnp.float32)
  mask = jnp.ones(len(labels)) if mask is None else jnp.asarray(mask)
  return jax.device_get(_sums(probabilities, jnp.asarray(labels), mask))


@jax.jit
def _sums(probabilities, labels, mask):
  labels = jax.nn.one_hot(labels, probabilities.shape[-1])
  logits = jnp.log(probabilities)
  losses = -(labels * logits).sum(axis=-1)
  return classification.batch_sums(logits, probabilities, labels, losses, mask)


def test_metrics_by_hand():
  probabilities = [[0.7, 0.2, 0.1], [0.25, 0.4, 0.35], [0.05, 0.05, 0.9]]
  metrics = metrics_of(sums_of(probabilities, [0, 2, 2]))
  assert metrics["accuracy"] == pytest.approx(2 / 3)
  assert "top5" not in metrics  # Of three classes, all are in the top five.
  assert metrics["examples"] == 3
  loss = -(np.log(0.7) + np.log(0.35) + np.log(0.9)) / 3
  assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
  # Three examples in three bins: |0.7 - 1| + |0.4 - 0| + |0.9 - 1|.
  assert metrics["ece"] == pytest.approx((0.3 + 0.4 + 0.1) / 3, rel=1e-5)


def test_ece_is_zero_for_a_calibrated_classifier():
  # Ten predictions of 0.8, eight of them right.
  metrics = metrics_of(sums_of([[0.8, 0.2]] * 10, [0] * 8 + [1] * 2))
  assert metrics["ece"] == pytest.approx(0, abs=1e-6)


def test_top5_of_many_classes():
  ranked = np.linspace(2, 1, 10)[None] / np.linspace(2, 1, 10).sum()
  rows = np.repeat(ranked, 2, axis=0)
  metrics = metrics_of(sums_of(rows, [4, 5]))
  assert (metrics["accuracy"], metrics["top5"]) == (0.0, 0.5)


def test_padding_does_not_count_even_if_it_is_not_a_number():
  probabilities = [[0.7, 0.3], [np.nan, np.nan]]
  masked = sums_of(probabilities, [0, 0], mask=[1.0, 0.0])
  for name, value in sums_of(probabilities[:1], [0]).items():
    if name != "bin_confidence":
      np.testing.assert_allclose(masked[name], value, rtol=1e-6)


def test_an_answer_that_is_not_a_number_is_not_right():
  nan = [np.nan] * 3
  sums = sums_of([[0.7, 0.2, 0.1], nan, nan], [0, 0, 2])
  assert (sums["correct"], sums["count"]) == (1, 3)
  assert np.isnan(sums["loss"])


def test_examples_without_any_label_do_not_count():
  """As in ImageNet-ReaL, whose other images have one label or several."""
  logits = jnp.asarray([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
  labels = jnp.asarray([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  probabilities = jax.nn.softmax(logits)
  losses, mask = jnp.asarray([1.0, 9.0, 3.0]), jnp.ones(3)
  sums = jax.device_get(batch_sums(logits, probabilities, labels, losses, mask))
  metrics = metrics_of(sums)
  assert (metrics["accuracy"], metrics["loss"]) == (0.5, 2.0)
  sums = batch_sums(logits, probabilities, jnp.zeros((3, 3)), losses, mask)
  with pytest.raises(ValueError, match=r"No example of .*test\.data has a"):
    metrics_of(jax.device_get(sums))


@pytest.mark.parametrize(
  "weights, right",
  [
    ([1, 0, 0, 0], [0]),
    ([1, 1, 0, 1], [0, 1, 3]),
    ([1, 1, 1, 1], [0, 1, 2, 3]),
    ([0, 0, 0, 0], []),
    # Smoothed: one class, two, none and all.
    ([0.9, 0.0001, 0.0001, 0.0001], [0]),
    ([0.15, 0.15, 0.55, 0.15], [2]),
    ([0.6, 0.4, 0.4, 0.6], [0, 3]),
    ([0.05, 0.05, 0.05, 0.05], []),
    ([0.95, 0.95, 0.95, 0.95], [0, 1, 2, 3]),
    # Mixed, and two of ImageNet-ReaL that share one label.
    ([0, 0.7, 0.3, 0], [1]),
    ([0, 0.5, 0.5, 0], [1, 2]),
  ],
)
def test_which_classes_are_right(weights, right):
  weights = jnp.asarray([weights], jnp.float32)
  is_right = labels_lib.right_classes(weights)[0]
  assert np.flatnonzero(is_right).tolist() == right


def test_wrong_answers_stay_wrong_under_smoothed_labels():
  """Once every class of positive weight was right."""
  pp = data_lib.parse("onehot(6, on=0.9, off=0.02)")
  labels = jnp.stack([pp({"label": c})["label"] for c in (1, 2, 5)])
  logits = jnp.asarray([[5.0, 4, 3, 2, 1, 0]] * 3)
  probabilities = jax.nn.softmax(logits)
  sums = batch_sums(logits, probabilities, labels, jnp.zeros(3), jnp.ones(3))
  metrics = metrics_of(jax.device_get(sums))
  assert metrics["accuracy"] == 0
  assert metrics["top5"] == pytest.approx(2 / 3)
  ece = float(probabilities[0].max())
  assert metrics["ece"] == pytest.approx(ece, rel=1e-5)


def test_all_evaluators_share_the_programs_of_the_model(config, monkeypatch):
  """Each setting is traced once, whatever asks for it, and each measure."""
  config.model.token_learner = None
  config.model.depth = 1
  config.flexi.patch_size.values = (6, 4)
  section = config.evals.test.to_dict()
  config.evals = {f"test{i}": section for i in range(3)}
  config.evals.together = {**section, "type": "ensemble"}
  experiment = setup.Experiment(config)
  traces = []
  predict, one_hot = experiment.task.predict, experiment.task.one_hot

  def counted(params, batch, setting):
    traces.append(setting.name)
    return predict(params, batch, setting)

  def counted_one_hot(labels):
    traces.append("labels")
    return one_hot(labels)

  monkeypatch.setattr(experiment.task, "predict", counted)
  monkeypatch.setattr(experiment.task, "one_hot", counted_one_hot)
  params = parallel.create().place(fresh(experiment))
  results = [dict(e.run(params)) for e in experiment.evaluators.values()]
  assert sorted(traces) == ["labels", "labels", "patch4", "patch6"]
  assert results[0] == results[1] == results[2]
  for name, value in results[0].items():
    assert results[3][name] == pytest.approx(value, rel=1e-5)


class Labelled(data_lib.Source):
  """Noise whose labels are given."""

  name = "labelled"
  num_classes = 5

  def __init__(self, labels):
    self._images = fake.FakeSource(f"fake:12x12x3:5:{len(labels)}", "test")
    self._labels = labels

  def __len__(self):
    return len(self._labels)

  def __getitem__(self, index):
    return {**self._images[index], "label": self._labels[index]}


def evaluator_on(config, monkeypatch, labels, kind="classification"):
  """Returns an evaluator of one small setting on noise with these labels."""
  config.model.token_learner = None
  config.model.depth = 1
  config.flexi = None
  config.evals.test.type = kind
  config.evals.test.batch_size = 8
  if kind == "multilabel":
    config.task.loss = "sigmoid_xent"
  open_source = data_lib.open_source

  def opened(section, *_):
    is_test = section["split"] == "test"
    return Labelled(labels) if is_test else open_source(section)

  monkeypatch.setattr(data_lib, "open_source", opened)
  experiment = setup.Experiment(config)
  params = fresh(experiment)
  params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
  return experiment.evaluators["test"], parallel.create().place(params)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@pytest.mark.parametrize(
  "labels, message",
  [
    (np.int32([0, 1, 7]), r"test\.data gives the label 7, .*classes .* 0 to 4"),
    (np.float32([0, 1, 2]), r"pp gives .* shape \[\] and the type float32"),
    (np.zeros((3, 4), np.float32), r"shape \[4\] .* vector of 5 weights"),
    (np.eye(5, dtype=np.float32)[:3] * 2, r"pp gives .* the weight 2\.0"),
    (np.float32([[1, 0, 0, 0, 0], [np.nan] * 5]), "the weight nan"),
  ],
)
def test_labels_that_are_none(config, monkeypatch, kind, labels, message):
  with pytest.raises(ValueError, match=message):
    evaluator, params = evaluator_on(config, monkeypatch, labels, kind)
    dict(evaluator.run(params))


def test_examples_with_a_negative_label_do_not_count(config, monkeypatch):
  labels = np.int32([0, -1, 2, -1])
  evaluator, params = evaluator_on(config, monkeypatch, labels)
  some = dict(evaluator.run(params))
  assert some["patch4/loss"] == pytest.approx(np.log(5))  # A head of zeros.
  assert some["patch4/examples"] == 2  # The report's intervals are of these.


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@pytest.mark.parametrize(
  "labels", [np.full(4, -1, np.int32), np.zeros((4, 5), np.float32)]
)
def test_data_without_any_label_are_refused_before_the_training(
  config, monkeypatch, kind, labels
):
  with pytest.raises(ValueError, match=r"test: no example of .* has a label"):
    evaluator_on(config, monkeypatch, labels, kind)
  some = labels.copy()
  some[3] = 1  # One is enough.
  evaluator_on(config, monkeypatch, some, kind)


def test_every_example_once_for_every_setting_in_one_pass(
  small_config, monkeypatch
):
  """The sums over a ragged split are those of one batch with all of it."""
  reads = []
  original = data_lib.eval_batches

  class Counted:
    def __init__(self, *args, **kwargs):
      self._batches = original(*args, **kwargs)

    def __len__(self):
      return len(self._batches)

    def __iter__(self):
      for batch in self._batches:
        reads.append(batch)
        yield batch

  monkeypatch.setattr(data_lib, "eval_batches", Counted)
  config = small_config
  config.flexi.patch_size.values = (6, 4)
  experiment = setup.Experiment(config)
  evaluator = experiment.evaluators["test"]
  params = fresh(experiment)
  results = dict(evaluator.run(parallel.create().place(params)))
  assert len(reads) == 2
  assert len(results) == 2 * 4
  assert results["patch6/examples"] == 21  # In batches of 16: 16 and 5.

  assert reads[0]["image"].dtype == np.uint8  # The rest is for the device.
  reads = [data_lib.device_ops(config.evals.test.data)(b) for b in reads]
  images = np.concatenate([b["image"] for b in reads])
  labels = np.concatenate([b["label"] for b in reads])
  keep = np.concatenate([b["mask"] for b in reads]) > 0
  for size in (6, 4):
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
  evaluator = setup.Experiment(config).evaluators["test"]
  assert [s.name for s in evaluator.settings] == ["patch12", "patch2"]
  config.evals.test.num_tokens = (2, None)
  evaluator = setup.Experiment(config).evaluators["test"]
  assert [s.name for s in evaluator.settings] == [
    "patch12_tok2",
    "patch12_tokall",
    "patch2_tok2",
    "patch2_tokall",
  ]
  config.evals.test.num_tokens = (4,)  # It learns three.
  with pytest.raises(ValueError, match="num_tokens=4 is out of range"):
    setup.Experiment(config)


def test_no_sum_is_a_matrix_product():
  """TPUs and newer GPUs round its factors to 8 or 11 bits by default."""
  rows, mask = jnp.zeros((4, 3)), jnp.ones(4)
  program = jax.make_jaxpr(classification.batch_sums)(
    rows, rows, rows, mask, mask
  )
  assert "dot_general" not in str(program)
