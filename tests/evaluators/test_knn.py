"""Votes of neighbours by hand, and accuracies against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import neighbors

from tests import tiny
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import parallel
from tokenlearner_flexivit.evaluators import knn
from tokenlearner_flexivit.train import setup


@pytest.fixture
def config(config):
  config.model.depth = 1
  config.model.token_learner = None
  config.flexi.patch_size.values = (6, 4)
  config.evals = dict(
    near=dict(
      type="knn",
      data=dict(
        name="fake:12x12x3:5:61",
        pp="decode|value_range(-1,1)|keep('image')",  # It needs no label.
        num_threads=1,
      ),
      test_split="test[:21]",
      num_neighbours=7,
      temperature=0.3,
    )
  )
  return config


def test_neighbours_are_those_of_the_largest_cosines():
  bank = jnp.asarray([[1.0, 0], [0, 1], [0.6, 0.8], [-1, 0], [0.8, 0.6]])
  labels = jnp.asarray([3, 4, -1, 6, 7])  # The third has no label.
  queries = jnp.asarray([[1.0, 0], [0, 1]])
  cosines, votes = knn.nearest(queries, bank, labels, 3)
  np.testing.assert_allclose(cosines, [[1, 0.8, 0], [1, 0.6, 0]], atol=1e-6)
  np.testing.assert_array_equal(votes, [[3, 7, 4], [4, 7, 3]])
  # More than there are: those without a label come last, and have no vote.
  cosines, votes = knn.nearest(queries, bank, labels, 20)
  assert votes.shape == (2, 5) and (cosines[:, -1] == -np.inf).all()


def test_votes_by_hand():
  cosines = jnp.asarray([[0.9, 0.8, 0.8], [0.9, 0.5, 0.5], [0.9, 0.9, 0.1]])
  labels = jnp.asarray([[1, 2, 2], [1, 2, 2], [5, 3, 3]])
  # At a temperature of 0.2 the weights of the others are 0.607 and 0.135; the
  # third has a tie nearly broken by 0.018.
  np.testing.assert_array_equal(knn.vote(cosines, labels, 0.2), [2, 1, 3])
  even = jnp.full((1, 2), 0.5), jnp.asarray([[9, 4]])
  np.testing.assert_array_equal(knn.vote(*even, 0.07), [9])


def test_votes_without_labels_count_nothing():
  cosines = jnp.asarray([[0.2, -jnp.inf, -jnp.inf]])
  labels = jnp.asarray([[1, -1, -1]])
  np.testing.assert_array_equal(knn.vote(cosines, labels, 0.07), [1])


def run(config):
  experiment = setup.Experiment(config)
  evaluator = experiment.evaluators["near"]
  params = tiny.init(experiment.task.model, np.zeros((1, 12, 12, 3)))
  return (
    experiment,
    params,
    dict(evaluator.run(parallel.create().place(params))),
  )


def features_of(experiment, params, split, setting):
  source = data_lib.open_source({"name": "fake:12x12x3:5:61", "split": split})
  examples = [source[i] for i in range(len(source))]
  images = np.stack([e["image"] for e in examples]).astype(np.float32)
  represent = jax.jit(experiment.task.representation, static_argnums=(2, 3))
  images = {"image": images / 127.5 - 1}
  features = np.asarray(represent(params, images, setting, "pre_logits"))
  return features, np.array([e["label"] for e in examples])


def test_accuracies_are_those_of_scikit_learn(config):
  """On eight devices, each with its part of the bank; batches are padded."""
  experiment, params, results = run(config)
  assert experiment.evaluators["near"].headline == "knn"
  shares = []
  for setting in experiment.dials.settings:
    train, labels = features_of(experiment, params, "train", setting)
    test, truth = features_of(experiment, params, "test[:21]", setting)
    model = neighbors.KNeighborsClassifier(
      7, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.3)
    )
    model.fit(train, labels)
    shares.append((model.predict(test) == truth).mean())
    assert results[f"{setting.name}/knn"] == pytest.approx(shares[-1])
    assert results[f"{setting.name}/examples"] == 21
  assert min(shares) > 0
  assert max(shares) < 1


def test_more_neighbours_than_images(config):
  config.evals.near.update(num_neighbours=1000, train_split="train[:9]")
  config.flexi.patch_size.values = (6,)
  *_, results = run(config)
  assert 0 <= results["patch6/knn"] <= 1


def test_a_training_that_has_diverged(config):
  config.flexi.patch_size.values = (6,)
  experiment = setup.Experiment(config)
  params = tiny.init(experiment.task.model, np.zeros((1, 12, 12, 3)))
  params = jax.tree.map(lambda x: x * np.nan, params)
  with pytest.raises(ValueError, match=r"near: .* patch6 are not finite"):
    dict(experiment.evaluators["near"].run(parallel.create().place(params)))


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("num_neighbours", 0, r"near\.num_neighbours=0"),
    ("temperature", 0, r"near\.temperature=0"),
    ("representation", "stems", r"near: .*Known: encoded"),
    ("label_key", "shape", r"near\.label_key='shape'"),
    ("train_split", "test", r"share examples"),
  ],
)
def test_mistakes(config, key, value, message):
  config.evals = {"near": {**config.evals.near.to_dict(), key: value}}
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)
