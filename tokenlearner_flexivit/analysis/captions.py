"""Captions in pictures: the class of an image, and the one a model answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.analysis import outputs
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.tasks import labels as labels_lib

_MAX_LETTERS = 16


def read_examples(
  data_config: Mapping[str, Any], number: int
) -> tuple[np.ndarray, list[str]]:
  """Returns the images of `runs.read_examples`, and their `label_names`."""
  (batch,) = runs.read_batches(data_config, number, max(1, number))
  return batch["image"], label_names(data_config, batch)


def label_names(
  data_config: Mapping[str, Any], batch: Mapping[str, np.ndarray]
) -> list[str]:
  """Returns the names of the classes of a batch's examples.

  Args:
    data_config: the data section that the batch was read with.
    batch: from `runs.read_batches`; labels are class indices [B], or weights of
      the classes [B, C].

  Returns:
    A word for each example, several classes joined by "+", "" for none. All
    are empty if the batch has no labels.
  """
  size = len(next(iter(batch.values())))
  if "label" not in batch:
    return [""] * size
  # The preprocessing may compute the label from another entry.
  _, names = data_lib.classes(data_config, data_lib.open_source(data_config))
  labels = np.asarray(batch["label"])
  classes = labels[:, None].tolist()
  if labels.ndim == 2:
    right = np.asarray(labels_lib.right_classes(jnp.asarray(labels)))
    classes = [np.flatnonzero(row).tolist() for row in right]
  return [
    shortened("+".join(_name(names, c) for c in row if c >= 0))
    for row in classes
  ]


def answer_names(
  model: Any,
  params: Any,
  images: np.ndarray,
  setting: dials.Setting,
  names: Sequence[str] | None = None,
) -> list[str]:
  """Returns the class that a model finds most likely in each image.

  Args:
    model: with a head.
    params: its parameters.
    images: [B, H, W, C].
    setting: of the dials.
    names: of the classes, or None for their numbers.
  """
  answer = outputs.named(model, params, images, setting, (outputs.ANSWER,))
  logits = np.asarray(answer[outputs.ANSWER])
  return [shortened(_name(names, c)) for c in logits.argmax(axis=-1).tolist()]


def shortened(text: str) -> str:
  """Returns a text that fits a cell of a picture."""
  return terminal.shortened(text, _MAX_LETTERS)


def _name(names: Sequence[str] | None, label: int) -> str:
  known = names is not None and label < len(names)
  return names[label] if known else str(label)
