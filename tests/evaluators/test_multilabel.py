"""Average precision by its definition, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import parallel, report
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.evaluators import multilabel
from tokenlearner_flexivit.train import setup


def test_average_precision_by_hand():
  scores = np.asarray([0.9, 0.8, 0.7, 0.6])
  positive = np.asarray([True, False, True, False])
  # The first of one, and two of three.
  expected = (1 + 2 / 3) / 2
  assert multilabel.average_precision(scores, positive) == expected
  assert np.isnan(multilabel.average_precision(scores, np.zeros(4, bool)))


@pytest.mark.parametrize("levels", [3, 10**6])
def test_average_precision_is_the_mean_precision_down_to_each(levels):
  """With many equal scores and with none."""
  rng = np.random.default_rng(levels)
  for _ in range(5):
    scores = rng.integers(levels, size=50).astype(np.float32)
    positive = rng.random(50) < 0.2
    precisions = [positive[scores >= s].mean() for s in scores[positive]]
    np.testing.assert_allclose(
      multilabel.average_precision(scores, positive),
      np.mean(precisions),
      rtol=1e-12,
    )


class Several(data_lib.Source):
  """Noise with several labels or none, and a class that nobody has."""

  name = "several"
  num_classes = 4
  class_names = ("ant", "bee/wasp", "cat", "dodo")
  has_several = True

  def __init__(self, num_examples=21):
    self._images = fake.FakeSource(f"fake:12x12x3:4:{num_examples}", "test")
    self.labels = np.random.default_rng(0).random((num_examples, 4)) < 0.4
    self.labels[:, 3] = False
    self.labels[0] = False

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, index):
    label = self.labels[index].astype(np.float32)
    first = np.int32(label.argmax())
    return {**self._images[index], "label": label, "first": first}


@pytest.fixture
def config(config):
  config.model.token_learner = None
  config.model.depth = 1
  config.model.head_zeroinit = False
  config.flexi.patch_size.values = (6,)
  config.task.loss = "sigmoid_xent"
  config.evals.test.type = "multilabel"
  return config


def test_every_example_counts_once(config, monkeypatch):
  """In batches of 16 and 5, of 8 devices; the same as all at once.

  Those without a class are last in all rankings, so they lower no precision.
  """
  source = Several()
  monkeypatch.setattr(data_lib, "open_source", lambda *_: source)
  experiment = setup.Experiment(config)
  evaluator = experiment.evaluators["test"]
  params = experiment.task.init(jax.random.key(0), (12, 12, 3))
  results = dict(evaluator.run(parallel.create().place(params)))

  preprocess = data_lib.parse(config.evals.test.data.pp)
  images = np.stack([preprocess(example)["image"] for example in source])
  logits = jax.jit(experiment.task.predict, static_argnums=2)(
    params, {"image": images}, evaluator.settings[0]
  )
  has_none = ~source.labels.any(axis=1)
  assert has_none.sum() > 1
  scores = np.where(has_none[:, None], logits.min() - 1, logits)
  expected = {
    name: metrics.average_precision_score(source.labels[:, i], scores[:, i])
    for i, name in enumerate(source.class_names[:3])
  }
  for name, value in expected.items():
    assert results.pop(f"patch6/AP/{name}") == pytest.approx(value)
  mean = np.mean(list(expected.values()))
  assert results.pop("patch6/mAP") == pytest.approx(mean)
  losses = experiment.task.example_loss(logits, jnp.float32(source.labels))
  assert results.pop("patch6/loss") == pytest.approx(
    float(losses.mean()), rel=1e-5
  )
  assert results.pop("patch6/examples") == 21
  assert not results  # Nothing of the class that nobody has.

  source.labels[:] = False
  with pytest.raises(ValueError, match="has any of the classes"):
    dict(evaluator.run(parallel.create().place(params)))


def test_smoothed_labels_and_examples_of_which_nothing_is_known(
  config, monkeypatch
):
  """Smoothing makes no class positive; a negative number is no label."""
  source = Several()
  monkeypatch.setattr(data_lib, "open_source", lambda *_: source)
  parts = setup.Experiment(config)
  params = parts.task.init(jax.random.key(0), (12, 12, 3))
  params = parallel.create().place(params)
  hard = dict(parts.evaluators["test"].run(params))
  get = Several.__getitem__

  def smoothed(source, index):
    example = get(source, index)
    return {**example, "label": 0.05 + 0.9 * example["label"]}

  monkeypatch.setattr(Several, "__getitem__", smoothed)
  soft = dict(parts.evaluators["test"].run(params))
  assert soft.pop("patch6/loss") != hard.pop("patch6/loss")
  assert soft == hard

  def single(source, index):
    number = np.int32(-1 if index % 2 else index % 4)
    return {**get(source, index), "label": number}

  monkeypatch.setattr(Several, "__getitem__", single)
  params = jax.tree.map(np.zeros_like, params)  # Every answer is 1/2.
  evaluator = setup.Experiment(config).evaluators["test"]
  results = dict(evaluator.run(params))
  # Of four classes each costs log 2; examples of -1 count for nothing.
  assert results["patch6/loss"] == pytest.approx(4 * np.log(2), rel=1e-5)
  assert results["patch6/examples"] == 11  # Of 21.
  assert sorted(results) == [
    "patch6/AP/ant",
    "patch6/AP/cat",
    "patch6/examples",
    "patch6/loss",
    "patch6/mAP",
  ]
  params = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  with pytest.raises(ValueError, match=r"test: .* patch6 are not finite"):
    dict(evaluator.run(params))


def test_classes_that_exclude_one_another_are_refused(config):
  config.task.loss = "softmax_xent"
  with pytest.raises(ValueError, match=r"config.task.loss='sigmoid_xent'"):
    setup.Experiment(config)


def test_several_classes_are_refused_by_a_loss_of_one(config, monkeypatch):
  monkeypatch.setattr(data_lib, "open_source", lambda *_: Several())
  config.task.loss = "softmax_xent"
  config.evals = {}
  with pytest.raises(ValueError, match=r"several may have several .*'softmax"):
    setup.Experiment(config)
  # Unless the preprocessing leaves one.
  config.data.pp = f"copy('first','label')|{config.data.pp}"
  setup.Experiment(config)


class There(Several):
  """Noise with a thing that is there or not."""

  num_classes, class_names = 1, ("ant",)

  def __init__(self):
    super().__init__()
    self.labels = self.labels[:, :1]


def test_a_single_class_is_told_from_its_absence(config, monkeypatch):
  """Once only the examples that have it were ranked: always 100 %."""
  source = There()
  monkeypatch.setattr(data_lib, "open_source", lambda *_: source)
  parts = setup.Experiment(config)
  evaluator = parts.evaluators["test"]
  params = parts.task.init(jax.random.key(0), (12, 12, 3))
  results = dict(evaluator.run(parallel.create().place(params)))
  preprocess = data_lib.parse(config.evals.test.data.pp)
  images = np.stack([preprocess(example)["image"] for example in source])
  logits = jax.jit(parts.task.predict, static_argnums=2)(
    params, {"image": images}, evaluator.settings[0]
  )
  expected = metrics.average_precision_score(source.labels[:, 0], logits[:, 0])
  assert expected < 1
  assert results["patch6/mAP"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["classification", "ensemble"])
def test_accuracy_of_a_single_class_is_refused(config, monkeypatch, kind):
  monkeypatch.setattr(data_lib, "open_source", lambda *_: There())
  config.flexi.patch_size.values = (6, 4)
  config.evals.test.type = kind
  with pytest.raises(ValueError, match=r"says nothing.*type='multilabel'"):
    setup.Experiment(config)


@pytest.mark.parametrize("several, first", [(True, "map"), (False, "accuracy")])
def test_the_headline_is_that_of_the_labels(
  config, monkeypatch, tmp_path, several, first
):
  """Few shots come after both, whatever their names."""
  if several:
    monkeypatch.setattr(data_lib, "open_source", lambda *_: Several())
  test = config.evals.test.to_dict()
  few = dict(test, type="fewshot", shots=(1,), label_key="label")
  few["data"] = {k: v for k, v in test["data"].items() if k != "split"}
  config.evals = {
    "accuracy": dict(test, type="classification"),
    "map": dict(test, type="multilabel"),
    **({} if several else {"a_few": few}),
  }
  parts = setup.Experiment(config)
  params = parts.parallel.place(parts.init_params())
  results = {
    name: dict(evaluator.run(params))
    for name, evaluator in parts.evaluators.items()
  }
  written = report.write(parts, tmp_path, params, results, 4)
  assert written["evaluation"] == first
  # One of the two kinds alone is enough.
  del results["accuracy"]
  written = report.write(parts, tmp_path, params, results, 4)
  assert (written["evaluation"], written["headline"]) == ("map", "mAP")
