"""Describes the content of a file of weights, without reading the arrays."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from typing import Any

import numpy as np
from absl import logging

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.interop import about as about_lib
from tokenlearner_flexivit.interop import (
  containers,
  download,
  formats,
  grids,
  released,
  surgery,
  text_tower,
  uvim_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import (
  label_coder,
  tiling,
  uvim,
  variants,
  vit,
)

_BLOCK = "Transformer/encoderblock_0/"
# Attention heads of the published models of a width, those of `variants`. Width
# 1536 has models with 16 and models with 24.
PUBLISHED_HEADS = {
  size["width"]: size["num_heads"]
  for size in map(variants.decode_variant, variants.VARIANTS)
}


@dataclasses.dataclass(frozen=True)
class Description:
  """The content of a file, as far as its headers and metadata show it.

  Attributes:
    source: as the caller named it.
    container: "npz", "safetensors", "msgpack" or "workdir".
    format: the library whose names it has; "native" for a run and for files of
      this library.
    path: where it is on this machine.
    variant: the standard size, such as "B/16", or None.
    model: constructor arguments of `models.ViT` for these weights; for a run,
      a file of this library and one with a text tower, those of
      `models.create`, with the name.
    guesses: in words, which of these are guessed, and what the file's own model
      computes differently.
    arrays: (our name, shape, dtype) of every array.
    input_mean: the mean per channel that the weights expect to be subtracted
      from images in [0, 1]; for a run or an export, by its preprocessing. None
      if that is not known.
    input_std: the standard deviation per channel by which they expect those
      images to be divided; None if that is not known.
  """

  source: str
  container: str
  format: str
  path: pathlib.Path
  variant: str | None
  model: dict[str, Any]
  guesses: tuple[str, ...]
  arrays: tuple[tuple[str, tuple[int, ...], str], ...]
  input_mean: tuple[float, ...] | None = None
  input_std: tuple[float, ...] | None = None

  @property
  def sha256(self) -> str | None:
    """Returns the file's checksum, reading all of it; None for a workdir."""
    return download.sha256(self.path)

  @property
  def num_params(self) -> int:
    """Returns how many numbers all arrays hold together."""
    return sum(math.prod(shape) for _, shape, _ in self.arrays)

  @property
  def image_model(self) -> dict[str, Any]:
    """Returns the model without a text tower; without one, the model."""
    if not {"text", "num_codes"} & self.model.keys():
      return self.model
    fields = {field.name for field in dataclasses.fields(vit.ViT)} - {"name"}
    return {name: v for name, v in self.model.items() if name in fields}

  @property
  def channels(self) -> int:
    """Returns the number of image channels: 3, or 1 if they are grey."""
    shapes = {name: shape for name, shape, _ in self.arrays}
    return shapes[surgery.KERNEL][-2]

  def __str__(self) -> str:
    """Returns a text for people, with the table of parameters."""
    width = max(len(name) for name, *_ in self.arrays)
    lines = [
      f"source      {self.source}",
      f"format      {self.format} ({self.container})",
      f"sha256      {self.sha256 or 'none: a folder'}",
      f"variant     {self.variant or 'none of the standard sizes'}",
      f"parameters  {self.num_params:,}",
      "model       " + ", ".join(f"{k}={v!r}" for k, v in self.model.items()),
      f"images      {self._images()}",
      *(f"WARNING     {guess}" for guess in self.guesses),
      "",
      *(
        f"{name:<{width}}  {dtype:<8}  {list(shape)}"
        for name, shape, dtype in self.arrays
      ),
    ]
    return "\n".join(lines)

  def _images(self) -> str:
    if self.input_mean is None:
      return "of unknown mean and std"
    mean, std = (
      ", ".join(f"{x:g}" for x in values)
      for values in (self.input_mean, self.input_std)
    )
    return f"minus {mean}, divided by {std}"


def class_names(source: str | os.PathLike) -> list[str] | None:
  """Returns the names of the classes of a run or an export, None for others.

  Args:
    source: see `download.fetch`.

  Raises:
    ValueError, OSError: it cannot be read.
  """
  path = download.fetch(source)
  with containers.open_file(path) as opened:
    return about_lib.class_names(path, opened.metadata)


def vocabulary(source: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the vocabulary of a run or an export, None for others.

  Args:
    source: see `download.fetch`.

  Raises:
    ValueError, OSError: it cannot be read.
  """
  path = download.fetch(source)
  with containers.open_file(path) as opened:
    return about_lib.vocabulary(path, opened.metadata)


def preprocessing(source: str | os.PathLike) -> str | None:
  """Returns the preprocessing of a run or an export, None for others.

  Args:
    source: see `download.fetch`.

  Raises:
    ValueError, OSError: it cannot be read.
  """
  path = download.fetch(source)
  with containers.open_file(path) as opened:
    return about_lib.preprocessing(path, opened.metadata)


def warn_of_other_values(
  where: str, source: str | None, pp: str, key: str, where_pp: str
) -> None:
  """Warns if weights were trained on images of other values.

  Args:
    where: the name of `source` in the config.
    source: a file or a workdir. Nothing is said if it does not exist or does
      not record the mean and std of its images, see `Description`.
    pp: the preprocessing of the images that the model will see.
    key: the entry of its result that the model looks at.
    where_pp: its name in the config.
  """
  if not (source and pathlib.Path(source).expanduser().exists()):
    return
  with contextlib.suppress(OSError, ValueError):  # Loading it reports these.
    path = download.fetch(source)
    with containers.open_file(path) as opened:
      known = about_lib.read(path, opened.leaves, opened.metadata)
    if known.input_mean is None or known.input_std is None:
      return
    trained_on = np.array(known.input_mean), np.array(known.input_std)
    if differ := statistics.differ_from(trained_on, pp, key):
      terminal.say(
        f"WARNING: {where}={source} was trained on images {differ[0]}, but "
        f"{key!r} of {where_pp} is {differ[1]}. Give both the same value_range "
        "and standardize."
      )


def describe(
  source: str | os.PathLike,
  *,
  num_heads: int | None = None,
  posemb_grid: tuple[int, int] | None = None,
) -> Description:
  """Returns the content of a file, and the model that it is for.

    model = models.ViT(**describe("FlexiViT-B i1k").model)

  A run, and a file that this library wrote with its model, record everything,
  and `model` has arguments of `models.create`. For other files, names, shapes
  and the config.json of timm or Hugging Face are used; what they leave open is
  guessed, listed in `guesses`, and logged as a warning.

  Args:
    source: see `download.fetch`.
    num_heads: attention heads, for files of timm and Hugging Face without a
      config.json.
    posemb_grid: (h, w) of the stored positions, or of the computed ones if none
      are stored.

  Raises:
    FileNotFoundError, ValueError: as `load_params_and_report`; or an argument
      is needed that neither the file nor its config holds.
  """
  path = download.fetch(source)
  with containers.open_file(path) as opened:
    known = about_lib.read(path, opened.leaves, opened.metadata)
    format = known.format or formats.detect(opened.leaves, str(path))
    guesses = [*known.differences, *known.unknown]
    if num_heads and known.num_heads not in (None, num_heads):
      raise ValueError(
        f"{path} has num_heads={known.num_heads}, as {known.where} says, not"
        f" {num_heads}."
      )
    heads = num_heads or known.num_heads
    text_heads = (known.text or {}).get("num_heads", 1)
    if format in formats.TORCH and heads:
      _check_heads(opened.leaves, heads, format, path)
    leaves, _ = formats.to_ours(
      opened.leaves, format, str(path), heads or 1, text_heads
    )
    if known.model:
      model = dict(known.model)
    else:
      if not heads and format in formats.TORCH:
        heads = _guess_heads(leaves, guesses, path)
        leaves, _ = formats.to_ours(opened.leaves, format, str(path), heads)
      if label_coder.KERNEL in leaves:
        model = uvim_names.coder_arguments(leaves, guesses)
      else:
        model = _model(leaves, guesses, path, format) | dict(known.computes)
      if text_tower.EMBEDDING in leaves:
        model |= text_tower.arguments(leaves, known.text, guesses, str(path))
      if uvim.EMBEDDING in leaves:
        model |= uvim_names.decoder_arguments(leaves)
      squares = str(source) in released.RELEASED
      # Models with a name are of one kind.
      is_plain = format == "big_vision" and "name" not in model
      if is_plain and not (known.where or squares):
        _guess_pool(model, guesses)
      if label_coder.KERNEL not in leaves:
        _add_posemb(model, leaves, known, posemb_grid, guesses, path, squares)
    table = tuple((k, v.shape, str(v.dtype)) for k, v in leaves.items())
  _check_as_known(model, path, num_heads=num_heads, posemb_grid=posemb_grid)
  for guess in guesses:
    logging.warning("%s: %s.", source, guess)
  return Description(
    source=str(source),
    container=opened.kind,
    format=format,
    path=path,
    variant=_variant(model),
    model=model,
    guesses=tuple(guesses),
    arrays=table,
    input_mean=known.input_mean,
    input_std=known.input_std,
  )


def _check_heads(leaves, heads, format, path) -> None:
  """Raises ValueError for heads that do not divide the width."""
  name = formats.their_name(format, surgery.KERNEL)
  kernel = leaves.get(name) or leaves.get(name.removeprefix("vit."))
  if kernel and kernel.shape and kernel.shape[0] % heads:
    raise ValueError(
      f"{path}: num_heads={heads} does not divide the width of"
      f" {kernel.shape[0]}."
    )


def _check_as_known(model, path, **values) -> None:
  """Raises ValueError if an argument contradicts what the file records."""
  for name, value in values.items():
    if value is not None and name == "posemb_grid":
      value = tiling.to_size(value, name)
    if value not in (None, model[name]):
      raise ValueError(f"{path} has {name}={model[name]}, not {value}.")


def _model(leaves: Leaves, guesses: list[str], path, format) -> dict[str, Any]:
  if surgery.KERNEL in leaves and len(leaves[surgery.KERNEL].shape) == 5:
    raise ValueError(
      f"{path} holds a model for videos, whose settings no file records. Build"
      " a models.ViViT and load these weights with load_params."
    )
  hidden = f"{_BLOCK}MlpBlock_0/Dense_0/kernel"
  query = f"{_BLOCK}MultiHeadDotProductAttention_0/query/kernel"
  for key, rank in ((surgery.KERNEL, 4), (hidden, 2), (query, 3)):
    if key not in leaves or len(leaves[key].shape) != rank:
      theirs = formats.their_name(format, key)
      raise ValueError(
        f"{path} has no array {theirs!r} with {rank} axes, which every model"
        f" here has as {key!r}."
      )
  p, q, _, width = leaves[surgery.KERNEL].shape
  blocks = {m[1] for k in leaves if (m := re.match(_BLOCK[:-2] + r"(\d+)/", k))}
  model = dict(
    num_classes=_outputs(leaves, "head"),
    width=width,
    depth=len(blocks),
    mlp_dim=leaves[hidden].shape[1],
    num_heads=leaves[query].shape[1],
    patch_size=(p, q),
  )
  if "cls" in leaves:
    model["pool"] = "tok"
  else:
    model["pool"] = "map" if "MAPHead_0/probe" in leaves else "gap"
  if format == "scenic":
    guesses.append(
      "pool='gap': Scenic's files do not record the classifier, which may take"
      " the maximum or the sum"
    )
  if "pre_norm/scale" in leaves:
    model["pre_norm"] = True
  rep_size = _outputs(leaves, "pre_logits")
  if rep_size:
    model["rep_size"] = rep_size
  learner = _token_learner(leaves, model["depth"], guesses)
  if learner:
    model["token_learner"] = learner
  return model


def _guess_pool(model, guesses) -> None:
  if model["pool"] == "gap":
    guesses.append(
      "pool='gap': big_vision's models may also take the first patch ('0') or"
      " every token ('none'), which no array shows"
    )


def _outputs(leaves, layer):
  kernel = leaves.get(f"{layer}/kernel")
  return kernel.shape[-1] if kernel else None


def _add_posemb(model, leaves, known, asked, guesses, path, squares) -> None:
  """Adds the grid of the positions to a model's arguments."""
  grid = asked and tiling.to_pair(asked, "posemb_grid")
  if surgery.POSEMB not in leaves:
    # The grid of the `variants` with this patch size.
    sides = [max(1, 224 // side) for side in model["patch_size"]]
    model["posemb"] = "sincos2d"
    model["posemb_grid"] = grid or tuple(sides)
    guesses.append("posemb: none is stored, so it is computed")
    if not grid:
      guesses.append(
        f"posemb_grid={tuple(sides)} of the computed positions: that of 224"
        " pixels; it may be another (pass posemb_grid)"
      )
    return
  n = leaves[surgery.POSEMB].shape[1]
  told = grid or known.posemb_grid
  has_cls, cls_entry = "cls" in leaves, None if grid else known.cls_entry
  grid, _ = grids.posemb_grid(n, has_cls, known_grid=told, cls_entry=cls_entry)
  if grid is None:
    raise ValueError(
      f"{path} has {n} positions, which form no square. Give their grid:"
      " posemb_grid=(h, w), on the command line --posemb_grid=h,w."
    )
  model["posemb_grid"] = grid
  if told or squares:
    return
  if other := grids.other_reading(n, grid, has_cls, cls_entry):
    guesses.append(other)
  elif grids.possible_grids(n, has_cls, cls_entry) - {grid}:
    guesses.append(
      f"posemb_grid={grid}, the square; other grids have as many cells (pass"
      " posemb_grid)"
    )


def _guess_heads(leaves: Leaves, guesses: list[str], path) -> int:
  """Returns the heads that published models of a width have.

  Raises:
    ValueError: no model of this width is published, or they differ in it.
  """
  kernel = leaves.get(surgery.KERNEL)
  width = kernel.shape[-1] if kernel else 0
  heads = PUBLISHED_HEADS.get(width)
  if heads is None:
    raise ValueError(
      f"{path} does not tell how many attention heads its model has, nor does"
      f" its width of {width}. Give num_heads=, on the command line"
      " --num_heads, in a config the section model of what is loaded."
    )
  guesses.append(f"num_heads={heads}, from the width of {width}")
  return heads


def _variant(model: dict[str, Any]) -> str | None:
  for name in variants.VARIANTS:
    size = variants.decode_variant(name)
    keys = ("width", "depth", "mlp_dim", "num_heads")
    if all(size[key] == model.get(key) for key in keys):
      *t, p, q = model["patch_size"]
      return f"{name}/{p}{''.join(f'x{n}' for n in t)}" if p == q else name
  return None


def _token_learner(leaves, depth, guesses) -> dict[str, Any] | None:
  prefix = "Transformer/TokenLearner_"
  count = len({k.split("/")[1] for k in leaves if k.startswith(prefix)})
  if not count:
    return None
  first = f"{prefix}0/"
  v10 = f"{first}Conv_3/kernel" in leaves
  last = "Conv_3/kernel" if v10 else "token_masking/Dense_1/kernel"
  fuser = any(k.startswith("Transformer/TokenFuser_") for k in leaves)
  if first + last not in leaves:
    raise ValueError(
      f"The file is damaged: it has a TokenLearner, but no {first + last!r}."
    )
  learner = dict(
    layer=depth - count if fuser else depth // 2,
    num_tokens=leaves[first + last].shape[-1],
    version="1.0" if v10 else "1.1",
    fuser=fuser,
  )
  if not v10:
    learner["bottleneck_dim"] = leaves[first + last].shape[0]
  if not fuser:
    guesses.append("token_learner.layer, which no file records")
  if v10:
    guesses.append(
      "token_learner.pooling, which no file records; published models use sum"
    )
  return learner
