"""Closed-form counts of a Segmenter's decoder, which `cost` adds to the tower.

Letters: n patches, d width, h w grid of patches.
"""

from typing import Any

from tokenlearner_flexivit.models import layer_costs
from tokenlearner_flexivit.models.layer_costs import Cost
from tokenlearner_flexivit.models.token_learner import ALL


def forward(
  model: Any,
  grid: tuple[int, int],
  patch: tuple[int, int],
  num_tokens: int | str | None,
  tokens: int,
) -> Cost:
  """Returns the cost of a Segmenter's decoder and of resizing its logits.

  Args:
    model: a `models.Segmenter`.
    grid: of patches.
    patch: size in pixels.
    num_tokens: the dial.
    tokens: number of tokens that leave the tower, without cls.
  """
  (h, w), d, classes = grid, model.width, model.num_classes
  n = h * w
  config = model.token_learner
  is_fewer = config is not None and num_tokens != ALL and not config["fuser"]
  total = layer_costs.norm(n, d) if is_fewer else Cost()
  if model.decoder == "linear":
    if is_fewer:
      total += Cost(tokens * n * d, 2 * tokens * n + n * d)
    total += layer_costs.dense(n, d, classes)
  else:
    decoded = tokens + classes
    block = layer_costs.block(decoded, d, model.mlp_dim, model.num_heads)
    total += block * model.decoder_depth
    total += layer_costs.dense(tokens, d, d) + layer_costs.norm(decoded, d)
    if is_fewer:
      total += layer_costs.dense(n, d, d) + layer_costs.norm(n, d)
    # Projections without bias, their lengths, and the products.
    vectors = n + classes
    total += Cost(vectors * d * d + n * d * classes, 3 * vectors * d)
    total += layer_costs.norm(n, classes)
  height, width = h * patch[0], w * patch[1]
  # An axis that keeps its size costs nothing.
  rows = 0 if patch[0] == 1 else height * h * w * classes
  columns = 0 if patch[1] == 1 else height * width * w * classes
  return total + Cost(rows + columns)


def num_params(model: Any) -> int:
  """Returns the number of parameters of a Segmenter beside its tower."""
  d, classes, config = model.width, model.num_classes, model.token_learner
  total = 0 if config is None or config["fuser"] else 2 * d
  if model.decoder == "linear":
    return total + (d + 1) * classes
  block = 8 * d + 4 * d * d + 2 * d * model.mlp_dim + model.mlp_dim + d
  projections = d * (d + 1) + 2 * d * d
  norms = 2 * d + 2 * classes
  return total + classes * d + projections + norms + model.decoder_depth * block
