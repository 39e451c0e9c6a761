"""Answers that are boxes with names: brought back to images, told and drawn."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.steps import BOXES
from tokenlearner_flexivit.tasks import base


class BoxAnswers(base.Task):
  """The base of tasks whose answer to an image is a dict of n boxes.

  These are boxes [n, 4], (ymin, xmin, ymax, xmax) in shares of the prepared
  image, scores [n] in [0, 1], and labels [n], the best first.

  Attributes:
    class_names: in the order of their numbers.
    min_score: the least score of a box that is told to people.
  """

  class_names: tuple[str, ...]
  min_score: float
  answer_text = (
    "the best boxes, (ymin, xmin, ymax, xmax) in shares of the prepared image, "
    "their scores in [0, 1] and the numbers of their labels"
  )
  has_places = True

  def restore(
    self, answer: Mapping[str, np.ndarray], place: geometry.Place
  ) -> dict[str, np.ndarray]:
    """Returns boxes in pixels of the original image.

    Args:
      answer: of `predict` to one image.
      place: where the prepared image shows the original.

    Returns:
      boxes [n, 4], (xmin, ymin, xmax, ymax), cut at the image's edges; their
      scores and labels, the best first. Boxes outside of the image are left
      out.
    """
    height, width = place.prepared
    sides = np.array([width, height], np.float64)
    inverse = np.linalg.inv(np.vstack([place.matrix, [0, 0, 1]]))[:2]
    ymin, xmin, ymax, xmax = np.asarray(answer[BOXES], np.float64).T
    low, high = (
      np.stack(corner, axis=-1) * sides @ inverse[:, :2].T + inverse[:, 2]
      for corner in ((xmin, ymin), (xmax, ymax))
    )
    most = np.array([place.size[1], place.size[0]], np.float64)
    corners = np.concatenate(
      [
        np.minimum(low, high).clip(0, most),
        np.maximum(low, high).clip(0, most),
      ],
      axis=1,
    )
    seen = (corners[:, :2] < corners[:, 2:]).all(axis=1)
    return {
      BOXES: corners[seen].astype(np.float32),
      "scores": np.asarray(answer["scores"])[seen],
      "labels": np.asarray(answer["labels"])[seen].astype(np.int32),
    }

  def rows(self, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns a row for each box of at least `min_score`, the best first.

    Args:
      answer: of `restore`.
    """
    return [
      {
        "index": int(label),
        "class": self.class_names[label],
        "score": float(score),
        **dict(
          zip(("xmin", "ymin", "xmax", "ymax"), box.tolist(), strict=True)
        ),
      }
      for box, score, label in zip(
        answer[BOXES], answer["scores"], answer["labels"], strict=True
      )
      if score >= self.min_score
    ]

  def in_words(self, answer: Mapping[str, np.ndarray], most: int) -> str:
    """Returns the best boxes: "cat 91.2 % (12, 30, 80, 99)"."""
    rows = self.rows(answer)
    if not rows:
      return f"nothing of at least {100 * self.min_score:g} %"
    return ", ".join(
      f"{row['class']} {100 * row['score']:.1f} % "
      f"({row['xmin']:.0f}, {row['ymin']:.0f}, {row['xmax']:.0f}, "
      f"{row['ymax']:.0f})"
      for row in rows[:most]
    )

  def in_json(self, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns `rows`."""
    return self.rows(answer)

  def draw(
    self,
    answer: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "H W C"],
    path: pathlib.Path,
  ) -> None:
    """Draws the boxes of at least `min_score`."""
    # Matplotlib is imported only where something is drawn.
    from tokenlearner_flexivit.figures import boxes as pictures
    from tokenlearner_flexivit.figures import drawing

    chosen = answer["scores"] >= self.min_score
    cell = pictures.Cell(
      np.broadcast_to(image, (*image.shape[:2], 3)),
      answer[BOXES][chosen],
      answer["labels"][chosen],
      answer["scores"][chosen],
    )
    drawing.save(pictures.picture(cell, self.class_names), path, dpi=100)

  def write(
    self, answer: Mapping[str, np.ndarray], path: str | os.PathLike
  ) -> pathlib.Path:
    """Writes `rows` as PATH.json."""
    path = pathlib.Path(path)
    path = path.with_name(f"{path.name}.json")
    content = json.dumps(self.rows(answer), indent=2) + "\n"
    with paths.whole(path) as partial:
      partial.write_text(content, encoding="utf-8")
    return path
