"""Closed-form counts of parameters and operations, for images and videos.

`macs` counts the multiply-adds of matrix products, which TokenLearner and timm
print as GFLOPS or GMACs; FlexiViT's GFLOPs count multiplication and addition
separately, so they are twice as many. `operations` adds the other operations
that XLA counts. Per image these are biases, norms, softmax and activations: 0.2
to 1.2% in the standard sizes. Per call they are the resizing of the patch
kernel and the position embedding, which can be 18% at a batch of one and 25
tokens. `experiments/cost` compares these counts with XLA and with published
figures. `python -m tokenlearner_flexivit.analysis.flops` prints them for one
model.

For a model for videos everything is per clip, or view: `image_shape` is (T, H,
W, C), and learned tokens are counted per frame. `BottleneckViViT` consists
mostly of convolutions and has no closed form, nor have the heads of `OwlViT`:
XLA counts for them. For `TwoTowers` and `OwlViT` it is per image: the image
tower and its heads, without any text. For `UViM` it is the image tower alone;
`UViM.cost` adds the decoders of code and labels.

Letters: n tokens, d width, h w grid of patches of a frame, s learned tokens.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import (
  decoder_costs,
  layer_costs,
  protocol,
  tiling,
)
from tokenlearner_flexivit.models.layer_costs import Cost
from tokenlearner_flexivit.models.token_learner import ALL

# Models without a closed form.
_COUNTED = models.BottleneckViViT | models.OwlViT
# Models whose own `cost` adds to the tower, or takes its place.
_OF_CODES = models.UViM | models.LabelCoder


def _head(model: Any) -> list[tuple[int, int]]:
  """Returns inputs and outputs of the dense layers after pooling."""
  rep_size = model.width if model.rep_size is True else model.rep_size
  pooled = model.width * (2 if model.pool == "tok_gap" else 1)
  sizes = [n for n in (pooled, rep_size, model.num_classes) if n]
  heads = 2 if model.pool == "tok_dist" else 1
  return heads * list(itertools.pairwise(sizes))


def _cut(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None,
  num_tokens: int | str | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the grid and the size of a patch, both with frames for a video."""
  *size, _ = image_shape
  grid = model.check(size, patch_size, num_tokens)
  if isinstance(model, models.ViViT):
    size = model.sampled_size(size)
  elif isinstance(model, models.Segmenter):
    size = model.padded_size(size, patch_size)
  return grid, tuple(s // g for s, g in zip(size, grid, strict=True))


def _encoder(
  model: Any,
  seq_lens: Sequence[int],
  grid: tuple[int, ...],
  num_tokens: int | str | None,
) -> tuple[Cost, int]:
  """Returns an encoder's cost, last norm included, and its number of tokens."""
  d, config = model.width, model.token_learner
  *frames, h, w = grid
  frames = math.prod(frames)
  total = sum(
    (layer_costs.block(n, d, model.mlp_dim, model.num_heads) for n in seq_lens),
    Cost(),
  )
  out_tokens = seq_lens[-1]
  if config is not None and num_tokens != ALL:
    s = num_tokens or config["num_tokens"]
    learn = layer_costs.token_learner((h, w), s, d, config)
    if config["fuser"]:
      learn += layer_costs.token_fuser(h * w, s, d, config)
      learn *= model.depth - config["layer"]
      out_tokens += frames * (h * w - s)
    total += learn * frames
  if model.norm == "before_pool":
    total += layer_costs.norm(out_tokens, d)
  return total, out_tokens


def _pool(model: Any, n: int) -> Cost:
  """Returns the cost of pooling n tokens, cls and registers among them."""
  d, patches = model.width, n - model.num_prefix
  total = Cost()
  if model.norm == "after_pool":
    total += layer_costs.norm(1, d)
  if model.pool == "map":
    total += layer_costs.attention(1, patches, d, model.num_heads)
    return total + layer_costs.mlp(1, d, model.mlp_dim, d)
  averaged = {"tok": 0, "tok_dist": 2}.get(model.pool, patches)
  return total + Cost(0, averaged * d)


def _forward(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None,
  num_tokens: int | str | None,
) -> Cost:
  """Returns the cost of one image or video, without `_resize_macs`."""
  *size, channels = image_shape
  grid, patch = _cut(model, image_shape, patch_size, num_tokens)
  d, n = model.width, math.prod(grid)
  seq_lens = model.seq_lens(size, patch_size, num_tokens)
  posemb = Cost(0, n * d)
  total = layer_costs.dense(n, math.prod(patch) * channels, d) + posemb
  if model.pre_norm:
    total += layer_costs.norm(n + model.num_prefix, d)
  if isinstance(model, models.ViViTFactorised):
    frames, *frame = grid
    cost, out_tokens = _encoder(
      model, seq_lens[: model.depth], frame, num_tokens
    )
    total += (cost + _pool(model, out_tokens)) * frames + Cost(0, frames * d)
    in_time = seq_lens[model.depth :]
    cost, out_tokens = _encoder(model, in_time, (1, frames), ALL)
  else:
    cost, out_tokens = _encoder(model, seq_lens, grid, num_tokens)
  total += cost + _pool(model, out_tokens)
  if isinstance(model, models.Segmenter):
    tokens = out_tokens - model.num_prefix
    return total + decoder_costs.forward(model, grid, patch, num_tokens, tokens)
  if isinstance(model, models.TwoTowers):
    total += Cost(0, 3 * model.embed_dim)  # The length and the division.
  for features, out in _head(model):
    total += layer_costs.dense(1, features, out)
  return total


def _resize_macs(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None,
) -> int:
  """Returns the multiply-adds of resizing kernel and position embedding."""
  channels = image_shape[-1]
  grid, patch = _cut(model, image_shape, patch_size)
  # A kernel without frames is not resized in time.
  axes = len(model.patch_size)
  resizes = [(patch[-axes:], model.patch_size, channels)]
  if isinstance(model, models.ViViTFactorised):
    resizes.append((grid[:1], model.posemb_grid[:1], 1))
    resizes.append((grid[1:], model.posemb_grid[1:], 1))
  elif model.posemb == "learn":
    resizes.append((grid, model.posemb_grid, 1))
  return model.width * sum(
    _resize(new, old) * features for new, old, features in resizes
  )


def _resize(new: tuple[int, ...], old: tuple[int, ...]) -> int:
  """Returns the products that resize one feature, axis after axis.

  An axis that keeps its size costs nothing.
  """
  total = 0
  for axis, (n, o) in enumerate(zip(new, old, strict=True)):
    if n != o:
      total += math.prod(new[: axis + 1]) * math.prod(old[axis:])
  return total


def macs(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None = None,
  num_tokens: int | str | None = None,
) -> int:
  """Returns the multiply-adds of one image's forward pass, in matrix products.

  Args:
    model: one of `models`. For a `models.BottleneckViViT` or `models.OwlViT`
      the count includes operations outside of matrix products.
    image_shape: (H, W, C); (T, H, W, C) for the cost of one video.
    patch_size: None for the model's own.
    num_tokens: None for all learned tokens, "all" for all patches to the end.

  Returns:
    The number of multiply-adds.

  Raises:
    ValueError: for a patch size that does not divide the image, or an
      impossible number of tokens.
  """
  if isinstance(model, _COUNTED):
    return _counted(model, image_shape, patch_size, num_tokens)[0] // 2
  return _forward(model, image_shape, patch_size, num_tokens).macs


def operations(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None = None,
  num_tokens: int | str | None = None,
) -> dict[str, int]:
  """Returns the operations of a forward pass in float32, as XLA counts them.

  A multiply-add counts as two. Exponentials, tanh and square roots do not
  count: XLA counts them apart, and they are about a thousandth as many.

  Arguments and errors are those of `macs`.

  Returns:
    dict of matmul and elementwise, which are per image, and resize, which is
    per call. Their sum is XLA's count for a batch of one.
  """
  if isinstance(model, _COUNTED):
    counted, once = _counted(model, image_shape, patch_size, num_tokens)
    return {"matmul": counted, "elementwise": 0, "resize": once}
  cost = _forward(model, image_shape, patch_size, num_tokens)
  return {
    "matmul": 2 * cost.macs,
    "elementwise": cost.elementwise,
    "resize": 2 * _resize_macs(model, image_shape, patch_size),
  }


def xla_operations(
  model: Any,
  image_shape: Sequence[int],
  patch_size: tiling.Size | None = None,
  num_tokens: int | str | None = None,
  batch_size: int = 1,
) -> float:
  """Returns XLA's own count for a whole batch, to check `operations` with.

  Arguments and errors are those of `macs`.
  """
  setting = dict(patch_size=patch_size, num_tokens=num_tokens)
  return protocol.xla_operations(model, image_shape, setting, batch_size)


def _counted(
  model: Any, image_shape: Sequence[int], *setting: Any
) -> tuple[int, int]:
  """Returns the result of `protocol.count` for an image or a clip."""
  names = ("patch_size", "num_tokens")
  values = tuple(zip(names, setting, strict=True))
  return protocol.count(model, tuple(image_shape), values)


def num_params(model: Any, channels: int = 3) -> int:
  """Returns the number of parameters of a model.

  Args:
    model: one of `models`.
    channels: number of channels of the images.
  """
  if isinstance(model, _COUNTED | models.TwoTowers | _OF_CODES):
    shape = (1, *models.input_shape(model, channels))
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(params))

  def dense(n_in, n_out):
    return (n_in + 1) * n_out

  def mlp(hidden, out):
    return dense(d, hidden) + dense(hidden, out)

  d = model.width
  norm, attention = 2 * d, 4 * dense(d, d)
  layers = attention + mlp(model.mlp_dim, d)
  total = dense(math.prod(model.patch_size) * channels, d)
  pool = d + norm + layers if model.pool == "map" else int(model.has_cls) * d
  total += model.depth * (2 * norm + layers) + norm + pool
  total += norm if model.pre_norm else 0
  total += model.registers * d
  if isinstance(model, models.ViViTFactorised):
    frames, h, w = model.posemb_grid
    total += (frames + h * w) * d
    total += model.temporal_depth * (2 * norm + layers) + norm + pool
  elif model.posemb == "learn":
    total += math.prod(model.posemb_grid) * d

  config = model.token_learner
  if config is not None:
    s = config["num_tokens"]
    mask = mlp(config["bottleneck_dim"], s)
    convs = 9 * (d * s + 3 * s**2)
    learn = {
      "1.1": norm + mask,
      "1.0": norm + convs,
      "average": 0,
    }[config["version"]]
    if config["fuser"]:
      learn += 3 * norm + dense(s, s) + mask
      learn *= model.depth - config["layer"]
    total += learn

  if isinstance(model, models.Segmenter):
    return total + decoder_costs.num_params(model)
  return total + sum(dense(*layer) for layer in _head(model))
