"""Closed-form counts of the operations of a model's layers.

Letters: n tokens, d width, h w grid of patches of a frame, s learned tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cost:
  """The operations of a part of a model.

  Attributes:
    macs: multiply-adds in matrix products and convolutions.
    elementwise: additions, products, maxima, ... outside of these. The
      functions below leave out terms that grow with neither n * d nor n * n.
  """

  macs: int = 0
  elementwise: int = 0

  def __add__(self, other: "Cost") -> "Cost":
    return Cost(self.macs + other.macs, self.elementwise + other.elementwise)

  def __mul__(self, times: int) -> "Cost":
    return Cost(self.macs * times, self.elementwise * times)


def norm(n: int, d: int) -> Cost:
  """Returns the cost of a LayerNorm."""
  # Mean, mean of squares (3), centring, scale (2) and bias.
  return Cost(0, 7 * n * d)


def dense(n: int, d: int, out: int) -> Cost:
  """Returns the cost of a dense layer with biases."""
  return Cost(n * d * out, n * out)


def gelu(elements: int) -> Cost:
  """Returns the cost of a GELU."""
  return Cost(0, 8 * elements)  # The tanh form; the tanh itself is not counted.


def mlp(n: int, d: int, hidden: int, out: int) -> Cost:
  """Returns the cost of two dense layers with a GELU between them."""
  return dense(n, d, hidden) + gelu(n * hidden) + dense(n, hidden, out)


def attention(queries: int, n: int, d: int, heads: int) -> Cost:
  """Returns the cost of multi-head attention of queries to n tokens."""
  # Maximum, difference and sum for each pair; query and result are scaled.
  pairs = Cost(2 * queries * n * d, 3 * heads * queries * n + 2 * queries * d)
  return (dense(queries, d, d) + dense(n, d, d)) * 2 + pairs


def block(n: int, d: int, mlp_dim: int, heads: int) -> Cost:
  """Returns the cost of an encoder block, residuals included."""
  residuals = Cost(0, 2 * n * d)
  layers = attention(n, n, d, heads) + mlp(n, d, mlp_dim, d)
  return norm(n, d) * 2 + layers + residuals


def text(fields: Mapping[str, Any], length: int) -> Cost:
  """Returns the cost of a text in a tower with these `TextTransformer` fields.

  Args:
    fields: all of them.
    length: of the text, in tokens.
  """
  width, hidden, heads = (fields[k] for k in ("width", "mlp_dim", "num_heads"))
  total = block(length, width, hidden, heads) * fields["depth"]
  if fields["pool"] == "map":
    total += attention(1, length, width, heads)
    total += mlp(1, width, hidden, width)
  if fields["embed_dim"]:
    total += dense(1, width, fields["embed_dim"])
  return total


def token_learner(grid: tuple[int, int], s: int, d: int, config: Any) -> Cost:
  """Returns the cost of TokenLearner: of its maps and of pooling by them."""
  (h, w), learned = grid, config["num_tokens"]
  n = h * w
  if config["version"] == "average":
    return Cost(s * n * d)
  if config["version"] == "1.0":
    # Products of a 3x3 kernel with the padding are not counted. The first three
    # convolutions have all channels, whatever s is.
    taps = (3 * h - 2) * (3 * w - 2)
    convs = Cost(taps * (d * learned + 2 * learned**2 + learned * s))
    maps = convs + gelu(3 * n * learned) + Cost(0, 3 * n * s)
  else:
    maps = mlp(n, d, config["bottleneck_dim"], s) + Cost(0, 4 * n * s)
  return norm(n, d) + maps + Cost(s * n * d)


def token_fuser(n: int, s: int, d: int, config: Any) -> Cost:
  """Returns the cost of TokenFuser: mix, mask, product, residual."""
  mix = norm(s, d) * 2 + dense(d, s, s)
  mask = mlp(n, d, config["bottleneck_dim"], s) + Cost(0, 3 * n * s)
  return norm(n, d) + mix + mask + Cost(n * s * d, n * d)
