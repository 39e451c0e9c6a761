"""Few-shot accuracies against scikit-learn on the same representations."""

import collections

import jax
import numpy as np
import pytest
from sklearn import linear_model

from tests import tiny
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import parallel
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.evaluators import shots
from tokenlearner_flexivit.train import setup

WHERE = "config.evals.few"
PP = "decode|value_range(-1,1)|keep('image')"  # It needs no label.


class Attributes(data_lib.Source):
  """Examples of two labels and things that are none."""

  name = "attributes (train)"
  num_classes = 2
  class_names = ("ant", "bee")

  def __init__(self, label, shape):
    self._label, self._shape = label, shape

  def __len__(self):
    return len(self._label)

  def __getitem__(self, index):
    return {
      "image": b"",
      "label": np.int32(self._label[index]),
      "shape": np.int64(self._shape[index]),
      "boxes": np.zeros((2, 4)),
      "caption": b"a bee",
      "id": np.int32(index),
    }


SOURCE = Attributes(np.arange(20) % 2, np.arange(20) // 4 - 1)


def fresh(experiment):
  return tiny.init(experiment.task.model, np.zeros((1, 12, 12, 3)))


def draw(train=SOURCE, test=SOURCE, key="label", k=3, num_seeds=2):
  return shots.draw(train, test, key, shots=k, num_seeds=num_seeds, where=WHERE)


@pytest.fixture
def config(config):
  config.flexi.patch_size.values = (6, 4)
  config.model.depth = 1
  config.model.token_learner = None
  config.evals = dict(
    few=dict(
      type="fewshot",
      data=dict(name="fake:12x12x3:5:61", pp=PP, num_threads=1),
      test_split="test[:21]",
      shots=(1, 3),
      num_seeds=2,
      log2_l2=4,
      log2_l2_sweep=(-10, 0, 8),
    )
  )
  return config


# What is drawn


def test_drawn_are_different_examples_of_each_class():
  drawn = draw()
  assert drawn.rows.shape == (2, 2, 3)
  for rows in drawn.rows:
    assert len(np.unique(rows)) == 6
    np.testing.assert_array_equal(drawn.train_labels[rows], [[0] * 3, [1] * 3])
  assert (drawn.rows[0] != drawn.rows[1]).any()
  # No more than what some seed draws.
  assert set(drawn.rows.ravel()) == set(range(len(drawn.train)))


def test_fewer_shots_are_the_first_of_more():
  def examples(drawn):
    images = [drawn.train[i]["label"] for i in range(len(drawn.train))]
    assert images == drawn.train_labels.tolist()
    return np.vectorize(drawn.train.describe)(drawn.rows)

  few, more = examples(draw(k=2)), examples(draw(k=5))
  np.testing.assert_array_equal(few, more[:, :, :2])
  np.testing.assert_array_equal(few, examples(draw(k=2)))


def test_another_label_whose_negative_values_are_none():
  drawn = draw(key="shape")  # -1, 0, 1, 2, 3, four times each.
  assert drawn.rows.shape == (2, 4, 3)
  expected = np.repeat([-1, 0, 1, 2, 3], 4)
  np.testing.assert_array_equal(drawn.test_labels, expected)


def test_classes_are_numbered_without_gaps():
  gaps = Attributes([0] * 8, [7, 7, 3, 3, 90, 90, 90, 3])
  drawn = draw(gaps, gaps, "shape", k=2)
  np.testing.assert_array_equal(drawn.test_labels, [1, 1, 0, 0, 2, 2, 2, 0])


@pytest.mark.parametrize("key", ["colour", "boxes", "caption", "image"])
def test_unknown_labels_are_refused_with_those_there(key):
  with pytest.raises(ValueError, match=rf"few.label_key='{key}'.*label, shape"):
    draw(key=key)


def test_more_shots_than_the_smallest_class_has():
  small = Attributes([0, 0, 0, 0, 1, 1], [5, 5, 5, 8, 8, 8])
  with pytest.raises(ValueError, match=r"3 examples.*class 'bee' has.*: 2"):
    draw(small, small)
  with pytest.raises(ValueError, match=r"few.shots: 4 .*class 5 has.*: 3"):
    draw(small, small, "shape", k=4)
  with pytest.raises(ValueError, match=r"class 'ant' has.*: 0"):
    draw(Attributes([1] * 5, [1] * 5))


def test_test_splits_that_cannot_be_classified():
  other = Attributes([0, 1], [-1, 9])
  with pytest.raises(ValueError, match=r"shape=9, .* none of the 4 classes"):
    draw(test=other, key="shape")
  with pytest.raises(ValueError, match=r"no example of .* has a label"):
    draw(test=Attributes([0], [-1]), key="shape")


class Large(Attributes):
  """Examples whose labels take long to read."""

  has_labels_at_hand = False
  reads = 0

  def labels(self, key="label"):
    type(self).reads += 1
    return super().labels(key)

  def __getitem__(self, index):
    image = np.full((12, 12, 3), index, np.uint8)
    return {**super().__getitem__(index), "image": image}


def test_labels_that_take_long_are_read_at_the_first_evaluation(
  config, monkeypatch
):
  """And what can be known without is known when the config is read."""
  config.evals.few.update(shots=(1,), num_seeds=1)
  config.evals.few.data.name = "large"
  source = Large(np.arange(20) % 2, np.arange(20))
  open_source = data_lib.open_source

  def opened(section, *_):
    return source if section["name"] == "large" else open_source(section)

  monkeypatch.setattr(data_lib, "open_source", opened)
  monkeypatch.setattr(Large, "reads", 0)
  config.flexi.patch_size.values = (6,)
  experiment = setup.Experiment(config)
  assert Large.reads == 0
  params = fresh(experiment)
  params = parallel.create().place(params)
  evaluator = experiment.evaluators["few"]
  first = dict(evaluator.run(params))
  assert dict(evaluator.run(params)) == first
  assert Large.reads == 2  # Of each split, once.
  assert first["patch6/examples"] == 20
  config.evals.few.label_key = "colour"
  with pytest.raises(ValueError, match=r"few.label_key='colour'.*label, shape"):
    setup.Experiment(config)
  for source._shape in ([-1] * 20, [-1] * 19 + [0]):
    config.evals.few.label_key = "shape"
    if max(source._shape) < 0:
      with pytest.raises(ValueError, match=r"few: no example of"):
        setup.Experiment(config)
    else:
      setup.Experiment(config)
  config.evals.few.update(label_key="label", shots=(11,))
  evaluator = setup.Experiment(config).evaluators["few"]
  with pytest.raises(ValueError, match=r"few.shots: 11 .*class 'ant' has"):
    dict(evaluator.run(params))


def test_what_is_drawn_of_many_classes():
  """The first of each class, in an order of its own per seed."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(2000), 4))
  source = Attributes(labels, labels)
  source.num_classes = source.class_names = None
  source.labels = lambda key: labels
  drawn = draw(source, source, k=2, num_seeds=1)
  rng = np.random.default_rng(0)
  for number in range(2000):
    expected = rng.permutation(np.flatnonzero(labels == number))[:2]
    described = [drawn.train.describe(i) for i in drawn.rows[0, number]]
    assert described == [f"example {i}" for i in expected]


def test_splits_whose_classes_differ():
  other = Attributes(np.arange(20) % 2, np.arange(20))
  other.class_names = ("bee", "ant")
  with pytest.raises(ValueError, match=r"few.test_split has other .*another"):
    draw(test=other)
  # Of another label they say nothing.
  draw(test=Attributes([0, 1], [0, 1]), key="shape")
  train, test = Attributes([0] * 4, [0, 0, 1, 1]), Attributes([0], [1])
  train.value_names = {"shape": ["disc", "star"]}
  test.value_names = {"shape": ["star", "disc"]}
  with pytest.raises(ValueError, match="class 0 is 'star' here and 'disc'"):
    draw(train, test, "shape", k=1)


def test_a_label_beyond_the_classes():
  train = Attributes([0, 1, 2] * 4, [0] * 12)
  with pytest.raises(ValueError, match=r"label=2, .*none of the 2 classes"):
    draw(train)


# Mistakes in the config, found before the first step


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("shots", (5, 1, 5), r"few.shots=\[5, 1, 5\] must be different"),
    ("shots", (), r"few.shots=\[\] must be"),
    ("shots", (0, 5), r"from 1 on"),
    ("shots", (50,), r"few.shots: 50 .* than class \d has"),
    ("shots", 5, r"few.shots=5 must be a list"),
    ("num_seeds", 0, r"few.num_seeds=0"),
    ("num_seeds", 1.5, r"few.num_seeds=1\.5 must be a whole number"),
    ("log2_l2", "10", "few.log2_l2='10' must be a number"),
    ("log2_l2_sweep", (0, 200), r"few.log2_l2_sweep=200 .*\[-120, 120\]"),
    ("batch_size", 8.0, r"few.batch_size=8\.0 must be a whole number"),
    ("patch_sizes", 6, r"few.patch_sizes=6 must be a list"),
    ("patch_sizes", (), r"few.patch_sizes is empty"),
    ("patch_sizes", (6, (6, 6)), r"few.patch_sizes=.* has a value twice"),
    ("train_split", "train[:0]", r"train\[:0\] of fake:12.* is empty"),
    ("label_key", "shape", r"Such are: label\."),
    ("data", None, r"few needs data"),
    ("label_key", 3, "few.label_key=3 must be a string"),
    ("test_split", 3, "few.test_split=3 must be a string"),
    ("representation", "stems", r"Known: encoded, .*\+mlp"),
    ("batch_size", 12, "few.batch_size=12"),
    ("shot", 5, "Did you mean 'shots'"),
  ],
)
def test_mistakes(config, key, value, message):
  config.evals = {"few": {**config.evals.few.to_dict(), key: value}}
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)


def test_a_split_in_the_data_section(config):
  config.evals.few.data.split = "train"
  with pytest.raises(ValueError, match=r"few.train_split and .*few.test_split"):
    setup.Experiment(config)


# Accuracies


def features_of(experiment, params, source, setting, name):
  """Representations and labels of a whole split, in one batch."""
  examples = [source[i] for i in range(len(source))]
  images = np.stack([e["image"] for e in examples]).astype(np.float32)
  represent = jax.jit(experiment.task.representation, static_argnums=(2, 3))
  images = {"image": images / 127.5 - 1}
  features = np.asarray(represent(params, images, setting, name), np.float64)
  return features, np.array([e["label"] for e in examples])


def answers(x, labels, test, l2):
  """Returns what scikit-learn's ridge regression says of `test`."""
  mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
  x, test = ((v - mean) / scale for v in (x, test))
  x, test = (np.hstack([v, np.full((len(v), 1), 100)]) for v in (x, test))
  model = linear_model.Ridge(l2, fit_intercept=False)
  model.fit(x, 2 * np.eye(5)[labels] - 1)
  return model.predict(test).argmax(axis=1)


@pytest.mark.parametrize(
  "name, patch_sizes",
  [("pre_logits", (6, 4)), ("encoder/block00/+mlp", (3,))],
)
def test_accuracies_are_those_of_scikit_learn(
  config, name, patch_sizes, monkeypatch
):
  """Of every setting in one pass: each image that is needed is read once."""
  config.evals.few.representation = name
  config.evals.few.patch_sizes = patch_sizes  # Those of training or others.
  experiment = setup.Experiment(config)
  evaluator = experiment.evaluators["few"]
  assert [len(source) for source in evaluator.sources] == [61, 21]
  assert evaluator.image_shape == (12, 12, 3)
  assert evaluator.headline == "3shot"
  params = fresh(experiment)
  reads = collections.Counter()
  original = fake.FakeSource.__getitem__

  def counting(source, index):
    reads[source.name, index] += 1
    return original(source, index)

  with monkeypatch.context() as patch:
    patch.setattr(fake.FakeSource, "__getitem__", counting)
    results = dict(evaluator.run(parallel.create().place(params)))
  assert set(reads.values()) == {1}

  data = {"name": "fake:12x12x3:5:61"}
  train = data_lib.open_source({**data, "split": "train"})
  test = data_lib.open_source({**data, "split": "test[:21]"})
  labels = np.array([train[i]["label"] for i in range(61)])
  drawn = []
  for seed in range(2):
    rng = np.random.default_rng(seed)
    drawn.append(
      [rng.permutation(np.nonzero(labels == c)[0]) for c in range(5)]
    )
  union = {int(i) for classes in drawn for c in classes for i in c[:3]}
  assert len(reads) == len(union) + 21
  sweep = (-10, 0, 4, 8)
  for setting in evaluator.settings:
    x, _ = features_of(experiment, params, train, setting, name)
    x_test, y_test = features_of(experiment, params, test, setting, name)
    for k in (1, 3):
      right, held_out = np.zeros((2, 4)), np.zeros((2, 4))
      for seed, classes in enumerate(drawn):
        chosen = np.concatenate([c[:k] for c in classes])
        rest = sorted(union - set(chosen.tolist()))
        for i, log2_l2 in enumerate(sweep):
          few = (x[chosen], labels[chosen])
          said = answers(*few, x_test, 2.0**log2_l2)
          right[seed, i] = np.mean(said == y_test)
          said = answers(*few, x[rest], 2.0**log2_l2)
          held_out[seed, i] = np.mean(said == labels[rest])
      prefix = f"{setting.name}/{k}shot"
      assert results[prefix] == pytest.approx(right[:, 2].mean())
      spread = abs(right[0, 2] - right[1, 2]) / np.sqrt(2)
      assert results[f"{prefix}_std"] == pytest.approx(spread)
      best = int(np.argmax(held_out.mean(axis=0)))
      assert results[f"{prefix}_tuned_log2_l2"] == sweep[best]
      tuned = right[:, best].mean()
      assert results[f"{prefix}_tuned"] == pytest.approx(tuned)
    assert results[f"{setting.name}/examples"] == 21  # In batches of 16 and 5.
  assert len(results) == len(patch_sizes) * (2 * 5 + 1)


def test_a_training_that_has_diverged(config):
  config.flexi.patch_size.values = (6,)
  parts = setup.Experiment(config)
  params = jax.tree.map(
    lambda x: np.full(x.shape, np.nan, x.dtype), fresh(parts)
  )
  with pytest.raises(ValueError, match=r"few: .* at patch6 are not finite"):
    dict(parts.evaluators["few"].run(parallel.create().place(params)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_test_example_whose_representation_is_not_finite(
  config, monkeypatch, value
):
  config.flexi.patch_size.values = (6,)
  parts = setup.Experiment(config)
  evaluator = parts.evaluators["few"]
  params = fresh(parts)
  params = parallel.create().place(params)
  tables, features = evaluator._tables(params), evaluator._features

  def broken(params, batch):
    for setting, answers in features(params, batch):
      rows = answers["features"].at[3].set(value)
      yield setting, {**answers, "features": rows}

  monkeypatch.setattr(evaluator, "_tables", lambda _: tables)
  monkeypatch.setattr(evaluator, "_features", broken)
  with pytest.raises(ValueError, match=r"few: .* at patch6 are not finite"):
    dict(evaluator.run(params))


def test_one_seed_has_no_spread(config):
  config.flexi.patch_size.values = (6,)
  config.evals.few.num_seeds = 1
  experiment = setup.Experiment(config)
  params = fresh(experiment)
  params = parallel.create().place(params)
  evaluator = experiment.evaluators["few"]
  # The two other shots of each class choose the penalty of one shot.
  expected = ["1shot", "1shot_tuned", "1shot_tuned_log2_l2", "3shot"]
  expected.append("examples")
  names = sorted(dict(evaluator.run(params)))
  assert names == [f"patch6/{name}" for name in expected]
  speed = evaluator.throughput(params, repeats=1)
  assert list(speed) == list(evaluator.settings) and min(speed.values()) > 0


@pytest.mark.slow
def test_two_processes_are_one(config, evaluate_by_processes):
  """Each of two devices, which have the examples between them."""
  (alone,) = evaluate_by_processes(config, 1)
  first, second = evaluate_by_processes(config, 2)
  assert first == second == pytest.approx(alone)


@pytest.mark.parametrize(
  "train, test",
  [
    ("train", "training"),
    ("train[:80%]", "train[70%:]"),
    # Of 61 examples.
    ("train[10%:]", "train[:20]"),
    ("train[:40]", "train[-22:]"),
    ("test+train[30:]", "train[:60%]"),
  ],
)
def test_what_is_learned_from_is_not_tested_on(config, train, test):
  config.evals.few.update(train_split=train, test_split=test)
  with pytest.raises(ValueError, match=r"few\.train_split=.* share examples"):
    setup.Experiment(config)


@pytest.mark.parametrize("stop, is_told", [(6, False), (7, True)])
def test_a_run_says_that_it_trains_on_what_few_shots_are_tested_on(
  config, stop, is_told
):
  config.data = dict(
    name=config.evals.few.data.name,
    split="train[10%:]",  # From the seventh of 61 examples on.
    pp="decode|value_range(-1,1)|keep('image','label')",
  )
  config.evals.few.update(train_split="val", test_split=f"train[:{stop}]")
  lines = setup.Experiment(config).describe_splits()
  assert ("evaluates on examples that are trained on" in "".join(lines)) == (
    is_told
  )


def test_a_single_class_leaves_nothing_to_tell_apart():
  one = Attributes(np.zeros(20, int), np.zeros(20, int))
  with pytest.raises(ValueError, match="has a single class"):
    draw(one, one, "shape")
