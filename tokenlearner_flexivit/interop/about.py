"""Reads the metadata beside the arrays of a weight file.

Arrays do not show how many heads attend, which activation is used or which
images are expected. The config.json of a run records it, so do the files that
this library writes, and those that timm and Hugging Face put beside weights.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import core
from flax import linen as nn

from tokenlearner_flexivit import models
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.interop import (
  config_files,
  hugging_face_configs,
  hugging_face_names,
  owl_names,
  text_tower,
  timm_configs,
  timm_names,
  tower_configs,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import label_coder, segmenter, uvim
from tokenlearner_flexivit.run import workdir as workdir_lib

# Metadata keys in files that `inference.trained` and `save_params` write.
EXPORT_KEY = "tokenlearner_flexivit"
MODEL_KEY = "tokenlearner_flexivit_model"
# Arguments of a model that do not change what its weights mean, such as how it
# was initialised.
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
  "temperature_init",
}


@dataclasses.dataclass(frozen=True)
class About:
  """Holds what is known of a file's model beside its arrays.

  Attributes:
    where: the source of this metadata, for errors; empty if there is none.
    format: of the names, if it is known.
    model: complete arguments of `models.create`, of a run or a file of ours.
    num_heads: attention heads.
    posemb_grid: (h, w) of the stored positions.
    prefix_entries: how many positions before these are of cls and registers.
    images: that the model expects; for a run or an export, by its
      preprocessing.
    flexible: whether the weights are known to be for any patch size.
    class_names: of the classes, if a config of a library tells them.
    differences: in words, what the file's library computes differently.
    unknown: in words, unrecorded things that the answers depend on.
    untold_images: in words, why mean and std of the images are unknown, where
      weights must not be loaded without; empty for others.
    computes: arguments of a model that no array shows, such as its activation.
    guessed: the same, where nothing tells them and most models have these.
    text: the same of its text tower; None if there is none, or no config.
  """

  where: str = ""
  format: str | None = None
  model: Mapping[str, Any] | None = None
  num_heads: int | None = None
  posemb_grid: tuple[int, ...] | None = None
  prefix_entries: int | None = None
  images: config_files.Images = config_files.UNKNOWN
  flexible: bool = False
  class_names: Sequence[str] | None = None
  differences: tuple[str, ...] = ()
  unknown: tuple[str, ...] = ()
  untold_images: str = ""
  computes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  guessed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  text: Mapping[str, Any] | None = None

  @property
  def other_statistics(self) -> bool:
    """Tells whether the model expects other images than those in [-1, 1]."""
    if self.images.mean is None or self.images.std is None:
      return False
    values = (*self.images.mean, *self.images.std)
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


def metadata_text(
  model: nn.Module | None,
  num_heads: int | None,
  format: str,
  images: config_files.Images,
) -> str | None:
  """Returns the metadata that `save_params` writes into a file, as JSON.

  Args:
    model: None if only its heads are known.
    num_heads: attention heads.
    format: of the file.
    images: that the weights expect.
  """
  noted = arguments(model) if model is not None else None
  if noted is None and num_heads is None:
    return None
  values = {"model": noted, "num_heads": num_heads, "format": format}
  seen = dataclasses.asdict(images)
  mean, std = seen.pop("mean"), seen.pop("std")
  values |= {"input_mean": mean, "input_std": std, "images": seen}
  return json.dumps(values)


def read(
  path: pathlib.Path, leaves: Leaves, metadata: Mapping[str, str]
) -> About:
  """Returns the metadata of a file or workdir.

  Args:
    path: of the file or workdir.
    leaves: its arrays, by their names in the file.
    metadata: of the file.

  Raises:
    ValueError: the metadata is damaged, is of another model, or is of one that
      the models here cannot compute; names the feature.
  """
  if path.is_dir():
    if not (path / workdir_lib.CONFIG_FILE).is_file():
      return About()
    return _about_run(path, leaves)
  if EXPORT_KEY in metadata:
    section = config_files.parse(metadata[EXPORT_KEY], path).get(
      "model_section"
    )
    noted = config_files.parse(metadata[EXPORT_KEY], path).get("other_task")
    section = _complete(section or {}, leaves, (noted or {}).get("about", {}))
    images = _images_seen(
      preprocessing(path, metadata),
      config_files.parse(metadata[EXPORT_KEY], path).get("image_shape"),
    )
    return _ours(section, str(path), "native", images)
  if MODEL_KEY in metadata:
    noted = config_files.parse(metadata[MODEL_KEY], path)
    images = _noted_images(noted)
    if noted["model"]:
      known = _ours(noted["model"], str(path), noted["format"], images)
      if noted["format"] == "native" or not config_files.read(path):
        return known
      # Its folder is for a library, whose config tells the rest.
      beside = _by_names(path, leaves)
      if images.size is None:
        told = dict(mean=images.mean, std=images.std) if images.mean else {}
        images = dataclasses.replace(beside.images, **told)
      return dataclasses.replace(
        known,
        images=images,
        flexible=beside.flexible,
        class_names=beside.class_names,
      )
    return About(
      str(path),
      num_heads=noted["num_heads"],
      # In what is saved for timm and Hugging Face a cls token has a position.
      prefix_entries=int(any(name.endswith("cls_token") for name in leaves)),
      images=images,
    )
  return _by_names(path, leaves)


def _by_names(path: pathlib.Path, leaves: Leaves) -> About:
  """Returns what the config of the library that named the arrays tells."""
  names = set(leaves)
  if timm_names.is_timm(names):
    return About(**timm_configs.read(path, leaves))
  if hugging_face_names.is_vit(names):
    return About(**hugging_face_configs.read(path, leaves))
  if owl_names.is_scenic(names):
    return About(**owl_names.about_scenic(leaves))
  if tower_names.is_towers(names) or owl_names.is_hugging_face(names):
    return About(**tower_configs.read(path, leaves))
  return About()


def class_names(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> list[str] | None:
  """Returns the names of the classes that a run or an export has.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    None for files of weights alone, which hold no names.
  """
  if (path / workdir_lib.ABOUT_DATA_FILE).is_file():
    return workdir_lib.read_about_data(path).get("class_names")
  if EXPORT_KEY in metadata:
    return config_files.parse(metadata[EXPORT_KEY], path).get("class_names")
  return None


def vocabulary(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> dict[str, Any] | None:
  """Returns the vocabulary of the texts of a run or an export.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    JSON values, as `data.vocabulary` describes it; None for files of weights
    alone, which hold none, and for models without texts.
  """
  if (path / workdir_lib.ABOUT_DATA_FILE).is_file():
    return workdir_lib.read_about_data(path).get("vocabulary")
  if EXPORT_KEY not in metadata:
    return None
  noted = config_files.parse(metadata[EXPORT_KEY], path).get("other_task")
  return noted["about"].get("vocabulary") if noted else None


def preprocessing(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> str | None:
  """Returns the preprocessing string of a run or an export.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    None for files of weights alone, which hold none.
  """
  if path.is_dir() and (path / workdir_lib.CONFIG_FILE).is_file():
    return (workdir_lib.read_config(path).get("data") or {}).get("pp")
  if EXPORT_KEY in metadata:
    return config_files.parse(metadata[EXPORT_KEY], path).get("pp")
  return None


def loss(path: pathlib.Path, metadata: Mapping[str, str]) -> str | None:
  """Returns the loss of a classifier of a run or of a file that tells it.

  Args:
    path: of the file or workdir.
    metadata: of the file.

  Returns:
    A key of `config_files.PROBLEMS`, None for others.
  """
  if path.is_dir():
    if not (path / workdir_lib.CONFIG_FILE).is_file():
      return None
    task = workdir_lib.read_config(path).get("task") or {}
    task = {"loss": "softmax_xent", **task}
  else:
    task = export_task(metadata, path)
  kinds = ("classification", "distillation")
  if task.get("name", kinds[0]) not in kinds:
    return None
  return task.get("loss")


def export_task(metadata: Mapping[str, str], path: pathlib.Path) -> dict:
  """Returns the section `task` of an export, or what a config tells of it."""
  if EXPORT_KEY not in metadata:
    return config_files.task_of_hugging_face(path)
  noted = config_files.parse(metadata[EXPORT_KEY], path)
  if noted.get("other_task"):
    return dict(noted["other_task"]["section"])
  return {"name": "classification", "loss": noted.get("loss")}


def _about_run(path: pathlib.Path, leaves: Leaves) -> About:
  config = workdir_lib.read_config(path)
  if "model" not in config:
    raise ValueError(
      f"{path / workdir_lib.CONFIG_FILE} is no config of a run: it has no"
      " section model."
    )
  about = {}
  if (path / workdir_lib.ABOUT_DATA_FILE).is_file():
    about = workdir_lib.read_about_data(path)
  section = _complete(config["model"], leaves, about)
  images = _images_seen(preprocessing(path, {}), about.get("image_shape"))
  where = str(path / workdir_lib.CONFIG_FILE)
  return _ours(section, where, "native", images)


def _complete(
  section: Mapping[str, Any], leaves: Leaves, about: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a run's section `model` with all that its weights tell.

  It need not state the number of classes or of tokens, which the data
  determine, nor the name of a model that the task takes by default.

  Args:
    section: of the run.
    leaves: its weights.
    about: what its task remembers about the data.
  """
  if label_coder.KERNEL in leaves:
    number = leaves[label_coder.KERNEL].shape[0]
    return {"name": "label_coder", "num_labels": number, **section}
  if uvim.EMBEDDING in leaves:
    coder = (about.get("coder") or {}).get("fields") or section.get("coder")
    if f"{uvim.CODER}/{label_coder.KERNEL}" in leaves:
      number = leaves[f"{uvim.CODER}/{label_coder.KERNEL}"].shape[0]
      coder = {"num_labels": number, **coder}
    return {"name": "uvim", **section, "coder": coder}
  head = leaves.get("head/kernel")
  is_segmenter = False
  for name in segmenter.CLASS_LEAVES:
    if name in leaves:
      head, is_segmenter = leaves[name], True
  completed = {**section, "num_classes": head.shape[-1] if head else None}
  if is_segmenter and not completed.get("name"):
    completed["name"] = "segmenter"
  if text_tower.EMBEDDING in leaves:
    name = completed.get("name") or text_tower.model_name(leaves)
    completed["name"] = name
    sizes = text_tower.sizes_of_vocabulary(leaves)
    completed["text"] = {**(completed.get("text") or {}), **sizes}
    if name != "owl_vit":
      completed.setdefault("bias_init", text_tower.bias_init(leaves))
  return completed


def _noted_images(noted: Mapping[str, Any]) -> config_files.Images:
  """Returns the images by the metadata that `metadata_text` wrote.

  Files of older versions record less.
  """
  values = {
    "mean": noted.get("input_mean"),
    "std": noted.get("input_std"),
    **noted.get("images", {}),
  }
  return config_files.Images(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  )


def _images_seen(
  pp: str | None, shape: Sequence[int] | None
) -> config_files.Images:
  """Returns what is known of the images that a run prepares.

  Args:
    pp: its preprocessing; None if unknown.
    shape: of an image or a video, channels last; None if unknown.
  """
  told = None
  if pp is not None:
    # A user's own ops need not be registered to read weights.
    with contextlib.suppress(ValueError):
      told = statistics.mean_and_std(pp)
  size = shape and tuple(shape[-3:-1])
  if told is None:
    return config_files.Images(size=size)
  # They are float32, whose last digits are rounding errors.
  mean, std = (
    tuple(float(f"{value:.6g}") for value in values) for values in told
  )
  return config_files.Images(mean, std, size)


def _ours(
  section: dict[str, Any],
  where: str,
  format: str,
  images: config_files.Images,
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
    images=images,
  )
