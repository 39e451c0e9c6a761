"""Saves parameters under the names and in the files of other libraries."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths
from tokenlearner_flexivit.interop import about, containers, formats, surgery
from tokenlearner_flexivit.interop.leaves import Leaf
from tokenlearner_flexivit.models import label_coder, posemb


def save_params(
  params: Mapping[str, Any],
  path: str | os.PathLike,
  format: str = "native",
  *,
  model: nn.Module | None = None,
  input_mean: Sequence[float] | None = None,
  input_std: Sequence[float] | None = None,
) -> None:
  """Saves parameters to a file; dtypes are kept.

  Other libraries compute the same function under these settings:

  * timm: `VisionTransformer(fc_norm=False, act_layer="gelu_tanh")` with
    global_pool "token", "avg" or "map", the latter two with class_token=False.
    `timm.create_model("vit_base_patch16_224", checkpoint_path=...)` takes a
    model with a cls token of that size.
  * Hugging Face: `ViTConfig(hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6)`.
  * big_vision and Scenic: the models of the same size.

  Args:
    params: of a `models.ViT`; as native or big_vision of a `models.TwoTowers`,
      a `models.LabelCoder` or a `models.UViM` without its coder; as native or
      scenic of a `models.ViViT`; or of any other as native.
    path: its suffix must be one of the format's: native .npz or .safetensors,
      big_vision .npz, scenic .npz or .msgpack (flax), the others .safetensors.
    format: "native" (our names), "big_vision", "timm", "hugging_face" or
      "scenic".
    model: noted in the file (but not in .msgpack), so that `describe` and
      `load_params` guess nothing; needed where the position embedding is
      computed, not stored (posemb="sincos2d"), and the format has to store it.
    input_mean: the mean, per channel or one for all, that the weights expect
      to be subtracted from images in [0, 1]; 0.5 for images in [-1, 1]. Noted
      like `model`. Without it the file does not show which images it needs.
    input_std: the standard deviation by which the weights expect those images
      to be divided, per channel or one for all. Noted like `model`; both are
      given, or neither.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: an unknown format, another suffix, or parameters that the
      format has no names for. Nothing is written then.
  """
  path = check_path(path, format)
  _check_text(model, format)
  to_theirs = formats.TO_THEIRS[format]
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
  leaves = to_theirs({k: Leaf.from_array(array) for k, array in arrays.items()})
  statistics = (None, None)
  if input_mean is not None or input_std is not None:
    statistics = surgery.statistics_of_unit_images(input_mean, input_std)
  metadata = {}
  num_heads = _num_heads(arrays)
  if noted := about.metadata_text(model, num_heads, format, *statistics):
    metadata[about.MODEL_KEY] = noted
  containers.write(
    path, {name: leaf.read() for name, leaf in leaves.items()}, metadata
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
