"""The examples that pictures of a report show."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data.ops import geometry

_NUM_IMAGES = 4


def prepared(source: data_lib.Source, *pps: str) -> Iterator[list[Any]]:
  """Yields evenly spaced examples, each as every preprocessing makes it.

  Args:
    source: of the evaluation.
    *pps: preprocessing strings, such as that of images and that of truths.
  """
  number = min(_NUM_IMAGES, len(source))
  for position in (np.arange(number) * len(source) // number).tolist():
    raw = source[position]
    # Random ops draw the same numbers in each.
    examples = {
      pp: data_lib.parse(pp)(raw, np.random.default_rng(position))
      for pp in dict.fromkeys(pps)
    }
    yield [examples[pp] for pp in pps]


def visible(example: Mapping[str, Any], key: str) -> tuple[int, int]:
  """Returns height and width of the part of a picture that is no padding.

  Args:
    example: preprocessed.
    key: its entry that is the picture.
  """
  sides = np.shape(example[key])[:2]
  shares = example.get(geometry.VALID, (1, 1))
  height, width = np.maximum(np.round(np.multiply(sides, shares)), 1)
  return int(height), int(width)
