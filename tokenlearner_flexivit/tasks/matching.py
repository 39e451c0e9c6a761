"""The assignment of predicted boxes to true ones, and the loss of the result.

Follows DETR (arXiv 2005.12872) and OWL-ViT (arXiv 2205.06230): each true box
gets the prediction that makes the sum of costs least; the loss asks these for
their boxes and classes, and all others for no class.

Letters: B batch, N predictions, M true boxes, some of them padding, K classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32

from tokenlearner_flexivit.tasks import boxes as boxes_lib

# Larger costs are those of a training that diverges.
_MOST = 1e30


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights of the terms of cost and loss.

  Attributes:
    classes: of the classes.
    box: of the L1 distance of boxes.
    giou: of the generalized IoU.
    alpha: of the focal loss (arXiv 1708.02002), the weight of what is there;
      None for the plain sigmoid cross-entropy.
    gamma: of the focal loss, its power.
  """

  classes: float = 1.0
  box: float = 1.0
  giou: float = 1.0
  alpha: float | None = 0.3
  gamma: float = 2.0


def class_losses(
  logits: Float[Array, "*n K"], weights: Weights
) -> tuple[Float[Array, "*n K"], Float[Array, "*n K"]]:
  """Returns the loss of each logit if its class is there, and if not."""
  there, absent = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
  if weights.alpha is None:
    return there, absent
  # Powers of 1 - p and p: of 0 itself, those below 1 have no derivative.
  powers = [jnp.exp(-weights.gamma * loss) for loss in (absent, there)]
  return (
    weights.alpha * powers[0] * there,
    (1 - weights.alpha) * powers[1] * absent,
  )


def costs(
  logits: Float[Array, "N K"],
  predicted: Float[Array, "N 4"],
  classes: Float[Array, "M K"],
  boxes: Float[Array, "M 4"],
  weights: Weights,
) -> Float[Array, "N M"]:
  """Returns the cost of each prediction for each true box of an image.

  Padding costs more than any true box, the same for all predictions, and so
  does what is no number, such as the answers of a training that diverges.

  Args:
    logits: of the classes.
    predicted: centre, width and height of predicted boxes.
    classes: weights of the classes of each true box; zeros for padding.
    boxes: centre, width and height of the true boxes.
    weights: of the terms.
  """
  there, absent = class_losses(logits, weights)
  cost = weights.classes * jnp.einsum(
    "nk,mk->nm", there - absent, classes, precision=jax.lax.Precision.HIGHEST
  )
  distance = jnp.abs(predicted[:, None] - boxes[None]).sum(axis=-1)
  overlap, _ = boxes_lib.giou(
    boxes_lib.corners(predicted)[:, None], boxes_lib.corners(boxes)[None]
  )
  cost += weights.box * distance - weights.giou * overlap
  is_real = is_there(classes)
  # The assignment is for finite costs: with others, optax 0.2.4 goes on for
  # ever, and 0.2.8 takes -inf for the best.
  is_known = is_real[None] & (jnp.abs(cost) < _MOST)
  most = jnp.where(is_known, cost, -jnp.inf).max()
  padding = 1.1 * jnp.where(is_known.any(), most, 1) + 10
  return jnp.where(is_known, cost, padding)


def is_there(classes: Float[Array, "*m K"]) -> Bool[Array, "*m"]:
  """Tells which true boxes are no padding."""
  return (classes > 0).any(axis=-1)


def assign(
  cost: Float[Array, "N M"], is_real: Bool[Array, " M"]
) -> Int32[Array, " M"]:
  """Returns the prediction of each true box, at the least cost in total.

  Each padding gets a further prediction of its own, which costs it least. So
  the algorithm, whose steps follow one another, finds it at once: among equal
  costs it would try all that others have, thousands of steps for an image.

  Args:
    cost: of each prediction for each true box, finite; N is at least the number
      of true boxes.
    is_real: which of these are no padding; the prediction of padding is 0.
  """
  least, most = cost.min() - 1, cost.max()
  most += jnp.abs(most) + 1
  own = jnp.where(jnp.diag(~is_real), least, most)
  rows, columns = optax.assignment.hungarian_algorithm(
    jnp.concatenate([cost, own])
  )
  chosen = jnp.zeros(cost.shape[1], jnp.int32).at[columns].set(rows)
  return jnp.where(is_real, chosen, 0)


def losses(
  logits: Float[Array, "B N K"],
  predicted: Float[Array, "B N 4"],
  classes: Float[Array, "B M K"],
  boxes: Float[Array, "B M 4"],
  weights: Weights,
  counts: tuple[Float[Array, " B"], Float[Array, " B"]] | None = None,
) -> dict[str, Float32[Array, " B"]]:
  """Returns the losses of images: `classes`, `box`, `giou`, and their `total`.

  Args:
    logits: of the classes, -1e6 for those that do not count for an image.
    predicted: centre, width and height of predicted boxes.
    classes: weights of the classes of each true box; zeros for padding.
    boxes: centre, width and height of the true boxes.
    weights: of the terms in the total; the others are without them.
    counts: what the terms of an image are divided by: the classes' by the first
      and the boxes' by the second. None for the numbers of classes and of boxes
      that are there in the image, or 1.
  """
  cost = jax.vmap(lambda *image: costs(*image, weights))(
    *jax.lax.stop_gradient((logits, predicted, classes, boxes))
  )
  is_real = is_there(classes)
  chosen = jax.vmap(assign)(cost, is_real)
  if counts is None:
    counts = classes.sum(axis=(1, 2)), is_real.sum(axis=1)
  divide = [1 / jnp.maximum(count, 1) for count in counts]
  targets = jax.vmap(
    lambda rows, classes: (
      jnp.zeros((logits.shape[1], classes.shape[1])).at[rows].add(classes)
    )
  )(chosen, jnp.where(is_real[..., None], classes, 0))
  there, absent = class_losses(logits, weights)
  terms = targets * there + (1 - targets) * absent
  matched = jnp.take_along_axis(predicted, chosen[..., None], axis=1)
  pairs = boxes_lib.corners(matched), boxes_lib.corners(boxes)
  distance = jnp.abs(pairs[0] - pairs[1]).sum(axis=-1)
  overlap, _ = boxes_lib.giou(*pairs)
  result = {
    "classes": terms.sum(axis=(1, 2)) * divide[0],
    "box": jnp.where(is_real, distance, 0).sum(axis=1) * divide[1],
    "giou": jnp.where(is_real, 1 - overlap, 0).sum(axis=1) * divide[1],
  }
  total = sum(getattr(weights, name) * term for name, term in result.items())
  return {**result, "total": total}
