r"""The correspondence of tokens between patch sizes.

FlexiViT (arXiv 2212.08013, Figure 13) takes a token at one patch size and
compares it, by cosine similarity, with all tokens at others: it is most similar
to those at its own place. This module draws that picture for a chosen place,
and counts for every pair of settings how often the most similar token is at the
same place:

  python -m tokenlearner_flexivit.analysis.correspondence --workdir=WORKDIR \
    --output=correspondence.png [--position=0.5,0.5] [--images FILE ...]

**The same place**: of the other grid, the token whose patch contains the centre
of this token's patch. Where the centre lies on a border between patches, those
at either side are at the same place, so that there may be two or four. From a
coarse grid to a fine one this asks for one of many; `chance` is what tokens
picked at random would reach.

Letters: B batch, H W image, h w grid, h' w' grid of the other setting, D width,
K settings.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import arguments, dials, terminal
from tokenlearner_flexivit.analysis import (
  command,
  correspondence_figure,
  outputs,
)
from tokenlearner_flexivit.figures import drawing
from tokenlearner_flexivit.models.token_learner import ALL


class Matches(NamedTuple):
  """The rates at which the most similar token is at the same place.

  Attributes:
    rates: [K, K] in [0, 1], from the setting of the row to that of the column,
      over all tokens of all images. If several tokens are equally similar, the
      first counts.
    chance: [K, K], the rates of tokens picked at random.
  """

  rates: np.ndarray
  chance: np.ndarray


def last_name(model: Any, settings: Sequence[dials.Setting]) -> str:
  """Returns the last entry of `out` before the head with a token per patch.

  It is the entry after the last block, or after the block before TokenLearner
  if a setting uses it.
  """
  learns = model.token_learner and any(s.num_tokens != ALL for s in settings)
  blocks = model.token_learner["layer"] if learns else model.depth
  return f"encoder/block{blocks - 1:02d}/+mlp" if blocks else "with_posemb"


def tokens(
  model: Any, params: Any, images: jax.Array, setting: dials.Setting, name: str
) -> jax.Array:
  """Returns the tokens of patches in an entry of `out`; traceable.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, C].
    setting: of the dials.
    name: of the entry, such as "encoder/block05/+mlp".

  Returns:
    float32 [B, h, w, D].

  Raises:
    ValueError: an unknown entry (the error lists the known ones), an entry
      without a token for each patch, such as learned tokens, or patches that
      reach beyond the images, whose places would be others.
  """
  outputs.check_tiles(model, images.shape[1:3], setting)
  out = outputs.named(model, params, images, setting, (name, "stem"))
  x, (h, w) = out[name], out["stem"].shape[1:3]
  learned = _is_learned(model, setting, name)
  if not learned and x.ndim == 4 and x.shape[1:3] == (h, w):
    return x
  num_cls = x.shape[1] - h * w if x.ndim == 3 else -1
  if learned or num_cls not in (0, model.num_prefix):
    raise ValueError(
      f"{name!r} has no token for each of the {h} x {w} patches at "
      f"{setting.name}, but shape {x.shape[1:]}"
      + (": these are learned tokens" if learned else "")
      + f". Take an entry like {last_name(model, [setting])!r}"
      + (", or num_tokens='all'." if learned else ".")
    )
  return x[:, num_cls:].reshape(len(x), h, w, -1)


def _is_learned(model: Any, setting: dials.Setting, name: str) -> bool:
  """Tells whether an entry is after TokenLearner, for any number of tokens."""
  learner = None if setting.num_tokens == ALL else model.token_learner
  if learner is None:
    return False
  if "token_learner" in name.split("/"):
    return True
  block = re.match(r"encoder/block(\d+)/", name)
  if block:
    return int(block[1]) >= learner["layer"]
  return name == "encoded" and not learner["fuser"]


def similarity(tokens: jax.Array, others: jax.Array) -> jax.Array:
  """Returns cosine similarities of each token of an image with all others.

  Args:
    tokens: [B, h, w, D].
    others: [B, h', w', D].

  Returns:
    [B, h, w, h', w'] in [-1, 1].
  """

  def unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

  return jnp.einsum(
    "bhwd,bijd->bhwij", unit(tokens), unit(others), precision="highest"
  )


def same_place(grid: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
  """Returns which tokens of another grid are at the place of each token.

  The module's docstring defines the same place.

  Args:
    grid: (h, w).
    other: (h', w').

  Returns:
    bool [h, w, h', w'].
  """
  rows, columns = map(_same_part, grid, other)
  return rows[:, None, :, None] & columns[None, :, None, :]


def _same_part(n: int, m: int) -> np.ndarray:
  """Returns `same_place` along one axis, bool [n, m], in exact integers."""
  centres = (2 * np.arange(n) + 1)[:, None] * m
  starts = 2 * n * np.arange(m)[None]
  return (starts <= centres) & (centres <= starts + 2 * n)


def matches(
  model: Any,
  params: Any,
  batches: Iterable[np.ndarray],
  settings: Sequence[dials.Setting],
  name: str | None = None,
) -> Matches:
  """Counts how often the most similar token is at the same place.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    batches: of images [B, H, W, C].
    settings: of the dials, K.
    name: of the entry of `out`; None for `last_name`.

  Raises:
    ValueError: an error of `tokens`, or no images.
  """
  settings = tuple(settings)
  name = last_name(model, settings) if name is None else name

  @jax.jit
  def count(params, images):
    by_setting = [tokens(model, params, images, s, name) for s in settings]
    rows = []
    for own in by_setting:
      row = []
      for other in by_setting:
        grids = own.shape[1:3], other.shape[1:3]
        same = same_place(*grids).reshape(*grids[0], -1)
        best = similarity(own, other).reshape(*own.shape[:3], -1)
        best = jnp.argmax(best, axis=-1)[..., None]
        right = jnp.take_along_axis(jnp.asarray(same)[None], best, axis=-1)
        row.append(right.mean(axis=(1, 2, 3)).sum())
      rows.append(jnp.stack(row))
    return jnp.stack(rows)

  total, number = 0.0, 0
  for images in batches:
    total = total + np.asarray(count(params, images), np.float64)
    size, number = images.shape[1:3], number + len(images)
  if not number:
    raise ValueError("No images, so no tokens to compare.")
  grids = [model.check(size, **setting) for setting in settings]
  chance = [[same_place(own, other).mean() for other in grids] for own in grids]
  return Matches(total / number, np.array(chance))


def figure(
  model: Any,
  params: Any,
  images: np.ndarray,
  settings: Sequence[dials.Setting],
  measured: Matches,
  *,
  source: dials.Setting,
  position: tuple[float, float] = (0.5, 0.5),
  name: str | None = None,
) -> drawing.Figure:
  """Draws the similarity of all tokens to a chosen one, and the rates.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, 1 or 3], a row for each.
    settings: of the dials, a column for each.
    measured: the result of `matches` at these settings.
    source: the setting of the chosen token.
    position: the chosen place from the top and from the left, in [0, 1), which
      selects the token whose patch contains it.
    name: as in `matches`.

  Raises:
    ValueError: a position outside of the image, or an error of `tokens`.
  """
  _check_position(position)
  name = last_name(model, [*settings, source]) if name is None else name

  @jax.jit
  def compute(params, images):
    own = tokens(model, params, images, source, name)
    y, x = (int(p * n) for p, n in zip(position, own.shape[1:3], strict=True))
    chosen = own[:, y : y + 1, x : x + 1]
    others = (tokens(model, params, images, s, name) for s in settings)
    return [similarity(chosen, other)[:, 0, 0] for other in others]

  maps = [np.asarray(x) for x in compute(params, images)]
  return correspondence_figure.draw(
    np.asarray(images),
    {s.name: x for s, x in zip(settings, maps, strict=True)},
    measured,
    source=source.name,
    grid=model.check(images.shape[1:3], **source),
    position=position,
  )


def _check_position(position: Sequence[float]) -> None:
  if len(position) != 2 or not all(0 <= x < 1 for x in position):
    raise ValueError(
      f"position={tuple(position)} must be two numbers in [0, 1): from the top "
      "and from the left, in shares of the image."
    )


def main(argv: list[str] | None = None) -> None:
  """Draws and counts for a run; bad input gives an error of one line."""
  parser = command.parser(
    "correspondence", "Compares tokens at one patch size with those at others."
  )
  add = parser.add_argument
  command.add_num_tokens(add)
  command.add_images(add, 200)
  add(
    "--position",
    type=arguments.numbers,
    default=(0.5, 0.5),
    help="as 0.5,0.5, from the top and from the left, in shares of the image",
  )
  add("--source", type=int, help="patch size of the chosen token")
  add("--name", help="entry of the model's out; by default the last block's")
  add("--num_shown", type=int, default=3, help="images drawn, by default 3")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    if args.num_shown < 1:
      raise ValueError(f"--num_shown={args.num_shown} must be 1 or more.")
    _check_position(args.position)  # Before images are read.
    opened = command.open_run(args)
    images = command.read_images(args, opened)
    # The middle one of the list, as the paper's 16 in 48 to 8.
    source = opened.settings[(len(opened.settings) - 1) // 2]
    if args.source is not None:
      size = dials.as_patch_size(args.source, "--source")
      source = source.replace(patch_size=size)
      opened.model.check(images.shape[1:3], **source)
    batches = (images[i : i + 20] for i in range(0, len(images), 20))
    model, params, settings = opened.model, opened.params, opened.settings
    measured = matches(model, params, batches, settings, args.name)
    drawn = figure(
      model,
      params,
      images[: args.num_shown],
      settings,
      measured,
      source=source,
      position=args.position,
      name=args.name,
    )
    drawing.save(drawn, args.output, dpi=150)
    numbers = command.write_numbers(args.output, as_json(measured, settings))
  number = terminal.counted(len(images), "image")
  print(f"Tokens of {number}: {args.output}, {numbers}")


def as_json(
  measured: Matches, settings: Sequence[dials.Setting]
) -> list[dict[str, Any]]:
  """Returns a row for each pair of settings: from, to, rate and chance."""
  return [
    {
      "from": own.name,
      "to": other.name,
      "rate": float(measured.rates[i, j]),
      "chance": float(measured.chance[i, j]),
    }
    for i, own in enumerate(settings)
    for j, other in enumerate(settings)
    if i != j
  ]


if __name__ == "__main__":
  main()
