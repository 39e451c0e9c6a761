"""Examples that are several views of one thing, as clips and crops of a video.

An image is [H, W, C], a video [T, H, W, C]; of an example that has one axis
more in front the model sees one view after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import terminal

# Standardized images have values of a few units, unprepared ones up to 255.
_LARGE = 30
_AXES = {"image": 3, "video": 4}  # By what a model calls its input.


def shape_of_one(shape: Sequence[int], model: Any) -> tuple[int, ...]:
  """Returns the shape of a single view, given that of an example.

  Args:
    shape: with or without an axis of views, or of examples.
    model: that sees them.
  """
  return tuple(shape[-_AXES[model.input] :])


def check_values(image: np.ndarray, where: str) -> None:
  """Raises ValueError if an image, made by `where`, has whole numbers."""
  if image.dtype.kind != "f":
    raise ValueError(
      f"{where} gives images of {image.dtype}, but models read numbers in "
      "[-1, 1]. Put value_range(-1,1) at its end, before keep(...)."
    )


def check_single(example: dict[str, Any], model: Any, where: str) -> None:
  """Raises ValueError unless an example of the training suits the model.

  Warns of values so large that little can be learned from them.

  Args:
    example: should be a single view, of floats.
    model: that sees it.
    where: what makes the example, for errors.
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

  As ViViT's published evaluation, which averages logits unless told otherwise
  (scenic, `projects/vivit/train_utils.py`, `test_step`). One view follows the
  other, so that the memory is that of one.

  Args:
    answer: from views [B, ...] to answers: arrays [B, C], in any pytree.
    inputs: [B, H, W, C] or [B, views, H, W, C], of videos with T after these.
    model: that answers.

  Returns:
    The answers to the examples, as `answer` gives them.
  """
  if inputs.ndim == _AXES[model.input] + 1:
    return answer(inputs)

  def of_view(number: jax.Array) -> Any:
    return answer(jax.lax.dynamic_index_in_dim(inputs, number, 1, False))

  answers = jax.lax.map(of_view, jnp.arange(inputs.shape[1]))
  return jax.tree.map(lambda x: x.mean(axis=0), answers)
