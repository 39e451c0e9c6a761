"""Reads the files that timm and Hugging Face put beside weights."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit.data.ops import resampling

# Names of GELUs in both libraries, and those of `blocks.GELUS` here.
GELUS = {
  "gelu": "erf",
  "gelu_python": "erf",
  "quick_gelu": "quick",
} | dict.fromkeys(
  ("gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "tanh"
)
# What kinds of models of Hugging Face have that the models here lack.
_FEATURES_OF_KINDS = {
  "aimv2_vision_model": "gated MLPs and RMSNorm",
  "beit": "relative positions",
  "data2vec-vision": "relative positions",
  "dinov3_vit": "rotary positions",
  "hiera": "windowed attention",
  "sam": "windowed attention and relative positions",
  "sam_vision_model": "windowed attention and relative positions",
  "siglip2": "patches of any number, NaFlex",
  "siglip2_vision_model": "patches of any number, NaFlex",
  "swin": "windowed attention",
  "swinv2": "windowed attention",
  "timesformer": "attention over space and time in turn",
  "videomae": "computed positions of tubelets",
  "vitdet": "windowed attention",
  "yolos": "detection tokens",
}
# Hugging Face's names of problems by the loss of `config.task`.
PROBLEMS = {
  "softmax_xent": "single_label_classification",
  "sigmoid_xent": "multi_label_classification",
}
# Keys of preprocessor_config.json, by age, that name the code that reads it.
_KINDS_OF_PROCESSORS = ("image_processor", "feature_extractor")
# How transformers resizes where the file is silent: by the beginning of that
# name, or where it is not told by the kind of the model.
_RESAMPLED = {
  "bilinear": (
    ("ViT", "Vivit"),
    ("ijepa", "vit", "vit_mae", "vit_msn", "vivit"),
  ),
  "bicubic": (
    ("Bit", "CLIP", "DeiT", "Siglip"),
    (
      *("clip", "clip_vision_model", "deit", "dinov2"),
      *("dinov2_with_registers", "siglip", "siglip_vision_model"),
    ),
  ),
}
# Numbers of Pillow's ways to resample.
_INTERPOLATIONS = {
  0: "nearest",
  1: "lanczos",
  2: "bilinear",
  3: "bicubic",
  4: "box",
  5: "hamming",
}


RESAMPLE = {name: number for number, name in _INTERPOLATIONS.items()}


@dataclasses.dataclass(frozen=True)
class Images:
  """The images that weights expect.

  Attributes:
    mean: per channel, subtracted from images in [0, 1]; None if unknown.
    std: per channel, by which they are divided then; None if unknown.
    size: (height, width) in pixels; None if unknown.
    interpolation: how they are resized, such as "bicubic"; None if unknown.
    crop: share of the sides of the resized image, or of its smaller side, that
      the central crop of `size` keeps; 1 for none, None if unknown.
    keeps_shape: whether resizing keeps the ratio of the sides.
  """

  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  size: tuple[int, int] | None = None
  interpolation: str | None = None
  crop: float | None = None
  keeps_shape: bool = True

  @property
  def method(self) -> str:
    """Returns the method of `data.ops.resampling` that resizes like that.

    Both libraries resize by Pillow, or like it, with antialiasing. That is
    "area" if the interpolation is unknown.
    """
    # Of timm's "random", evaluations take "bilinear".
    name = {"random": "bilinear"}.get(self.interpolation, self.interpolation)
    methods = (f"pillow_{name}", name, "area")
    return next(method for method in methods if method in resampling.METHODS)

  @property
  def ops(self) -> str | None:
    """Returns ops of preprocessing that resize and crop images like that.

    None if the size is unknown.
    """
    if self.size is None:
      return None
    crop = f"central_crop({self.size})"
    if self.keeps_shape:
      return f"resize_small({min(self.resized)},{self.method!r})|{crop}"
    resize = f"resize({self.resized},{self.method!r})"
    return resize if self.resized == self.size else f"{resize}|{crop}"

  @property
  def resized(self) -> tuple[int, int]:
    """Returns height and width before the crop, where the size is known.

    If the ratio of the sides is kept, only the smaller one counts.
    """
    # Both libraries round down; the quotient may be a rounding error too small.
    return tuple(
      math.floor(side / (self.crop or 1) + 1e-6) for side in self.size
    )


UNKNOWN = Images()


def read(path: pathlib.Path, name: str = "config.json") -> dict[str, Any]:
  """Returns the content of a JSON file beside weights; empty without it.

  Args:
    path: of the weights.
    name: of the file.

  Raises:
    ValueError: it is damaged.
  """
  beside = path.parent / name
  if not beside.is_file():
    return {}
  return parse(beside.read_text(encoding="utf-8"), beside)


def parse(text: str, path) -> dict[str, Any]:
  """Returns the object that a JSON text of the file `path` holds.

  Raises:
    ValueError: the text holds no JSON object.
  """
  try:
    value = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}.") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path} is damaged: it holds no JSON object.")
  return value


def check_width(told: int, stored: int, where: str) -> None:
  """Raises ValueError if a config is of a model of another width."""
  if told != stored:
    raise ValueError(
      f"{where} is of another model: its width is {told}, that of the arrays"
      f" {stored}. Put the file into a folder of its own."
    )


def unsupported(where: str, feature: str) -> ValueError:
  """Returns the error for a feature that the models here lack."""
  return ValueError(
    f"{where}: {feature}, which the models here cannot compute, so that these"
    " weights would give other answers."
  )


def unsupported_kind(where: str, kind: str) -> ValueError:
  """Returns the error for a kind of model of Hugging Face that is not read."""
  feature = _FEATURES_OF_KINDS.get(kind)
  named = f" ({feature})" if feature else ""
  return unsupported(where, f"it is a model of the kind {kind!r}{named}")


def check_kind(path: pathlib.Path) -> None:
  """Raises ValueError if a config tells a kind of model that is not read."""
  kind = read(path).get("model_type")
  if kind in _FEATURES_OF_KINDS:
    raise unsupported_kind(str(path.parent / "config.json"), kind)


def gelu(activation: str, key: str, where: str) -> str:
  """Returns the name here of the activation that a config tells.

  Args:
    activation: by the config.
    key: of the config.
    where: the config, for errors.

  Raises:
    ValueError: an activation that is no GELU.
  """
  if activation not in GELUS:
    raise unsupported(where, f"it has {key}={activation!r}")
  return GELUS[activation]


def grid(
  size: int | Sequence[int] | None,
  patch: Sequence[int],
  positions: Sequence[int],
  entries: Sequence[int],
) -> tuple[tuple[int, ...] | None, int | None]:
  """Returns the grid of stored positions by an image size that a config tells.

  Args:
    size: of the images, in pixels; (T, H, W) of videos.
    patch: size of the patches.
    positions: shape of those that are stored, [N, D] or [1, N, D]; () for none.
    entries: how many of them may be of cls and registers.

  Returns:
    the grid, and how many positions are of cls and registers; both None where
    the config does not fit, as that of a model tuned at another size, which may
    hold the size before that.
  """
  if size is None or len(positions) < 2:
    return None, None
  sides = (size,) * len(patch) if isinstance(size, int) else tuple(size)
  if len(sides) != len(patch):
    return None, None
  cells = tuple(int(s) // p for s, p in zip(sides, patch, strict=True))
  more = positions[-2] - math.prod(cells)
  return (cells, more) if more in entries else (None, None)


def class_names(labels: Any, num_classes: int | None) -> list[str] | None:
  """Returns the names of the classes that a config tells.

  Args:
    labels: a list, or a mapping from numbers to names.
    num_classes: outputs of the head; None for none.

  Returns:
    None for no names, for those that a library makes up, and for those of
    another number of classes.
  """
  if isinstance(labels, Mapping):
    try:
      numbered = {int(number): str(name) for number, name in labels.items()}
    except ValueError:
      return None
    if set(numbered) != set(range(len(numbered))):
      return None
    labels = [numbered[i] for i in range(len(numbered))]
  if not isinstance(labels, Sequence) or isinstance(labels, str):
    return None
  made_up = all(str(x) == f"LABEL_{i}" for i, x in enumerate(labels))
  return None if made_up or len(labels) != num_classes else list(labels)


def statistics(mean: Any, std: Any, scale: float = 1.0) -> tuple[Any, Any]:
  """Returns mean and std of images in [0, 1] from those of [0, scale]."""
  if mean is None or std is None:
    return None, None
  # The last digits are rounding errors.
  return tuple(
    tuple(float(f"{value / scale:.9g}") for value in np.ravel(values))
    for values in (mean, std)
  )


def images_of_hugging_face(path: pathlib.Path) -> Images:
  """Returns what a file's preprocessor_config.json tells of the images.

  Args:
    path: of the weights.
  """
  processor = read(path, "preprocessor_config.json")
  mean, std = processor.get("image_mean"), processor.get("image_std")
  if processor.get("do_normalize") is False:
    mean, std = 0.0, 1.0
  # The statistics are those of images in [0, 1]: values from 0 to 255 are
  # usually multiplied by 1 / 255.
  factor = processor.get("rescale_factor") or 1 / 255
  factor = 1.0 if processor.get("do_rescale") is False else factor
  mean, std = statistics(mean, std, 255 * factor)
  resized, shortest = _sides(processor.get("size"))
  cropped, _ = _sides(processor.get("crop_size"))
  crops = processor.get("do_center_crop", bool(cropped)) and cropped
  size = cropped if crops else resized
  crop = None
  if size:
    smaller = shortest or (min(resized) if resized else min(size))
    crop = min(size) / smaller if crops else 1.0
  return Images(
    mean,
    std,
    size,
    _interpolation(path, processor),
    crop,
    keeps_shape=bool(shortest or (crops and not _squashes(processor))),
  )


def _interpolation(
  path: pathlib.Path, processor: Mapping[str, Any]
) -> str | None:
  """Returns how images are resized, None if that is unknown."""
  told = processor.get("resample")
  if told is not None or not processor:
    return _INTERPOLATIONS.get(told)
  name, kind = _name(processor), read(path).get("model_type")
  for interpolation, (names, kinds) in _RESAMPLED.items():
    if name.startswith(names) or (not name and kind in kinds):
      return interpolation
  return None


def _name(processor: Mapping[str, Any]) -> str:
  """Returns the name of the code that reads a processor's file, "" without."""
  names = (processor.get(f"{k}_type") for k in _KINDS_OF_PROCESSORS)
  return next((str(name) for name in names if name), "")


def _squashes(processor: Mapping[str, Any]) -> bool:
  """Tells whether images get both sides of a size before they are cropped.

  Of a single number the processors of DeiT make two sides, those of CLIP and
  DINOv2 a smaller side.
  """
  if isinstance(processor.get("size"), Mapping):
    return "height" in processor["size"]
  return _name(processor).startswith("DeiT")


def task_of_hugging_face(path: pathlib.Path) -> dict[str, Any]:
  """Returns what a classifier's config.json tells of `config.task`.

  Args:
    path: of the weights.

  Returns:
    `loss`, if the classes do not exclude one another; otherwise nothing.
  """
  problem = read(path).get("problem_type")
  is_several = problem == PROBLEMS["sigmoid_xent"]
  return {"loss": "sigmoid_xent"} if is_several else {}


def _sides(size: Any) -> tuple[tuple[int, int] | None, int | None]:
  """Returns (height, width), and the shorter side if it alone is told."""
  if isinstance(size, int):
    return (size, size), None
  if isinstance(size, Mapping):
    if "height" in size and "width" in size:
      return (size["height"], size["width"]), None
    if "shortest_edge" in size:
      return (size["shortest_edge"],) * 2, size["shortest_edge"]
  return None, None


def untold_images(mean: Any, where: str) -> str:
  """Returns why mean and std are unknown, in words; empty if they are known.

  Args:
    mean: None if it is unknown.
    where: the file that would tell them.
  """
  if mean:
    return ""
  return f"there is no {where} beside the file that tells them"
