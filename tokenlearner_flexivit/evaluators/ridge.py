"""Least squares with an L2 penalty, for many penalties from one decomposition.

Letters: N examples, D features, C classes, R = min(N, D + 1), L penalties.

With X [N, D + 1] and Y [N, C] the solution for the penalty l is

    (X^T X + l I)^-1 X^T Y = X^T (X X^T + l I)^-1 Y

(Murphy, Machine Learning, section 7.5; the right side is the dual). Either
matrix, and here it is the smaller, has one decomposition Q diag(e) Q^T that
serves every l: only 1 / (e + l) changes.
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
  """The weights left diag(1 / (eigenvalues + l)) right for every penalty l.

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
  """Decomposes, in float64, the system of a linear map to targets.

  As in big_vision's and Scenic's few-shot evaluation, features get mean 0 and
  standard deviation 1, and one more feature that is always 100. Its weight is
  the bias; it is under the penalty like all others, but so large a feature
  needs so small a weight that this hardly matters.
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
  # Rounding puts zeros a little below zero.
  return Solution(mean, scale, left, np.maximum(eigenvalues, 0), right)


def weights(solution: Solution, l2: float) -> Float64[np.ndarray, "rows C"]:
  """Returns the weights for a penalty, the bias's in the last row.

  They are for standardised features and the one of 100 behind them.
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
  # The default of TPUs and of newer GPUs rounds the factors of a product.
  multiply = functools.partial(jnp.matmul, precision="highest")
  x = multiply(x, solution.left)

  def best(l2):
    scores = multiply(x / (solution.eigenvalues + l2)[None], solution.right)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)

  # One by one: memory for the scores of one is enough.
  return jax.lax.map(best, l2)
