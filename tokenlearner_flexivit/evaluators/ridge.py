"""Least squares with an L2 penalty, for many penalties from one decomposition.

Letters: N examples, D features, C classes, R = min(N, D + 1), L penalties.

With X [N, D + 1] and Y [N, C] the solution for the penalty l is

    (X^T X + l I)^-1 X^T Y = X^T (X X^T + l I)^-1 Y

(Murphy, Machine Learning, section 7.5; the right side is the dual). The smaller
of the two matrices is decomposed once as Q diag(e) Q^T, which serves every l:
only 1 / (e + l) changes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float64, Int32, Num

BIAS = 100.0
_MIN_SCALE = 1e-5


class Solution(NamedTuple):
  """A solution for every penalty l: left diag(1 / (eigenvalues + l)) right.

  Attributes:
    mean: of the features solved for.
    scale: their standard deviation plus 1e-5.
    left: the factor on the side of the features.
    eigenvalues: not negative.
    right: the factor on the side of the classes.
  """

  mean: Float[ArrayLike, " D"]
  scale: Float[ArrayLike, " D"]
  left: Float[ArrayLike, "D+1 R"]
  eigenvalues: Float[ArrayLike, " R"]
  right: Float[ArrayLike, "R C"]


def solve(
  features: Float[np.ndarray, "N D"], targets: Num[np.ndarray, "N C"]
) -> Solution:
  """Solves, in float64, for a linear map to targets, for every penalty.

  As in big_vision's and Scenic's few-shot evaluation, features get mean 0 and
  standard deviation 1, and one more feature is always 100. Its weight is the
  bias. The penalty applies to it, too, but so large a feature needs so small a
  weight that this hardly matters.
  """
  features = np.asarray(features, np.float64)
  mean = features.mean(axis=0)
  scale = features.std(axis=0) + _MIN_SCALE
  x = np.empty((features.shape[0], features.shape[1] + 1))
  x[:, :-1] = (features - mean) / scale
  x[:, -1] = BIAS
  if x.shape[0] >= x.shape[1]:
    eigenvalues, q = np.linalg.eigh(x.T @ x)
    left, right = q, q.T @ (x.T @ targets)
  else:
    eigenvalues, q = np.linalg.eigh(x @ x.T)
    left, right = x.T @ q, q.T @ targets
  # Rounding moves zeros a little below zero.
  return Solution(mean, scale, left, np.maximum(eigenvalues, 0), right)


def weights(solution: Solution, l2: float) -> Float64[np.ndarray, "rows C"]:
  """Returns the weights for a penalty, the bias's in the last row.

  They apply to standardised features followed by the feature of 100.
  """
  scaled = solution.right / (solution.eigenvalues[:, None] + l2)
  return solution.left @ scaled


def classify(
  solution: Solution,
  features: Float[Array, "B D"],
  l2: Float[ArrayLike, " L"],
) -> Int32[Array, "L B"]:
  """Returns the classes of largest score for each penalty; traceable."""
  x = (features - solution.mean[None]) / solution.scale[None]
  x = jnp.pad(x, ((0, 0), (0, 1)), constant_values=BIAS)
  # TPUs and newer GPUs round the factors of a product by default.
  multiply = functools.partial(jnp.matmul, precision="highest")
  x = multiply(x, solution.left)

  def best(l2):
    scores = multiply(x / (solution.eigenvalues + l2)[None], solution.right)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)

  # One penalty after the other, so that memory holds the scores of only one.
  return jax.lax.map(best, l2)
