r"""Parameters and operations of a forward pass, in closed form.

`macs` counts the multiply-adds of matrix products, which is what TokenLearner
and timm print as GFLOPS or GMACs; FlexiViT's GFLOPs count multiplication and
addition, so they are twice as many. `operations` adds the rest of what XLA
counts. For an image these are biases, norms, softmax and activations: 0.2 to
1.2% in the standard sizes. For a call it is bringing the patch kernel and the
position embedding to size, which at a batch of one and 25 tokens can be 18%.
`experiments/cost` compares all of it with XLA and with published figures. For
one model:

  python -m tokenlearner_flexivit.analysis.flops --variant=B/16 \
    --image_size=384 --token_learner_layer=6 --num_tokens=8

Letters: n tokens, d width, h w grid of patches, s learned tokens.
"""

import argparse
import dataclasses
import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import patch_embed
from tokenlearner_flexivit.models.token_learner import ALL


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a part of a model does.

  Attributes:
    macs: multiply-adds in matrix products and convolutions.
    elementwise: additions, products, maxima, ... outside of these. The
      functions below leave out what grows with neither n * d nor n * n.
  """

  macs: int = 0
  elementwise: int = 0

  def __add__(self, other: "Cost") -> "Cost":
    return Cost(self.macs + other.macs, self.elementwise + other.elementwise)

  def __mul__(self, times: int) -> "Cost":
    return Cost(self.macs * times, self.elementwise * times)


def _norm(n: int, d: int) -> Cost:
  # Mean, mean of squares (3), centring, scale (2) and bias.
  return Cost(0, 7 * n * d)


def _dense(n: int, d: int, out: int) -> Cost:
  return Cost(n * d * out, n * out)


def _gelu(elements: int) -> Cost:
  return Cost(0, 8 * elements)  # The tanh form; the tanh is no operation.


def _mlp(n: int, d: int, hidden: int, out: int) -> Cost:
  return _dense(n, d, hidden) + _gelu(n * hidden) + _dense(n, hidden, out)


def _attention(queries: int, n: int, d: int, heads: int) -> Cost:
  # Maximum, difference and sum for each pair; scaled are query and result.
  pairs = Cost(2 * queries * n * d, 3 * heads * queries * n + 2 * queries * d)
  return (_dense(queries, d, d) + _dense(n, d, d)) * 2 + pairs


def _block(n: int, d: int, mlp_dim: int, heads: int) -> Cost:
  residuals = Cost(0, 2 * n * d)
  layers = _attention(n, n, d, heads) + _mlp(n, d, mlp_dim, d)
  return _norm(n, d) * 2 + layers + residuals


def _token_learner(grid: tuple[int, int], s: int, d: int, config: Any) -> Cost:
  """TokenLearner: the maps, and the pooling by them."""
  (h, w), learned = grid, config["num_tokens"]
  n = h * w
  if config["version"] == "average":
    return Cost(s * n * d)
  if config["version"] == "1.0":
    # Products of a 3x3 kernel with the zeros around the grid are none. The
    # first three convolutions have all channels, whatever s is.
    taps = (3 * h - 2) * (3 * w - 2)
    convs = Cost(taps * (d * learned + 2 * learned**2 + learned * s))
    maps = convs + _gelu(3 * n * learned) + Cost(0, 3 * n * s)
  else:
    maps = _mlp(n, d, config["bottleneck_dim"], s) + Cost(0, 4 * n * s)
  return _norm(n, d) + maps + Cost(s * n * d)


def _token_fuser(n: int, s: int, d: int, config: Any) -> Cost:
  """TokenFuser: the mix over tokens, the mask, the way back, the residual."""
  mix = _norm(s, d) * 2 + _dense(d, s, s)
  mask = _mlp(n, d, config["bottleneck_dim"], s) + Cost(0, 3 * n * s)
  return _norm(n, d) + mix + mask + Cost(n * s * d, n * d)


def _head(model: Any) -> list[tuple[int, int]]:
  """Inputs and outputs of the dense layers after pooling."""
  rep_size = model.width if model.rep_size is True else model.rep_size
  sizes = [n for n in (model.width, rep_size, model.num_classes) if n]
  return list(itertools.pairwise(sizes))


def _forward(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: patch_embed.Size | None,
  num_tokens: int | str | None,
) -> Cost:
  """One image's forward pass, without `_resize_macs`."""
  *size, channels = image_shape
  h, w = model.check(size, patch_size, num_tokens)
  d, mlp_dim, heads = model.width, model.mlp_dim, model.num_heads
  seq_lens = model.seq_lens(size, patch_size, num_tokens)
  pixels = (size[0] // h) * (size[1] // w)
  posemb = Cost(0, h * w * d)
  total = _dense(h * w, pixels * channels, d) + posemb
  for n in seq_lens:
    total += _block(n, d, mlp_dim, heads)

  out_tokens = seq_lens[-1]
  config = model.token_learner
  if config is not None and num_tokens != ALL:
    s = num_tokens or config["num_tokens"]
    learn = _token_learner((h, w), s, d, config)
    if config["fuser"]:
      learn += _token_fuser(h * w, s, d, config)
      learn *= model.depth - config["layer"]
      out_tokens += h * w - s
    total += learn
  total += _norm(out_tokens, d)

  if model.pool == "map":
    total += _attention(1, out_tokens, d, heads) + _mlp(1, d, mlp_dim, d)
  elif model.pool == "gap":
    total += Cost(0, out_tokens * d)
  for features, out in _head(model):
    total += _dense(1, features, out)
  return total


def _resize_macs(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: patch_embed.Size | None,
) -> int:
  """Kernel and position embedding brought to size, once per call."""
  *size, channels = image_shape
  h, w = model.check(size, patch_size)
  # Rows, then columns; an axis that has its size already costs nothing.
  resizes = [((size[0] // h, size[1] // w), model.patch_size, channels)]
  if model.posemb == "learn":
    resizes.append(((h, w), model.posemb_grid, 1))
  total = 0
  for new, old, features in resizes:
    rows = new[0] * old[0] * old[1] if new[0] != old[0] else 0
    columns = new[0] * old[1] * new[1] if new[1] != old[1] else 0
    total += (rows + columns) * features * model.width
  return total


def macs(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: patch_embed.Size | None = None,
  num_tokens: int | str | None = None,
) -> int:
  """Multiply-adds of one image's forward pass, in matrix products alone.

  Args:
    model: a `models.ViT`.
    image_shape: (H, W, C).
    patch_size: None for the model's own.
    num_tokens: None for all learned tokens, "all" for all patches to the end.

  Returns:
    The number of multiply-adds.

  Raises:
    ValueError: for a patch size that does not divide the image, or an
      impossible number of tokens.
  """
  return _forward(model, image_shape, patch_size, num_tokens).macs


def operations(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: patch_embed.Size | None = None,
  num_tokens: int | str | None = None,
) -> dict[str, int]:
  """Operations of a forward pass in float32, as XLA counts them.

  A multiply-add is two. Exponentials, tanh and square roots are none: XLA
  counts them apart, and they are about a thousandth as many.

  Args and errors are those of `macs`.

  Returns:
    dict of matmul and elementwise, which are per image, and resize, which is
    per call. Their sum is XLA's count for a batch of one.
  """
  cost = _forward(model, image_shape, patch_size, num_tokens)
  return {
    "matmul": 2 * cost.macs,
    "elementwise": cost.elementwise,
    "resize": 2 * _resize_macs(model, image_shape, patch_size),
  }


def xla_operations(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: patch_embed.Size | None = None,
  num_tokens: int | str | None = None,
  batch_size: int = 1,
) -> float:
  """XLA's own count for a whole batch, to check `operations` with.

  Args and errors are those of `macs`.
  """
  images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)

  def apply(params, images):
    return model.apply(
      params, images, patch_size=patch_size, num_tokens=num_tokens
    )[0]

  # Counted before compilation, in what the model says. Afterwards it is what
  # a backend has made of that, and on GPUs the products that became calls of a
  # library have been left out (jax issues 16008, 22249).
  return jax.jit(apply).lower(params, images).cost_analysis()["flops"]


def num_params(model: Any, channels: int = 3) -> int:
  """Number of parameters.

  Args:
    model: a `models.ViT`.
    channels: of the images.
  """

  def dense(n_in, n_out):
    return (n_in + 1) * n_out

  def mlp(hidden, out):
    return dense(d, hidden) + dense(hidden, out)

  d = model.width
  norm, attention = 2 * d, 4 * dense(d, d)
  layers = attention + mlp(model.mlp_dim, d)
  p, q = model.patch_size
  total = dense(p * q * channels, d)
  total += model.depth * (2 * norm + layers) + norm
  if model.posemb == "learn":
    total += model.posemb_grid[0] * model.posemb_grid[1] * d
  total += {"gap": 0, "tok": d, "map": d + norm + layers}[model.pool]

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

  return total + sum(dense(*layer) for layer in _head(model))


def main(argv: list[str] | None = None) -> None:
  """Prints what a model costs; bad input is an error of one line."""
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.analysis.flops",
    description="Parameters of a model, and operations for one image.",
  )
  add = parser.add_argument
  add("--variant", required=True, help='as in "B/16", or "B" for FlexiViT')
  add("--image_size", type=int, default=224, help="in pixels")
  add("--patch_size", type=int, help="in pixels, if not the variant's")
  add("--depth", type=int, help="number of blocks, if not the variant's")
  add("--token_learner_layer", type=int, help="first block of learned tokens")
  add("--num_tokens", type=int, help="how many are learned")
  add("--fuser", action="store_true", help="TokenFuser after each of them")
  add("--num_classes", type=int, default=1000, help="0 for no head")
  add("--pool", default="gap", help="gap, tok or map")
  args = parser.parse_args(argv)
  learned = (args.token_learner_layer, args.num_tokens)
  if None in learned and (learned != (None, None) or args.fuser):
    parser.error("TokenLearner needs --token_learner_layer and --num_tokens.")
  for name, least in (("depth", 1), ("num_classes", 0)):
    value = getattr(args, name)
    if value is not None and value < least:
      parser.error(f"--{name} must be at least {least}, got {value}.")
  try:
    print(_describe(args))
  except ValueError as error:
    sys.exit(f"Error: {error}")


def _describe(args: argparse.Namespace) -> str:
  given = dict(num_classes=args.num_classes or None, pool=args.pool)
  if args.depth is not None:
    given["depth"] = args.depth
  model = plain = models.ViT.from_variant(args.variant, **given)
  if args.num_tokens is not None:
    model = plain.clone(
      token_learner=dict(
        layer=args.token_learner_layer,
        num_tokens=args.num_tokens,
        fuser=args.fuser,
      )
    )
  call = ((args.image_size, args.image_size, 3), args.patch_size)
  lens = model.seq_lens(args.image_size, args.patch_size)
  tokens = [f"{n} in {lens.count(n)} blocks" for n in dict.fromkeys(lens)]
  count = operations(model, *call)
  gmacs = f"{macs(model, *call) / 1e9:.4g} G"
  if model is not plain:
    gmacs += f", without TokenLearner {macs(plain, *call) / 1e9:.4g} G"
  parts = [f"{name} {n / 1e9:.3g} G" for name, n in count.items()]
  return "\n".join(
    [
      f"parameters     {num_params(model):,}",
      f"tokens         {', then '.join(tokens)}",
      f"multiply-adds  {gmacs}",
      f"operations     {sum(count.values()) / 1e9:.4g} G: {', '.join(parts)}",
    ]
  )


if __name__ == "__main__":
  main()
