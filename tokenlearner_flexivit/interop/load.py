"""Loads weights of any known format into a model."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from flax import traverse_util

from tokenlearner_flexivit import models
from tokenlearner_flexivit.interop import (
  absorb,
  comparison,
  download,
  formats,
  released,
  surgery,
  weights,
)
from tokenlearner_flexivit.interop.leaves import Leaf
from tokenlearner_flexivit.models import tiling

FATES = ("loaded", "resized", "fresh", "unused")
_GIVE_STATISTICS = (
  "Pass input_mean= and input_std= (in a config init_mean and init_std, of a"
  " teacher input_mean and input_std, on a command line --input_mean and"
  " --input_std)"
)


@dataclasses.dataclass(frozen=True)
class Report:
  """A report of what was loaded, and what was changed to make it fit.

  Attributes:
    source: as the caller named it.
    container: "npz", "safetensors", "msgpack" or "workdir".
    format: the library whose names it has; "native" for a run and for files of
      this library.
    sha256: of the file; None for a workdir.
    rows: the fate of every array.
    notes: further remarks for the user.
    warnings: reasons why answers may differ from those of the file's own model.
  """

  source: str
  container: str
  format: str
  sha256: str | None
  rows: tuple[surgery.Row, ...]
  notes: tuple[str, ...] = ()
  warnings: tuple[str, ...] = ()

  def names(self, fate: str) -> list[str]:
    """Returns the names of all arrays of one fate."""
    return [row.name for row in self.rows if row.fate == fate]

  def __str__(self) -> str:
    """Returns a table that counts arrays that fitted and lists all others."""
    checksum = f", sha256 {self.sha256}" if self.sha256 else ""
    lines = [f"{self.source}: {self.format} ({self.container}){checksum}"]
    lines += [f"  WARNING: {warning}." for warning in self.warnings]
    for fate in FATES:
      rows = [row for row in self.rows if row.fate == fate]
      size = sum(math.prod(row.model_shape or row.file_shape) for row in rows)
      lines.append(f"  {fate:<8} {len(rows):>4} arrays, {size:,} numbers")
      lines += [
        f"    {row.name} {_shapes(row)}{row.note and f' ({row.note})'}"
        for row in rows
        if fate != "loaded" or row.note
      ]
    return "\n".join(lines + [f"  {note}" for note in self.notes])


def _shapes(row):
  shapes = [
    str(list(shape))
    for shape in (row.file_shape, row.model_shape)
    if shape is not None
  ]
  return shapes[0] if len(set(shapes)) == 1 else " -> ".join(shapes)


def load_params(
  source: str | os.PathLike, model: nn.Module, **options: Any
) -> dict[str, Any]:
  """Loads weights into a model, and prints the fate of every array.

    params = load_params("FlexiViT-B i1k", models.ViT.from_variant("B", ...))
    logits, out = model.apply({"params": params}, images)

  Arguments, result and errors are those of `load_params_and_report`, but for
  the report, which is printed.
  """
  params, report = load_params_and_report(source, model, **options)
  print(report)
  return params


def load_params_and_report(
  source: str | os.PathLike,
  model: nn.Module,
  *,
  params: Mapping[str, Any] | None = None,
  seed: int = 0,
  dtype: str | None = "float32",
  posemb_grid: tuple[int, ...] | None = None,
  posemb_method: str = "linear",
  inflate: str = "central_frame",
  input_mean: Sequence[float] | None = None,
  input_std: Sequence[float] | None = None,
  fresh: Sequence[str] = (),
  optional: Sequence[str] = (),
  unused: Sequence[str] = (),
  sha256: str | None = None,
  opened: weights.Weights | None = None,
) -> tuple[dict[str, Any], Report]:
  """Loads weights into a model, and returns them with a report.

  These differences are bridged: a kernel of another patch size (PI-resize), a
  position embedding of another grid, one that includes the cls token (its
  entry is added to the token, which computes the same), another head (fresh),
  a TokenLearner that the file lacks (fresh). A model for videos takes weights
  of one for images: the kernel is inflated to tubelets, the position embedding
  is repeated in time. A model with two towers, such as an `OwlViT`, takes
  weights of one for images, and its text tower and heads are then fresh; a
  model for images takes those of two towers. The towers of `TwoTowers` and of
  `OwlViT` suit each other, and the heads are then fresh.

  Args:
    source: a path, address or released name, as for `download.fetch`, of a file
      in the names of big_vision, vision_transformer, Scenic, timm or Hugging
      Face, or of this library; or a workdir.
    model: a `models.ViT`, `models.TwoTowers`, `models.OwlViT` or
      `models.ViViT`.
    params: values for fresh arrays, which also define the shapes. None
      initialises the model.
    seed: for initialising the model.
    dtype: of the result; None keeps that of the file, except that arrays
      computed from half precision are float32.
    posemb_grid: (h, w) of the file's position embedding, needed if no config
      holds it and it is neither square nor the model's; (T, h, w) if the file
      is of a model for videos.
    posemb_method: "linear", "zoom", "bicubic" or "bicubic_aliased", see
      `resize.resize_posemb`.
    inflate: "central_frame" or "average", see `resize.inflate_kernel`.
    input_mean: the mean per channel that the weights expect to be subtracted
      from images in [0, 1]. It is absorbed, so that the model takes images in
      [-1, 1]. None leaves the weights as they are, and so does 0.5, which
      big_vision's expect. It is required if a file of timm or Hugging Face
      expects another mean or no file beside it tells; for a run or an export
      that saw another, the report says which.
    input_std: the standard deviation per channel by which they expect images to
      be divided; absorbed and required as `input_mean` is. Both are given, or
      neither.
    fresh: beginnings of names of the model that are initialised, whatever the
      file has.
    optional: beginnings of names of the model that are initialised if the file
      has none of them, such as blocks of a deeper model.
    unused: beginnings of names of the file (by our names) to leave out.
    sha256: if given, the file must have this checksum.
    opened: the source, if it is open already.

  Returns:
    the parameters, nested dicts of NumPy arrays as `model.apply` takes them
    (`jax.device_put` them once if they are used often), and the report.

  Raises:
    FileNotFoundError: the source does not exist.
    ValueError: damaged, a pickle, of unknown names, with NaN, of a model with
      parts that the models here lack, or a difference that no rule bridges;
      these are listed. Nothing is loaded then.
  """
  _check_dtype(dtype)
  path = opened.path if opened else download.fetch(source)
  checksum = download.checked_sha256(path)
  if sha256 is not None and checksum != sha256.lower():
    raise ValueError(f"{path} has sha256 {checksum}, not {sha256}.")
  with weights.open_weights(path, opened) as opened:
    known, format = opened.known, opened.format
    warnings = comparison.warnings(known, model, opened.leaves, format, path)
    warnings += opened.root.notes
    text = getattr(model, "text", None) or known.text or {}
    leaves, notes = opened.to_ours(
      getattr(model, "num_heads", 1), text.get("num_heads", 1)
    )
    template = _parameter_shapes(model, params, leaves)
    if format in formats.WITHOUT_BIASES:
      leaves = surgery.with_zero_biases(leaves, template)
    statistics = _statistics(known, input_mean, input_std, path)
    if statistics:
      leaves = absorb.absorb_statistics(leaves, *statistics)
      if {*statistics[0], *statistics[1]} != {0.5}:
        notes.append(
          "The patch embedding absorbed mean={}, std={}.".format(*statistics)
        )
    elif known.other_statistics:
      notes.append(
        f"The weights are of images in [0, 1] minus {list(known.images.mean)},"
        f" divided by {list(known.images.std)}. Give images prepared so; or"
        " pass these as input_mean= and input_std=, and give images in [-1, 1]."
      )
    if isinstance(model, models.ViViTFactorised):
      _check_not_joint(leaves, path)
    file_grid = tiling.to_size(posemb_grid) if posemb_grid else None
    plan = surgery.Plan(
      leaves,
      template,
      str(path),
      grid=_posemb_grid(model),
      file_grid=file_grid or known.posemb_grid,
      prefix_entries=None if file_grid else known.prefix_entries,
      their_name=opened.their_name,
      posemb_method=posemb_method,
      inflate=inflate,
      fresh=fresh,
      optional=optional,
      unused=unused,
      squares=str(source) in released.RELEASED,
    )
    loaded = {
      name: _read(name, leaf, dtype, path) for name, leaf in plan.leaves.items()
    }
  warnings += plan.warnings
  notes += plan.notes
  for warning in warnings:
    logging.warning("%s: %s.", source, warning)
  report = Report(
    str(source),
    opened.kind,
    format,
    checksum,
    tuple(plan.rows),
    tuple(notes),
    tuple(warnings),
  )
  names = report.names("fresh")
  loaded |= _fresh(model, params, template, names, seed)
  # In the order of the model, not that of the file.
  ordered = {name: loaded[name] for name in template}
  return traverse_util.unflatten_dict(ordered, sep="/"), report


def _check_dtype(dtype) -> None:
  try:
    known = dtype is None or np.dtype(dtype).name in surgery.FLOATS
  except TypeError:
    known = False
  if not known:
    raise ValueError(
      f"dtype={dtype!r} is unknown. Known: {', '.join(surgery.FLOATS)}, None."
    )


def _statistics(known, mean, std, path):
  """Returns the mean and std to absorb; None if neither argument is set.

  Raises:
    ValueError: the file expects other or unknown statistics, and the caller
      passed none, or one of them alone.
  """
  if mean is None and std is None:
    if known.untold_images:
      raise ValueError(
        f"{path}: nothing tells which images these weights expect:"
        f" {known.untold_images}. {_GIVE_STATISTICS}: such as 0.5 and 0.5 for"
        " images in [-1, 1], as SigLIP and AugReg expect them, or ImageNet's"
        " (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."
      )
    # A run may be continued with the images that it was trained on.
    if known.other_statistics and not known.model:
      raise ValueError(
        f"{path} expects images minus {list(known.images.mean)}, divided by"
        f" {list(known.images.std)}, as {known.where} says, not images in"
        f" [-1, 1]. {_GIVE_STATISTICS} and"
        " give images in [-1, 1]; or pass 0.5 and 0.5, and give images that are"
        " prepared as the file expects."
      )
    return None
  return absorb.statistics_of_unit_images(mean, std)


def _posemb_grid(model: nn.Module) -> tuple[int, ...] | None:
  if getattr(model, "posemb", None) != "learn":
    return None
  grid = tuple(model.posemb_grid)
  # The factorised encoder has positions in a frame, and others in time.
  return grid[1:] if isinstance(model, models.ViViTFactorised) else grid


def _check_not_joint(leaves, path) -> None:
  """Raises ValueError for weights of joint attention over space and time."""
  kernel = leaves.get(surgery.KERNEL)
  for_videos = kernel and len(kernel.shape) == 5
  if for_videos and not any("TemporalTransformer" in name for name in leaves):
    raise ValueError(
      f"{path} holds a model for videos that attends over space and time at"
      " once: its position embedding covers both, but that of the factorised"
      " encoder's first part covers space alone. Load it into models.ViViT, or"
      " give weights of a model for images."
    )


def _example(model, channels) -> jax.ShapeDtypeStruct:
  shape = models.input_shape(model, channels)
  return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def _flat_init(model, example):
  """Returns a function of a key that gives all parameters by name."""

  def init(key):
    params = model.init(key, jnp.zeros(example.shape, example.dtype))["params"]
    return traverse_util.flatten_dict(params, sep="/")

  return init


def _parameter_shapes(model, params, leaves) -> dict[str, jax.ShapeDtypeStruct]:
  if params is not None:
    flat = traverse_util.flatten_dict(params, sep="/")
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
  # The number of image channels is the one size that a model does not define.
  kernel = leaves.get(surgery.KERNEL)
  channels = kernel.shape[-2] if kernel and len(kernel.shape) >= 4 else 3
  init = _flat_init(model, _example(model, channels))
  return jax.eval_shape(init, jax.random.key(0))


def _fresh(model, params, template, names, seed) -> dict[str, np.ndarray]:
  if not names:
    return {}
  if params is not None:
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: np.asarray(flat[name]) for name in names}
  channels = template[surgery.KERNEL].shape[-2]
  init = _flat_init(model, _example(model, channels))
  # jit computes only the arrays that are returned.
  some = jax.jit(lambda key: {name: init(key)[name] for name in names})
  return jax.tree.map(np.asarray, some(jax.random.key(seed)))


def _read(name: str, leaf: Leaf, dtype: str | None, path) -> np.ndarray:
  array = leaf.read()
  if array.shape != tuple(leaf.shape):
    raise ValueError(
      f"{path} is damaged: {name} has the shape {array.shape}, not"
      f" {leaf.shape}."
    )
  if not np.isfinite(array).all():
    raise ValueError(f"{path}: {name} holds NaN or infinity.")
  if dtype is not None and array.dtype != dtype:
    with np.errstate(over="ignore"):
      array = array.astype(dtype)
    if not np.isfinite(array).all():
      raise ValueError(f"{path}: {name} is too large for {dtype}.")
  return np.ascontiguousarray(array)
