"""Boxes, costs, assignments and losses of detections, as published."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from tests.vectors import Vectors, checks
from tokenlearner_flexivit.tasks import boxes, matching

LOSSES = [
  f"dense_scenic_owl_loss_{kind}"
  for kind in ("basic", "padded", "empty", "batch_mask", "global", "sigmoid")
]


def read(vectors):
  """Returns the inputs without the column of padding, and the weights."""
  config = vectors.meta["config"]
  weights = matching.Weights(
    classes=config["class_loss_coef"],
    box=config["bbox_loss_coef"],
    giou=config["giou_loss_coef"],
    alpha=config["focal_alpha"] if config["focal_loss"] else None,
    gamma=config["focal_gamma"],
  )
  inputs = (
    vectors["in/pred_logits"][..., 1:],
    vectors["in/pred_boxes"],
    vectors["in/labels"][..., 1:],
    vectors["in/boxes"],
  )
  return tuple(jnp.asarray(x, jnp.float32) for x in inputs), weights


@checks(*LOSSES)
def test_losses_are_the_published_ones(name):
  vectors = Vectors(name)
  inputs, weights = read(vectors)
  cost = jax.jit(jax.vmap(lambda *image: matching.costs(*image, weights)))(
    *inputs
  )
  # Published costs have a column of padding at the end.
  expected = vectors["out/cost"][..., :-1]
  np.testing.assert_allclose(cost, expected, rtol=2e-5, atol=1e-5)
  is_real = matching.is_there(inputs[2])
  chosen = np.asarray(jax.jit(jax.vmap(matching.assign))(cost, is_real))
  published = vectors["out/assignment"]
  np.testing.assert_array_equal(np.where(published >= 0, chosen, -1), published)
  classes = inputs[2]
  counts = None
  if vectors.meta["config"]["normalization"] == "global":
    number = (
      classes.sum(axis=(1, 2)).mean(),
      (matching.is_there(classes).sum(axis=1).mean()),
    )
    counts = tuple(jnp.full(len(classes), n) for n in number)
  mask = jnp.ones(len(classes))
  if name.endswith("batch_mask"):
    mask = jnp.asarray(vectors["in/batch_mask"], jnp.float32)

  def mean(logits, predicted):
    terms = matching.losses(logits, predicted, *inputs[2:], weights, counts)
    terms = {key: (term * mask).mean() for key, term in terms.items()}
    return terms["total"], terms

  grad = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))
  (_, terms), grads = grad(*inputs[:2])
  names = {
    "classes": "loss_class",
    "box": "loss_bbox",
    "giou": "loss_giou",
    "total": "total_loss",
  }
  for key, published in names.items():
    np.testing.assert_allclose(
      terms[key], vectors[f"out/{published}"], rtol=1e-5, atol=1e-6
    )
  chex.assert_trees_all_close(
    grads,
    (vectors["grad/pred_logits"][..., 1:], vectors["grad/pred_boxes"]),
    rtol=1e-4,
    atol=1e-6,
  )


@checks("dense_scenic_owl_iou")
def test_overlaps_are_the_published_ones(name):
  """Equal, disjoint, contained, touching and degenerate boxes."""
  vectors = Vectors(name)
  a, b = (
    boxes.corners(jnp.asarray(vectors[f"in/{k}"][0]))
    for k in ("pred", "target")
  )
  giou, iou = boxes.giou(a[:, None], b[None])
  np.testing.assert_allclose(iou, vectors["out/iou"][0], atol=1e-6)
  np.testing.assert_allclose(giou, vectors["out/giou"][0], atol=1e-5)
  np.testing.assert_allclose(a, vectors["out/xyxy_pred"][0], atol=1e-6)


def test_centres_are_those_of_the_data():
  """Boxes of data are (ymin, xmin, ymax, xmax)."""
  data = jnp.asarray([[0.1, 0.2, 0.5, 0.8]])
  np.testing.assert_allclose(boxes.centres(data), [[0.5, 0.3, 0.6, 0.4]])
  np.testing.assert_allclose(
    boxes.corners(boxes.centres(data)), [[0.2, 0.1, 0.8, 0.5]], rtol=1e-6
  )


@pytest.mark.parametrize("padding", [0, 4])
def test_assignments_cost_as_little_as_scipys(padding):
  """1,000 random cases, half of them with many equal costs."""
  rng = np.random.default_rng(0)
  assign = jax.jit(jax.vmap(matching.assign))
  is_real = np.ones((500, 6), bool)
  is_real[:, rng.permutation(6)[:padding]] = False
  for cost in (rng.normal(size=(500, 9, 6)), rng.integers(0, 3, (500, 9, 6))):
    cost = np.where(is_real[:, None], cost, 20)
    chosen = np.asarray(assign(jnp.asarray(cost, jnp.float32), is_real))
    assert not chosen[~is_real].any()
    for ours, matrix, real in zip(chosen, cost, is_real, strict=True):
      ours, matrix = ours[real], matrix[:, real]
      assert len(set(ours.tolist())) == 6 - padding
      rows, columns = optimize.linear_sum_assignment(matrix)
      best = matrix[rows, columns].sum()
      total = matrix[ours, range(6 - padding)].sum()
      assert total == pytest.approx(best, abs=1e-5)


def test_there_may_be_as_many_predictions_as_boxes():
  """However much each costs."""
  cost = jnp.asarray([[1e8, 3e8], [2e8, 2e8]])
  chosen = matching.assign(cost, jnp.ones(2, bool))
  np.testing.assert_array_equal(chosen, [0, 1])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_and_their_gradients_at_any_logit(gamma):
  """The formula and its derivative, also where p or 1 - p rounds to 0."""
  alpha, logits = 0.3, np.float64([-120, -20, -3, 0, 0.5, 4, 20, 120])
  weights = matching.Weights(alpha=alpha, gamma=gamma)
  for index, (factor, sign) in enumerate(((alpha, 1), (1 - alpha, -1))):

    def total(x, index=index):
      losses = matching.class_losses(x, weights)[index]
      return losses.sum(), losses

    (_, losses), grads = jax.value_and_grad(total, has_aux=True)(
      jnp.asarray(logits, jnp.float32)
    )
    z = sign * logits  # -log p, where p is the probability of what is right.
    loss, wrong = np.logaddexp(0, -z), np.exp(-np.logaddexp(0, z))
    right = np.exp(-loss)
    expected = factor * wrong**gamma * loss
    slope = -factor * sign * wrong**gamma * (gamma * right * loss + wrong)
    np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(grads, slope, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_costs_of_answers_that_are_no_numbers_can_be_assigned(value):
  """A training that diverges ends with an error, and does not hang."""
  logits = jnp.zeros((4, 3)).at[2, 1].set(value)
  centres = jnp.full((4, 4), 0.5).at[1, 0].set(np.nan)
  classes = jax.nn.one_hot(jnp.asarray([0, 1, 3]), 3)
  true = jnp.full((3, 4), 0.4)
  cost = np.asarray(
    matching.costs(logits, centres, classes, true, matching.Weights())
  )
  assert np.isfinite(cost).all()
  assert np.abs(cost).max() < 1e31
  # Predictions 0 and 3 are as they should be: no other costs less.
  assert (cost[:, :2] >= cost[[0], :2] - 1e-6).all()
  assert (cost[1, :2] > cost[0, :2]).all()
  assert (cost[:, 2] > cost[0, :2].max()).all()


def test_padding_changes_nothing_and_gives_no_nan():
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(2, 8, 3)), jnp.float32)
  predicted = jnp.asarray(rng.uniform(0.1, 0.9, (2, 8, 4)), jnp.float32)
  classes = np.zeros((2, 2, 3), np.float32)
  classes[0, :, 1] = 1  # Of the second image there is no box at all.
  true = np.where(classes.any(2, keepdims=True), 0.5, 0).repeat(4, 2)
  weights = matching.Weights()

  @functools.partial(jax.jit, static_argnums=2)
  def loss_and_grads(*inputs):
    return jax.value_and_grad(loss, (0, 1))(*inputs)

  def loss(logits, predicted, more):
    grown = [np.pad(x, ((0, 0), (0, more), (0, 0))) for x in (classes, true)]
    targets = (jnp.asarray(x, jnp.float32) for x in grown)
    return matching.losses(logits, predicted, *targets, weights)["total"].sum()

  results = [loss_and_grads(logits, predicted, more) for more in (0, 3)]
  chex.assert_trees_all_equal(*results)
  chex.assert_tree_all_finite(results[0])
