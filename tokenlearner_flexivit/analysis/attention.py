r"""The patches that an answer depends on: attention rollout and relevance.

Both multiply the attention of all blocks, and the maps of TokenLearner between
them, into one weight per patch:

* `rollout` (Abnar and Zuidema, arXiv 2005.00928): the mean of the heads, with
  half of each token its own by the residual connection. It sums to 1, cls token
  included, and does not depend on a class.
* `relevance` (Chefer, Gur and Wolf, arXiv 2103.15679, equations 5 and 6): the
  heads weighted by the gradient of a class's logit, without negative evidence.
  Its sum has no meaning. The mean of pool="gap" is treated as one more head, of
  equal weights: otherwise every token, being its own by the residual
  connections, would count the same before attention adds to it.

A learned token is a weighted sum of patches, so its weight goes back to them by
its map; where that does not sum to 1 (v1.0) it is scaled to. For a run, images
beside their maps at several patch sizes:

  python -m tokenlearner_flexivit.analysis.attention --workdir=WORKDIR \
    --output=attention.png [--images FILE ...] [--patch_sizes=24,12,6]

Letters: B batch, H W image, C channels, h w grid, N tokens, S learned tokens,
D width, d width of a head.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.analysis import captions as captions_lib
from tokenlearner_flexivit.analysis import command
from tokenlearner_flexivit.analysis import outputs as outputs_lib
from tokenlearner_flexivit.figures import drawing, overlay
from tokenlearner_flexivit.models import blocks, stacking
from tokenlearner_flexivit.models.token_learner import ALL

Weights = dict[str, jax.Array]
# The names, among the weights, of the layers that pool.
_POOLS = {"map": "MAPHead_0", "gap": "encoder_norm"}
_LIKELY = -1
METHODS = ("rollout", "relevance")
_TITLES = {
  "rollout": "Attention rollout; in the corner the answer",
  "relevance": "Relevance for the answer, which stands in the corner",
}


def weights(
  model: Any, params: Any, images: jax.Array, setting: dials.Setting
) -> Weights:
  """Returns the attention of every block; traceable.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, C].
    setting: of the dials.

  Returns:
    float32 [B, heads, N, N] by the name of the block's parameters, such as
    "encoderblock_0"; with pool="map" [B, heads, 1, N] as "MAPHead_0", with
    pool="gap" the equal weights [B, 1, 1, N] of its mean as "encoder_norm".
    Each row sums to 1.
  """
  return _watched(model, params, images, setting)[2]


def _watched(
  model: Any,
  params: Any,
  images: jax.Array,
  setting: dials.Setting,
  shifts: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, Any], Weights]:
  """Returns logits, out and attention; the model adds `shifts` to the last."""
  attention = {}

  def watch(
    run: Callable[..., Any], args: Any, kwargs: Any, context: Any
  ) -> Any:
    module = context.module
    if model.pool == "gap" and module.name == _POOLS["gap"]:
      x = run(*args, **kwargs)
      n = x.shape[1] - model.num_prefix
      weights = jnp.where(jnp.arange(x.shape[1]) < model.num_prefix, 0, 1 / n)
      attention[module.name] = jnp.broadcast_to(
        weights, (len(x), 1, 1, x.shape[1])
      )
      if not shifts:
        return x
      used = attention[module.name] + shifts[module.name]
      return x * (n * used[:, 0, 0, :, None]).astype(x.dtype)
    if not isinstance(module, blocks.MultiHeadDotProductAttention):
      return run(*args, **kwargs)
    arguments = inspect.signature(run).bind(*args, **kwargs).arguments
    name = module.path[-2]
    attention[name], value = _weights_and_values(
      module.variables["params"], arguments["x"], arguments.get("context"),
      arguments.get("mask"),
    )  # fmt: skip
    used = attention[name] + (shifts[name] if shifts else 0)
    out = module.variables["params"]["out"]
    y = jnp.einsum("bhmn,bhnd->bmhd", used, value)
    y = jnp.einsum("bmhd,hdk->bmk", y, out["kernel"]) + out["bias"][None, None]
    return y.astype(module.dtype)

  # Loops and recomputed blocks would not let the watched values out.
  plain = model.clone(scan=False, remat="none")
  with nn.intercept_methods(watch):
    logits, out = plain.apply({"params": params}, images, **setting)
  return logits, out, attention


def _weights_and_values(
  params: Mapping[str, Any],
  x: jax.Array,
  context: jax.Array | None,
  mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the softmax [B, heads, M, N] and the values [B, heads, N, d]."""
  context = x if context is None else context

  def project(name: str, x: jax.Array) -> jax.Array:
    kernel, bias = params[name]["kernel"], params[name]["bias"]
    y = jnp.einsum("bnk,khd->bhnd", x.astype(jnp.float32), kernel)
    return y + bias[None, :, None]

  query, key = project("query", x), project("key", context)
  logits = jnp.einsum("bhmd,bhnd->bhmn", query, key) * key.shape[-1] ** -0.5
  if mask is not None:
    logits = jnp.where(mask[None, None, None], logits, -jnp.inf)
  return jax.nn.softmax(logits, axis=-1), project("value", context)


def rollout(
  model: Any, params: Any, images: np.ndarray, setting: dials.Setting
) -> np.ndarray:
  """Returns the attention rollout to the pooled representation.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, C].
    setting: of the dials.

  Returns:
    float32 [B, h, w], not negative; together with the share of the cls token,
    if there is one, it sums to 1 over the grid.

  Raises:
    ValueError: TokenFuser, for which the methods are not defined.
  """
  _check(model, setting)
  return np.asarray(_rollout(model, params, jnp.asarray(images), setting))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _rollout(model, params, images, setting):
  _, out, attention = _watched(model, params, images, setting)
  mean = {name: x.mean(axis=1) for name, x in attention.items()}

  def through(attention, tokens):
    return (tokens + attention @ tokens) / 2

  return _to_grid(model, out, mean, setting, through)


def relevance(
  model: Any,
  params: Any,
  images: np.ndarray,
  setting: dials.Setting,
  classes: np.ndarray | None = None,
) -> np.ndarray:
  """Returns the evidence of each patch for a class.

  Args:
    model: a `models.ViT` with a head.
    params: its parameters.
    images: [B, H, W, C].
    setting: of the dials.
    classes: int [B]; None for the most likely class of each image.

  Returns:
    float32 [B, h, w], not negative.

  Raises:
    ValueError: a model that answers no classes, TokenFuser, or an unknown
      class.
  """
  _check(model, setting)
  outputs_lib.check_classifies(
    model, "So there is no class to explain: use method='rollout'."
  )
  if classes is None:
    classes = np.full(len(images), _LIKELY)
  else:
    classes = np.asarray(classes)
    fits = classes.shape == (len(images),) and classes.dtype.kind in "iu"
    if not fits or not ((classes >= 0) & (classes < model.num_classes)).all():
      raise ValueError(
        f"classes={classes.tolist()}: give one of 0 to {model.num_classes - 1} "
        f"for each of {len(images)} images."
      )
  images, classes = jnp.asarray(images), jnp.asarray(classes, jnp.int32)
  return np.asarray(_relevance(model, params, images, setting, classes))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _relevance(model, params, images, setting, classes):
  def score(shifts):
    logits, out, attention = _watched(model, params, images, setting, shifts)
    picked = jnp.where(classes < 0, jnp.argmax(logits, axis=-1), classes)
    # The sum over images: no image changes another's logits.
    total = jnp.take_along_axis(logits, picked[:, None], axis=-1).sum()
    return total, (attention, out)

  shapes = jax.eval_shape(lambda: _watched(model, params, images, setting)[2])
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  gradients, (attention, out) = jax.grad(score, has_aux=True)(zeros)
  weighted = {
    name: jax.nn.relu(gradients[name] * attention[name]).mean(axis=1)
    for name in attention
  }

  def through(attention, tokens):
    return tokens + attention @ tokens

  return _to_grid(model, out, weighted, setting, through)


def _to_grid(
  model: Any,
  out: Mapping[str, Any],
  attention: Mapping[str, jax.Array],
  setting: dials.Setting,
  through: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """Multiplies the attention of all blocks, in order, and of the pooling.

  Args:
    model: a `models.ViT`.
    out: of its call.
    attention: [B, N, N] of each block, [B, 1, N] of the pooling.
    setting: of the dials.
    through: returns the tokens after a block, as weights of the patches
      [B, N, N'], from its attention and the tokens before it.

  Returns:
    [B, h, w].
  """
  b, h, w = out["stem"].shape[:3]
  num_cls = model.num_prefix
  tokens = jnp.broadcast_to(
    jnp.eye(num_cls + h * w)[None], (b, num_cls + h * w, num_cls + h * w)
  )
  learner = None if setting.num_tokens == ALL else model.token_learner
  for i in range(model.depth):
    if learner is not None and i == learner["layer"]:
      maps = out["token_learner"]["maps"].reshape(b, -1, h * w)
      maps = maps / maps.sum(axis=-1, keepdims=True)
      learned = maps.astype(jnp.float32) @ tokens[:, num_cls:]
      tokens = jnp.concatenate([tokens[:, :num_cls], learned], axis=1)
    tokens = through(attention[stacking.block_name(i)], tokens)
  if model.pool == "tok":
    pooled = tokens[:, 0]
  else:
    weights = attention[_POOLS[model.pool]]
    # The pooling by attention sees the patches alone.
    before = tokens.shape[1] - weights.shape[2]
    weights = jnp.pad(weights, ((0, 0), (0, 0), (before, 0)))
    pooled = (weights @ tokens)[:, 0]
  return pooled[:, num_cls:].reshape(b, h, w)


def _check(model: Any, setting: dials.Setting) -> None:
  if model.pool not in ("tok", *_POOLS) or (
    model.pool == "gap" and model.norm != "before_pool"
  ):
    raise ValueError(
      f"Neither rollout nor relevance is defined for pool={model.pool!r} with"
      f" norm={model.norm!r}. Defined are pool='tok', 'map', and 'gap' with"
      " norm='before_pool'."
    )
  learner = None if setting.num_tokens == ALL else model.token_learner
  if learner is not None and learner["fuser"]:
    raise ValueError(
      "The model has a TokenFuser, through which neither rollout nor relevance "
      "is defined. Use num_tokens='all', or the maps of analysis.token_maps."
    )


def figure(
  model: Any,
  params: Any,
  images: np.ndarray,
  settings: Sequence[dials.Setting],
  method: str = "rollout",
  *,
  captions: Sequence[str] | None = None,
  class_names: Sequence[str] | None = None,
) -> drawing.Figure:
  """Draws images beside their maps, a column for each setting.

  The corner of each map shows the class that the model answers at its setting,
  if it answers by classes.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, 1 or 3].
    settings: of the dials.
    method: "rollout", or "relevance" for the most likely class.
    captions: words for each image, such as its class.
    class_names: of the model's classes; None for their numbers.

  Raises:
    ValueError: an unknown method, or an error of that method.
  """
  ways = {"rollout": rollout, "relevance": relevance}
  if method not in ways:
    raise ValueError(f"method={method!r} must be one of {list(ways)}.")
  maps = [
    outputs_lib.without_padding(
      model,
      ways[method](model, params, images, setting),
      images.shape[1:3],
      setting.get("patch_size"),
    )
    for setting in settings
  ]
  answers = [[""] * len(images) for _ in settings]
  if outputs_lib.classifies(model):
    answers = [
      captions_lib.answer_names(model, params, images, s, class_names)
      for s in settings
    ]
  captions = captions or [""] * len(images)
  rows = [
    overlay.Row(
      f"image {i + 1}",
      image,
      [setting_values[i] for setting_values in maps],
      captions[i],
      [setting_values[i] for setting_values in answers],
    )
    for i, image in enumerate(map(overlay.displayable, images))
  ]
  return overlay.figure(rows, _TITLES[method], [s.name for s in settings])


def main(argv: list[str] | None = None) -> None:
  """Draws the maps of a run; bad input gives an error of one line."""
  parser = command.parser(
    "attention", "Draws which patches an answer rests on, at several settings."
  )
  command.add_num_tokens(parser.add_argument)
  command.add_images(parser.add_argument, 4)
  parser.add_argument(
    "--method",
    help=f"{' or '.join(METHODS)}; by default relevance, of a model that "
    "answers no classes rollout",
  )
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    images, words = command.read_captioned(args, opened)
    answers_classes = outputs_lib.classifies(opened.model)
    default = "relevance" if answers_classes else "rollout"
    method = default if args.method is None else args.method
    drawn = figure(
      opened.model,
      opened.params,
      images,
      opened.settings,
      method,
      captions=words,
      class_names=opened.class_names,
    )
    drawing.save(drawn, args.output, dpi=150)
  print(f"Maps of {terminal.counted(len(images), 'image')}: {args.output}")


if __name__ == "__main__":
  main()
