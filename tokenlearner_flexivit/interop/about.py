"""Reads what stands beside the arrays of a weight file.

Arrays do not tell how many heads attend, which activation is used or which
images are expected. A run's config.json does, so does what this library writes
into its own files, and so do timm's and Hugging Face's config.json.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from flax import core
from flax import linen as nn

from tokenlearner_flexivit import models
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.interop import torch_names
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.run import workdir as workdir_lib

# Where a file of ours keeps this: of `inference.trained`, and of `save_params`.
EXPORT_KEY = "tokenlearner_flexivit"
MODEL_KEY = "tokenlearner_flexivit_model"
# What a model has beside the meaning of its weights: how it was initialised
# and how it computes.
_NOT_OF_WEIGHTS = {
  "dropout",
  "dtype",
  "head_bias_init",
  "head_zeroinit",
  "name",
  "parent",
  "remat",
  "scan",
  "stochastic_depth",
}
ERF = (
  "GELU is computed with erf there and in its tanh form here, for which there"
  " is no switch: outputs differ by 1e-4 to 4e-4 of the largest"
)
_TANH = ("gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# What no array shows: parts of the names of timm's architectures.
_ARCHITECTURES = {
  "quickgelu": "quick GELU, x sigmoid(1.702 x)",
  "rope|dinov3|eva02|vit_pe": "rotary positions",
  "relpos": "relative positions",
  "_rpn": "norms after the residual branches",
  "_xp": "parallel branches",
  "naflex": "NaFlex's patches",
}
_ARCHITECTURE_HEADS = {"so400m": 16, "giantopt": 16}
# Arguments of timm's VisionTransformer under which it is the model here.
_TIMM_ARGUMENTS = {
  "act_layer": (None, "gelu", *_TANH),
  "embed_norm_layer": (None,),
  "fc_norm": (None, False),
  "final_norm": (None, True),
  "mlp_layer": (None, "mlp"),
  "norm_layer": (None, "layernorm"),
  "pool_include_prefix": (None, False),
  "pre_norm": (None, False),
  "qk_norm": (None, False),
  "reg_tokens": (None, 0),
  "scale_attn_norm": (None, False),
  "scale_mlp_norm": (None, False),
}
_TIMM_POOLS = {"token": "tok", "avg": "gap", "map": "map"}
# Of Hugging Face: the kinds of models that have the names of its ViT.
_HUGGING_FACE = ("vit", "vit_mae", "vit_msn", "ijepa", "deit")


@dataclasses.dataclass(frozen=True)
class About:
  """Holds what is known of a file's model beside its arrays.

  Attributes:
    where: what told it, for errors; empty if nothing did.
    format: of the names, if it is known.
    model: complete arguments of `models.create`, of a run or a file of ours.
    num_heads: attention heads.
    posemb_grid: (h, w) of the stored positions.
    cls_entry: whether the first position is that of the cls token.
    input_mean: of images in [0, 1], per channel, that the model subtracts; of
      a run or an export by its preprocessing.
    input_std: per channel, that it divides by.
    differences: in words, what the file's library computes otherwise.
    unknown: in words, what nobody tells and the answers depend on.
  """

  where: str = ""
  format: str | None = None
  model: Mapping[str, Any] | None = None
  num_heads: int | None = None
  posemb_grid: tuple[int, ...] | None = None
  cls_entry: bool | None = None
  input_mean: tuple[float, ...] | None = None
  input_std: tuple[float, ...] | None = None
  differences: tuple[str, ...] = ()
  unknown: tuple[str, ...] = ()

  @property
  def other_statistics(self) -> bool:
    """Whether images in [-1, 1] are not what the model expects."""
    if self.input_mean is None or self.input_std is None:
      return False
    values = (*self.input_mean, *self.input_std)
    return any(abs(value - 0.5) > 1e-6 for value in values)


def arguments(model: nn.Module) -> dict[str, Any] | None:
  """Returns the arguments of `models.create` that give weights their meaning.

  Args:
    model: of a class in `models.MODELS`; None is returned for others.
  """
  names = [name for name, cls in models.MODELS.items() if cls is type(model)]
  if not names:
    return None
  values = {"name": names[0]}
  for field in dataclasses.fields(model):
    if field.name not in _NOT_OF_WEIGHTS:
      value = getattr(model, field.name)
      is_dict = isinstance(value, core.FrozenDict)
      values[field.name] = dict(value) if is_dict else value
  return values


def of_model(
  model: nn.Module | None, num_heads: int | None, format: str
) -> str | None:
  """Returns what `save_params` notes in a file of a model, as JSON.

  Args:
    model: None if only its heads are known.
    num_heads: attention heads.
    format: of the file.
  """
  noted = arguments(model) if model is not None else None
  if noted is None and num_heads is None:
    return None
  return json.dumps({"model": noted, "num_heads": num_heads, "format": format})


def read(
  path: pathlib.Path, leaves: Leaves, metadata: Mapping[str, str]
) -> About:
  """Returns what is known of a file or workdir beside its arrays.

  Args:
    path: of the file or workdir.
    leaves: its arrays, by the names that they have there.
    metadata: of the file.

  Raises:
    ValueError: what is told is damaged, is of another model, or is of one that
      the models here cannot compute; names the feature.
  """
  if path.is_dir():
    if not (path / workdir_lib.CONFIG_FILE).is_file():
      return About()
    return _of_run(path, leaves)
  if EXPORT_KEY in metadata:
    section = _json(metadata[EXPORT_KEY], path).get("model_section")
    pp = preprocessing(path, metadata)
    return _ours(
      dict(section or {}), str(path), "native", *_of_preprocessing(pp)
    )
  if MODEL_KEY in metadata:
    noted = _json(metadata[MODEL_KEY], path)
    if noted["model"]:
      return _ours(noted["model"], str(path), noted["format"])
    return About(
      str(path),
      num_heads=noted["num_heads"],
      # In what is saved for timm and Hugging Face a cls token has a position.
      cls_entry=any(name.endswith("cls_token") for name in leaves),
      input_mean=(0.5,),
      input_std=(0.5,),
    )
  names = set(leaves)
  if torch_names.is_timm(names) or torch_names.is_hugging_face(names):
    return _of_torch(path, leaves)
  return About()


def class_names(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> list[str] | None:
  """Returns the names of the classes that a run or an export has.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    None where there are none: files of weights alone know no names.
  """
  if (path / workdir_lib.ABOUT_DATA_FILE).is_file():
    return workdir_lib.read_about_data(path).get("class_names")
  if EXPORT_KEY in metadata:
    return _json(metadata[EXPORT_KEY], path).get("class_names")
  return None


def preprocessing(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> str | None:
  """Returns the preprocessing string of a run or an export.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    None where there is none: files of weights alone know of none.
  """
  if path.is_dir() and (path / workdir_lib.CONFIG_FILE).is_file():
    return (workdir_lib.read_config(path).get("data") or {}).get("pp")
  if EXPORT_KEY in metadata:
    return _json(metadata[EXPORT_KEY], path).get("pp")
  return None


def _of_run(path: pathlib.Path, leaves: Leaves) -> About:
  config = workdir_lib.read_config(path)
  if "model" not in config:
    raise ValueError(
      f"{path / workdir_lib.CONFIG_FILE} is no config of a run: it has no"
      " section model."
    )
  # The config need not name what the data tells.
  head = leaves.get("head/kernel")
  num_classes = head.shape[-1] if head else None
  section = {**config["model"], "num_classes": num_classes}
  statistics_seen = _of_preprocessing(preprocessing(path, {}))
  where = str(path / workdir_lib.CONFIG_FILE)
  return _ours(section, where, "native", *statistics_seen)


def _of_preprocessing(pp: str | None):
  """Returns mean and std of images that a string prepares; None if unknown."""
  told = None
  if pp is not None:
    # Ops of a person's own need not be registered to read weights.
    with contextlib.suppress(ValueError):
      told = statistics.of_preprocessing(pp)
  if told is None:
    return None, None
  # They are of float32, whose last digits are rounding.
  return tuple(
    tuple(float(f"{value:.6g}") for value in values) for values in told
  )


def _ours(
  section: dict[str, Any],
  where: str,
  format: str,
  input_mean: tuple[float, ...] | None = (0.5,),
  input_std: tuple[float, ...] | None = (0.5,),
) -> About:
  try:
    model = models.create(**section)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"{where} describes a model that cannot be built: {error}"
    ) from error
  grid = None
  if model.posemb == "learn":
    # The factorised encoder has positions in a frame, and others in time.
    factorised = isinstance(model, models.ViViTFactorised)
    grid = model.posemb_grid[1:] if factorised else model.posemb_grid
  return About(
    where,
    format,
    arguments(model),
    model.num_heads,
    grid,
    input_mean=input_mean,
    input_std=input_std,
  )


def _of_torch(path: pathlib.Path, leaves: Leaves) -> About:
  beside = path.parent / "config.json"
  config = (
    _json(beside.read_text(encoding="utf-8"), beside)
    if beside.is_file()
    else {}
  )
  timm = torch_names.is_timm(set(leaves))
  if timm and "architecture" in config:
    return _of_timm(config, leaves, str(beside))
  if not timm and "model_type" in config:
    processor = path.parent / "preprocessor_config.json"
    prepared = (
      _json(processor.read_text(encoding="utf-8"), processor)
      if processor.is_file()
      else {}
    )
    return _of_hugging_face(config, prepared, leaves, str(beside))
  pooling = "the pooling, which is that of its arrays" if timm else ""
  return About(
    cls_entry=None if timm else True,
    differences=(
      f"{ERF}; quick GELU and ReLU, which no array shows, differ by 0.2",
    ),
    unknown=tuple(
      f"{what}: there is no config.json beside the file"
      for what in (pooling, "mean and std of the images, taken as 0.5")
      if what
    ),
  )


def _of_timm(config: Mapping[str, Any], leaves: Leaves, where: str) -> About:
  name = str(config["architecture"])
  model_args = config.get("model_args") or {}
  for part, feature in _ARCHITECTURES.items():
    if re.search(part, name):
      raise _unsupported(where, f"{name} has {feature}")
  for key, allowed in _TIMM_ARGUMENTS.items():
    if model_args.get(key) not in allowed:
      raise _unsupported(where, f"it has {key}={model_args[key]!r}")
  kernel = leaves["patch_embed.proj.weight"].shape
  width = model_args.get("embed_dim", config.get("num_features", kernel[0]))
  _check_width(width, kernel[0], where)
  _check_timm_pool(
    config.get("global_pool", model_args.get("global_pool")), leaves
  )
  cfg = config.get("pretrained_cfg") or config
  size = model_args.get("img_size") or (cfg.get("input_size") or ())[1:]
  cls_entry = None
  if "no_embed_class" in model_args:
    cls_entry = not model_args["no_embed_class"] and "cls_token" in leaves
  grid, cls_entry = _grid(size, kernel, leaves.get("pos_embed"), cls_entry)
  heads = [n for part, n in _ARCHITECTURE_HEADS.items() if part in name]
  tanh = model_args.get("act_layer") in _TANH
  differences = [] if tanh else [f"{ERF}, unless {name} is configured so"]
  if name.startswith("flexivit"):
    differences.append(
      "timm stores a 16x16 kernel that is a resized one of 32x32: patches"
      " smaller than 16 are embedded otherwise than by the original (0.1 to 0.3"
      " of the largest), which big_vision's .npz holds"
    )
  mean, std = _statistics(cfg.get("mean"), cfg.get("std"))
  return About(
    where,
    num_heads=model_args.get("num_heads", heads[0] if heads else None),
    posemb_grid=grid,
    cls_entry=cls_entry,
    input_mean=mean,
    input_std=std,
    differences=tuple(differences),
    unknown=() if mean else (f"mean and std of the images: {where} has none",),
  )


def _check_timm_pool(pool: str | None, leaves: Leaves) -> None:
  has_cls, has_map = "cls_token" in leaves, "attn_pool.latent" in leaves
  if pool is None:
    return
  if pool not in _TIMM_POOLS:
    raise _unsupported("config.json", f"it has global_pool={pool!r}")
  fits = {"token": has_cls, "avg": not has_cls, "map": has_map}[pool]
  if not fits:
    raise _unsupported(
      "config.json",
      f"it has global_pool={pool!r} {'with' if has_cls else 'without'} a cls"
      " token",
    )


def _of_hugging_face(
  config: Mapping[str, Any],
  processor: Mapping[str, Any],
  leaves: Leaves,
  where: str,
) -> About:
  kind = config["model_type"]
  if kind not in _HUGGING_FACE:
    raise _unsupported(where, f"it is a model of the kind {kind!r}")
  prefix = "vit." if any(name.startswith("vit.") for name in leaves) else ""
  kernel = leaves[f"{prefix}{torch_names.HUGGING_FACE_KERNEL}"].shape
  _check_width(config.get("hidden_size", kernel[0]), kernel[0], where)
  activation = config.get("hidden_act", "gelu")
  if activation not in ("gelu", *_TANH):
    raise _unsupported(where, f"it has hidden_act={activation!r}")
  pooler = config.get("pooler_act", "tanh")
  if f"{prefix}pooler.dense.weight" in leaves and pooler != "tanh":
    raise _unsupported(where, f"it has pooler_act={pooler!r}")
  eps = config.get("layer_norm_eps", 1e-12)
  differences = [ERF] if activation == "gelu" else []
  if eps > 1e-5:
    raise _unsupported(where, f"it has layer_norm_eps={eps}")
  if eps != 1e-6:
    differences.append(
      f"layer norms have an epsilon of {eps} there and of 1e-06 here: outputs"
      " differ by up to 1e-5 of the largest"
    )
  size = config.get("image_size") or ()
  size = (size, size) if isinstance(size, int) else size
  cls_entry = f"{prefix}embeddings.cls_token" in leaves
  positions = leaves.get(f"{prefix}embeddings.position_embeddings")
  grid, cls_entry = _grid(size, kernel, positions, cls_entry)
  mean, std = processor.get("image_mean"), processor.get("image_std")
  if processor.get("do_normalize") is False:
    mean, std = (0.0,), (1.0,)
  mean, std = _statistics(mean, std)
  unknown = (
    ()
    if mean
    else (
      "mean and std of the images, taken as 0.5: there"
      " is no preprocessor_config.json beside the file that tells them",
    )
  )
  return About(
    where,
    num_heads=config.get("num_attention_heads"),
    posemb_grid=grid,
    cls_entry=cls_entry,
    input_mean=mean,
    input_std=std,
    differences=tuple(differences),
    unknown=unknown,
  )


def _grid(size, kernel, positions, cls_entry):
  """Returns the grid of positions, and whether cls has one; None if unknown."""
  if positions is None or len(size) != 2 or len(kernel) != 4:
    return None, cls_entry
  grid = tuple(int(s) // p for s, p in zip(size, kernel[2:], strict=True))
  more = positions.shape[1] - math.prod(grid)
  # Trained at one size and tuned at another, the config may tell the former.
  if more not in (0, 1) or cls_entry not in (None, bool(more)):
    return None, cls_entry
  return grid, bool(more)


def _statistics(mean, std):
  if mean is None or std is None:
    return None, None
  return tuple(map(float, mean)), tuple(map(float, std))


def _check_width(told: int, stored: int, where: str) -> None:
  if told != stored:
    raise ValueError(
      f"{where} is of another model: its width is {told}, that of the arrays"
      f" {stored}. Put the file into a folder of its own."
    )


def _unsupported(where: str, feature: str) -> ValueError:
  return ValueError(
    f"{where}: {feature}, which the models here cannot compute, so that these"
    " weights would give other answers."
  )


def _json(text: str, path) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}.") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path} is damaged: it holds no JSON object.")
  return value
