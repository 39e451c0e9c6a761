"""Saves parameters under the names and in the files of other libraries."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from flax import linen as nn
from flax import traverse_util

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths
from tokenlearner_flexivit.interop import (
  about,
  absorb,
  config_files,
  containers,
  formats,
  hugging_face_export,
  surgery,
  timm_export,
  timm_names,
)
from tokenlearner_flexivit.interop.leaves import Leaf
from tokenlearner_flexivit.models import (
  blocks,
  hyperparameters,
  label_coder,
  posemb,
)


def save_params(
  params: Mapping[str, Any],
  path: str | os.PathLike,
  format: str = "native",
  *,
  model: nn.Module | None = None,
  input_mean: Sequence[float] | None = None,
  input_std: Sequence[float] | None = None,
  interpolation: str | None = None,
  no_embed_class: bool = False,
) -> None:
  """Saves parameters to a file; dtypes are kept.

  Other libraries compute the same function:

  * timm and Hugging Face, given `model`: as model.safetensors, or a folder for
    it, with the config.json that tells all settings beside it.
    `timm.create_model("local-dir:FOLDER")` and `from_pretrained(FOLDER)` of the
    class in its `architectures` read it. That is ViT, or by what the model has
    DINOv2 (registers, pool="tok_gap"), DeiT (pool="tok_dist"), CLIP (pre_norm)
    or SigLIP (pool="map").
  * timm by `create_model("vit_base_patch16_224", checkpoint_path=...)`, for a
    model of that size with gelu="erf", pool="tok" and norm_eps=1e-6, and by
    `create_model("flexivit_base", ...)` with `no_embed_class`; of other sizes
    with `patch_size=`, `img_size=`, .... A DeiT III or DINOv2 is then a
    "vit_base_patch16_224", too: its LayerScale is folded into the weights.
  * big_vision and Scenic: the models of the same size.

  To another patch size, load the weights into a model with that `patch_size`
  and `posemb_grid` first.

  Args:
    params: of a `models.ViT`; as native or big_vision of a `models.TwoTowers`,
      a `models.LabelCoder` or a `models.UViM` without its coder; as native or
      scenic of a `models.ViViT`; or of any other as native.
    path: its suffix must be one of the format's: native .npz or .safetensors,
      big_vision .npz, scenic .npz or .msgpack (flax), the others .safetensors,
      or a folder.
    format: "native" (our names), "big_vision", "timm", "hugging_face" or
      "scenic".
    model: noted in the file (but not in .msgpack), so that `describe` and
      `load_params` guess nothing; needed for a folder, and where the position
      embedding is computed, not stored (posemb="sincos2d"), and the format has
      to store it.
    input_mean: the mean, per channel or one for all, that the weights expect
      to be subtracted from images in [0, 1]; 0.5 for images in [-1, 1]. Noted
      like `model`. Without it the file does not show which images it needs,
      and timm takes ImageNet's, of which a warning tells.
    input_std: the standard deviation by which the weights expect those images
      to be divided, per channel or one for all. Noted like `model`; both are
      given, or neither.
    interpolation: how images are resized, such as "bicubic", for the configs of
      timm and Hugging Face.
    no_embed_class: for timm, see `timm_names.to_theirs`.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: an unknown format, another suffix, parameters that the format
      has no names for, a model that it does not compute, or a config of another
      model in the folder. Nothing is written then.
  """
  images = config_files.Images(interpolation=interpolation)
  if input_mean is not None or input_std is not None:
    mean, std = absorb.statistics_of_unit_images(input_mean, input_std)
    images = config_files.Images(mean, std, interpolation=interpolation)
  save_with_images(
    params,
    path,
    format,
    model=model,
    images=images,
    no_embed_class=no_embed_class,
  )


def save_with_images(
  params: Mapping[str, Any],
  path: str | os.PathLike,
  format: str,
  *,
  model: nn.Module | None,
  images: config_files.Images,
  no_embed_class: bool = False,
  class_names: Sequence[str] | None = None,
  loss: str | None = None,
) -> None:
  """Saves parameters, and all that is known of their images and classes.

  Args:
    params: as for `save_params`.
    path: as for `save_params`.
    format: as for `save_params`.
    model: as for `save_params`.
    images: that the weights expect.
    no_embed_class: as for `save_params`.
    class_names: in the order of their numbers, for configs of libraries; None
      if they are not known.
    loss: by which a classifier was trained, for those of Hugging Face.

  Raises:
    FileNotFoundError, ValueError: as `save_params`.
  """
  path = check_path(path, format)
  _check_text(model, format)
  _check_model(model, format)
  flat = traverse_util.flatten_dict(params, sep="/")
  arrays = {name: np.asarray(array) for name, array in flat.items()}
  kernel = arrays.get(surgery.KERNEL)
  if kernel is None and label_coder.KERNEL not in arrays:
    raise ValueError(
      f"These are no parameters of a ViT: there is no {surgery.KERNEL!r} among"
      f" {', '.join(sorted(arrays)[:4])}, ...."
    )
  if kernel is None and format not in ("native", "big_vision"):
    raise ValueError(
      f"{format} has no model that codes labels; save these parameters as "
      "native or big_vision."
    )
  is_video = kernel is not None and kernel.ndim != 4
  if is_video and format not in ("native", "scenic"):
    raise ValueError(
      f"{format} has no model for videos like that of these parameters; save"
      " them as native or scenic."
    )
  if no_embed_class and format != "timm":
    raise ValueError(f"no_embed_class is of timm, not of {format}.")
  stores_posemb = format in ("timm", "hugging_face", "scenic")
  if stores_posemb and surgery.POSEMB not in arrays:
    if model is None:
      raise ValueError(
        f"{format} stores position embeddings and these parameters have none;"
        " pass model= to have them computed."
      )
    embedding = posemb.sincos2d(model.posemb_grid, model.width)
    arrays[surgery.POSEMB] = np.asarray(embedding)
    model = model.clone(posemb="learn")  # The model that the file is for.
  ours = {k: Leaf.from_array(array) for k, array in arrays.items()}
  if format == "timm":
    leaves = timm_names.to_theirs(ours, no_embed_class)
  else:
    leaves = formats.TO_THEIRS[format](ours)
  texts = {}
  if (
    format in formats.LIBRARIES and path.name == formats.LIBRARY_FILE and model
  ):
    if len(class_names or ()) != getattr(model, "num_classes", None):
      class_names = None
    about_classes = dict(class_names=class_names, loss=loss)
    texts = _configs(model, ours, format, images, no_embed_class, about_classes)
    _check_beside(path.parent, texts)
  metadata = {}
  num_heads = _num_heads(arrays)
  if noted := about.metadata_text(model, num_heads, format, images):
    metadata[about.MODEL_KEY] = noted
  path.parent.mkdir(exist_ok=True)
  containers.write(
    path, {name: leaf.read() for name, leaf in leaves.items()}, metadata
  )
  for name, text in texts.items():
    (path.parent / name).write_text(text, encoding="utf-8")


def _configs(
  model, leaves, format, images, no_embed_class, about_classes
) -> dict[str, str]:
  """Returns the files that a library puts beside weights, by name."""
  if format == "timm":
    config = timm_export.config(model, leaves, images, no_embed_class)
    if names := about_classes["class_names"]:
      config["label_names"] = list(names)
    contents = {"config.json": config}
    if images.mean is None:
      logging.warning(
        "Nothing tells which images these weights expect, and timm then takes"
        " ImageNet's mean and std. Give input_mean and input_std (on a command"
        " line --input_mean and --input_std): 0.5 for images in [-1, 1]."
      )
  else:
    config = hugging_face_export.config(model, leaves, **about_classes)
    contents = {"config.json": config}
    if images.mean is not None:
      processor = hugging_face_export.processor(images, model)
      contents["preprocessor_config.json"] = processor
  return {
    name: json.dumps(content, indent=2) + "\n"
    for name, content in contents.items()
  }


def _check_beside(folder: pathlib.Path, texts: Mapping[str, str]) -> None:
  """Raises ValueError if a folder has configs of another model."""
  for name, text in texts.items():
    file = folder / name
    if file.is_file() and file.read_text(encoding="utf-8") != text:
      raise ValueError(
        f"{file} is of another model than these parameters. Save them into a"
        " folder of their own."
      )


def _check_text(model: nn.Module | None, format: str) -> None:
  """Raises ValueError for a text tower that big_vision does not have."""
  text = getattr(model, "text", None) or {}
  is_clip = text.get("causal") or text.get("pool") == "eot"
  if is_clip and format == "big_vision":
    raise ValueError(
      "big_vision's text towers are not causal and have no pool='eot', but that"
      " of the model is CLIP's. Use format='native'."
    )


def _check_model(model: nn.Module | None, format: str) -> None:
  """Raises ValueError for what the models of JAX's libraries do not compute.

  It warns of a difference that fine-tuning hardly notices.
  """
  if format not in ("big_vision", "scenic") or model is None:
    return
  if not isinstance(model, hyperparameters.Hyperparameters):
    return
  if model.pool == "tok_gap" or model.gelu == "quick":
    raise ValueError(
      f"{format} has no model with pool={model.pool!r} and"
      f" gelu={model.gelu!r}. Use format='native'."
    )
  if (model.gelu, model.norm_eps) != ("tanh", blocks.LAYER_NORM_EPS):
    logging.warning(
      "%s computes gelu='tanh' and norm_eps=%g, but these parameters are for"
      " gelu=%r and norm_eps=%g: the largest output differs by 1e-4 to 4e-4.",
      format,
      blocks.LAYER_NORM_EPS,
      model.gelu,
      model.norm_eps,
    )


def check_path(path: str | os.PathLike, format: str) -> pathlib.Path:
  """Returns the path of a file to save.

  Args:
    path: as for `save_params`.
    format: as for `save_params`.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: the format is unknown, or the path has another suffix.
  """
  path = paths.local(path, "path")
  configuration.choose(format, formats.TO_THEIRS, "format")
  suffixes = formats.SUFFIXES[format]
  is_folder = path.is_dir() or not path.suffix
  if format in formats.LIBRARIES and is_folder:
    if not path.parent.is_dir():
      raise FileNotFoundError(f"{path}: there is no folder {path.parent}.")
    return path / formats.LIBRARY_FILE
  if path.suffix not in suffixes:
    raise ValueError(
      f"The format {format} is saved as {' or '.join(suffixes)}, not as"
      f" {path.name!r}."
    )
  if not path.parent.is_dir():
    raise FileNotFoundError(f"{path}: there is no folder {path.parent}.")
  return path


def _num_heads(arrays: Mapping[str, np.ndarray]) -> int | None:
  """Returns the heads of the first block; None without such a block."""
  block = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0"
  kernel = arrays.get(f"{block}/query/kernel")
  return None if kernel is None or kernel.ndim != 3 else kernel.shape[1]
