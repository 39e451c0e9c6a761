"""Examples with several views of one thing, such as clips and crops of a video.

An image is [H, W, C], a video [T, H, W, C]. If an example has one more axis in
front, the model sees one view after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import terminal

# Standardized images have values of a few units, unprepared ones up to 255.
_LARGE = 30
# Pixels that differ at all differ by more, unless they are scaled down twice.
_SMALL = 0.02
_AXES = {"image": 3, "video": 4}  # Keyed by the name of a model's input.


def shape_of_one(shape: Sequence[int], model: Any) -> tuple[int, ...]:
  """Returns the shape of a single view, given that of an example.

  Args:
    shape: with or without an axis of views, or of examples.
    model: the one that reads the example.
  """
  return tuple(shape[-_AXES[model.input] :])


def check_values(image: np.ndarray, where: str) -> None:
  """Raises ValueError if an image, made by `where`, holds integers."""
  if image.dtype.kind != "f":
    raise ValueError(
      f"{where} gives images of {image.dtype}, but models read numbers in "
      "[-1, 1]. Put value_range(-1,1) at its end, before keep(...)."
    )


def check_single(example: dict[str, Any], model: Any, where: str) -> None:
  """Raises ValueError unless an example of the training suits the model.

  Warns of values so large, or so close together, that little can be learned
  from them.

  Args:
    example: should be a single view, of floats.
    model: the one that reads the example.
    where: the source of the example, for errors.
  """
  image = example[model.input]
  check_values(image, where)
  largest = np.abs(image).max()
  if largest > _LARGE:
    terminal.say(
      f"WARNING: {where} gives {model.input!r} values as large as "
      f"{largest:.4g}, where those in [-1, 1] are learned from best. "
      "standardize takes values as they stand: with the mean and std of images "
      "in [0, 1], put value_range(0,1) before it."
    )
  spread = np.ptp(image)
  if 0 < spread < _SMALL:
    terminal.say(
      f"WARNING: {where} gives {model.input!r} values that differ by no more "
      f"than {spread:.2g}, where those from -1 to 1 are learned from best. If "
      "the image is not all alike, it is scaled twice: value_range expects "
      "pixels in [0, 255]."
    )
  shape = image.shape
  if len(shape) != _AXES[model.input]:
    axes = {"image": "[H, W, C]", "video": "[T, H, W, C]"}[model.input]
    raise ValueError(
      f"{where} gives {model.input!r} the shape {list(shape)}, but training "
      f"needs {axes}. Several views are for evaluation alone; the clip of a "
      "video for training comes of temporal_crop and random_crop."
    )


def average(
  answer: Callable[[jax.Array], Any], inputs: jax.Array, model: Any
) -> Any:
  """Averages a model's answers to the views of each example, if it has several.

  ViViT's published evaluation averages logits, too, by default (scenic,
  `projects/vivit/train_utils.py`, `test_step`). One view follows the other, so
  that memory for one view suffices.

  Args:
    answer: from views [B, ...] to answers: arrays [B, C], in any pytree.
    inputs: [B, H, W, C] or [B, views, H, W, C], of videos with T after these.
    model: the one that answers.

  Returns:
    The answers to the examples, with the structure that `answer` returns.
  """
  if inputs.ndim == _AXES[model.input] + 1:
    return answer(inputs)

  def answer_view(number: jax.Array) -> Any:
    return answer(jax.lax.dynamic_index_in_dim(inputs, number, 1, False))

  answers = jax.lax.map(answer_view, jnp.arange(inputs.shape[1]))
  return jax.tree.map(lambda x: x.mean(axis=0), answers)
