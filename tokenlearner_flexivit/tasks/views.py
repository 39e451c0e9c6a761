"""Examples that are several views of one thing, as clips and crops of a video.

An image is [H, W, C], a video [T, H, W, C]; of an example that has one axis
more in front the model sees one view after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_AXES = {"image": 3, "video": 4}  # By what a model calls its input.


def shape_of_one(shape: Sequence[int], model: Any) -> tuple[int, ...]:
  """Returns the shape of a single view, given that of an example.

  Args:
    shape: with or without an axis of views, or of examples.
    model: that sees them.
  """
  return tuple(shape[-_AXES[model.input] :])


def check_single(example: dict[str, Any], model: Any, where: str) -> None:
  """Raises ValueError unless an example, made by `where`, is a single view."""
  shape = example[model.input].shape
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
