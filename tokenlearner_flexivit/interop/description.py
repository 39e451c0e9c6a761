"""Describes the content of a file of weights, without reading the arrays."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from tokenlearner_flexivit import models, terminal
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.interop import about as about_lib
from tokenlearner_flexivit.interop import (
  comparison,
  config_files,
  containers,
  download,
  formats,
  model_arguments,
  released,
  surgery,
  text_tower,
  uvim_names,
  weights,
)
from tokenlearner_flexivit.models import label_coder, tiling, uvim

_HEAD = "head/kernel"


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
    images: that the weights expect: mean, std and size, and of timm's and
      Hugging Face's files interpolation and crop; for a run or an export, by
      its preprocessing in training. None is unknown.
    trained_patch_size: the one that a config of timm or Hugging Face is for;
      None for others, for timm's FlexiViTs, and where they are not square.
  """

  source: str
  container: str
  format: str
  path: pathlib.Path
  variant: str | None
  model: dict[str, Any]
  guesses: tuple[str, ...]
  arrays: tuple[tuple[str, tuple[int, ...], str], ...]
  images: config_files.Images = config_files.UNKNOWN
  trained_patch_size: int | None = None

  @property
  def input_mean(self) -> tuple[float, ...] | None:
    """Returns what the weights expect to be subtracted from the images."""
    return self.images.mean

  @property
  def input_std(self) -> tuple[float, ...] | None:
    """Returns by what the weights expect the images to be divided then."""
    return self.images.std

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
    """Returns the model without what a `ViT` lacks, such as a text tower.

    Raises:
      ValueError: it has no tower that sees images alone.
    """
    name = self.model.get("name") or "vit"
    cls = models.MODELS[name]
    if cls is models.LabelCoder:
      raise ValueError(
        f"{self.source} holds a {name!r}, which sees labels. Give weights of a "
        "model that sees images."
      )
    if cls is models.ViT or not issubclass(cls, models.ViT):
      return self.model
    fields = {f.name for f in dataclasses.fields(models.ViT)} - {"name"}
    tower = {k: v for k, v in self.model.items() if k in fields}
    if _HEAD not in (array for array, *_ in self.arrays):
      tower["num_classes"] = None
    return tower

  def for_images(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the model for images of the size that the weights expect.

    Positions of timm's and Hugging Face's files may be stored for images of
    another size, as DINOv2's are. They are then resized as that library does.

    Returns:
      `model` with the grid of `images.size`, and arguments of `load_params` for
      it; unchanged and empty if the positions are for this size, are computed,
      or the size is unknown or no multiple of the patch size.
    """
    size, grid = self.images.size, self.model.get("posemb_grid")
    is_image = self.format in formats.TORCH and len(grid or ()) == 2
    if size is None or not is_image or self.model.get("posemb") == "sincos2d":
      return self.model, {}
    patch = self.model["patch_size"]
    new = tuple(s // p for s, p in zip(size, patch, strict=True))
    over = any(s % p for s, p in zip(size, patch, strict=True))
    if over or new == tuple(grid):
      return self.model, {}
    method = "bicubic" if self.format == "timm" else "bicubic_aliased"
    options = dict(posemb_grid=grid, posemb_method=method)
    return self.model | dict(posemb_grid=new), options

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
    text = f"minus {mean}, divided by {std}"
    if self.images.size:
      text += ", {} x {} px".format(*self.images.size)
    if self.images.interpolation:
      text += f", {self.images.interpolation}"
    if self.images.crop:
      text += f", central crop of {self.images.crop:.4g}"
    return text


def class_names(source: str | os.PathLike) -> list[str] | None:
  """Returns the names of the classes, as far as a file or a config tells them.

  Args:
    source: see `download.fetch`.

  Raises:
    ValueError, OSError: it cannot be read.
  """
  path = download.fetch(source)
  if not path.is_dir():
    with contextlib.suppress(ValueError), weights.open_weights(path) as opened:
      names = about_lib.class_names(path, opened.metadata)
      names = opened.known.class_names if names is None else names
      return names and list(names)
  # A run, or a file of which nothing else is known.
  with containers.open_file(path) as opened:
    names = about_lib.class_names(path, opened.metadata)
  return names and list(names)


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
  where: str,
  source: str | None,
  pp: str,
  key: str,
  where_pp: str,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
) -> None:
  """Warns if weights expect images of other values than they will see.

  Args:
    where: the name of `source` in the config.
    source: a file or a workdir. Nothing is said if it does not exist or does
      not record the mean and std of its images, see `Description`.
    pp: the preprocessing of the images that the model will see.
    key: the entry of its result that the model looks at.
    where_pp: its name in the config.
    mean: as `input_mean` of `load_params_and_report`. With other values than
      0.5, the weights absorb these and then expect images in [-1, 1].
    std: as `input_std`, like `mean`.
  """
  absorbed = {*(mean or [0.5]), *(std or [0.5])}
  if source and absorbed != {0.5}:
    both = np.array([0.5]), np.array([0.5])
    if differ := statistics.differ_from(both, pp, key):
      terminal.say(
        f"WARNING: {where}={source} absorbs the mean and std of its images, so "
        f"it expects images in [-1, 1], but {key!r} of {where_pp} is "
        f"{differ[1]}. Give value_range(-1,1) and no standardize."
      )
    return
  if not (source and pathlib.Path(source).expanduser().exists()):
    return
  with contextlib.suppress(OSError, ValueError):  # Loading it reports these.
    path = download.fetch(source)
    with weights.open_weights(path) as opened:
      images = opened.known.images
    if images.mean is None or images.std is None:
      return
    trained_on = np.array(images.mean), np.array(images.std)
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
  posemb_grid: tuple[int, ...] | None = None,
  gelu: str | None = None,
  opened: weights.Weights | None = None,
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
      are stored; (T, h, w) of a model for videos.
    gelu: activation of the MLPs, see `models.ViT`, for such files.
    opened: the source, if it is open already.

  Raises:
    FileNotFoundError, ValueError: as `load_params_and_report`; or an argument
      is needed that neither the file nor its config holds.
  """
  path = opened.path if opened else download.fetch(source)
  with weights.open_weights(path, opened) as opened:
    known, format = opened.known, opened.format
    guesses = [*known.differences, *known.unknown, *opened.root.notes]
    if known.untold_images:
      guesses.append(
        f"mean and std of the images: {known.untold_images}; loading needs"
        " input_mean= and input_std="
      )
    if num_heads and known.num_heads not in (None, num_heads):
      raise ValueError(
        f"{path} has num_heads={known.num_heads}, as {known.where} says, not"
        f" {num_heads}."
      )
    heads = num_heads or known.num_heads
    text_heads = (known.text or {}).get("num_heads", 1)
    if format in formats.TORCH and heads:
      _check_heads(opened, heads)
    leaves, _ = opened.to_ours(heads or 1, text_heads)
    if known.model:
      model = dict(known.model)
    else:
      if not heads and format in formats.TORCH:
        heads = model_arguments.guess_heads(leaves, guesses, path)
        leaves, _ = opened.to_ours(heads)
      if label_coder.KERNEL in leaves:
        model = uvim_names.coder_arguments(leaves, guesses)
      else:
        model = model_arguments.find(opened, leaves, guesses)
        _settle_gelu(model, opened, gelu, guesses)
      if text_tower.EMBEDDING in leaves:
        model |= text_tower.arguments(leaves, known.text, guesses, str(path))
      if uvim.EMBEDDING in leaves:
        model |= uvim_names.decoder_arguments(leaves)
      squares = str(source) in released.RELEASED
      # Models with a name are of one kind.
      is_plain = format == "big_vision" and "name" not in model
      if is_plain and not (known.where or squares):
        model_arguments.guess_pool(model, guesses)
      if label_coder.KERNEL not in leaves:
        model_arguments.add_posemb(
          model, opened, leaves, posemb_grid, guesses, squares
        )
    table = tuple((k, v.shape, str(v.dtype)) for k, v in leaves.items())
  _check_as_known(
    model, path, num_heads=num_heads, posemb_grid=posemb_grid, gelu=gelu
  )
  for guess in guesses:
    logging.warning("%s: %s.", source, guess)
  return Description(
    source=str(source),
    container=opened.kind,
    format=format,
    path=path,
    variant=model_arguments.variant(model),
    model=model,
    guesses=tuple(guesses),
    arrays=table,
    images=known.images,
    trained_patch_size=_trained_patch_size(opened, model),
  )


def _trained_patch_size(
  opened: weights.Weights, model: dict[str, Any]
) -> int | None:
  """Returns the patch size of a model that a library's config describes."""
  sides = set(model.get("patch_size") or ())
  known, format = opened.known, opened.format
  told = known.where and format in formats.TORCH and not known.flexible
  return sides.pop() if told and len(sides) == 1 else None


def _check_heads(opened: weights.Weights, heads: int) -> None:
  """Raises ValueError for heads that do not divide the width."""
  kernel = opened.leaves.get(formats.their_name(opened.format, surgery.KERNEL))
  if kernel and kernel.shape and kernel.shape[0] % heads:
    raise ValueError(
      f"{opened.path}: num_heads={heads} does not divide the width of"
      f" {kernel.shape[0]}."
    )


def _settle_gelu(
  model: dict[str, Any],
  opened: weights.Weights,
  asked: str | None,
  guesses: list[str],
) -> None:
  """Sets the activation where no config tells it.

  Raises:
    ValueError: nothing tells it, and models with these arrays differ in it.
  """
  known = opened.known
  if asked is not None and "gelu" not in known.computes:
    model["gelu"] = asked
  elif known.guessed and "gelu" not in known.guessed:
    kind, choices = "CLIP", "'quick' (OpenAI's and DFN's) or 'erf' (LAION's)"
    if "norm_pre.weight" not in opened.leaves:
      kind = "SigLIP"
      choices = "'erf' or, for So400m and the larger ones of timm, 'tanh'"
    raise ValueError(
      f"{opened.path} is of a {kind}, and no config.json beside it tells which"
      f" GELU it has. Give gelu={choices}, on the command line --gelu."
    )
  else:
    guesses += comparison.guesses(known)


def _check_as_known(model, path, **values) -> None:
  """Raises ValueError if an argument contradicts what the file records."""
  for name, value in values.items():
    if value is not None and name == "posemb_grid":
      value = tiling.to_size(value, name)
    if value not in (None, model.get(name, value)):
      raise ValueError(f"{path} has {name}={model[name]}, not {value}.")
