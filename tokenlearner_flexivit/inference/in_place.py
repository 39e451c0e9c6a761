"""Answers that tell places, brought back to the original images.

An image is prepared as in the run's evaluation. If that slid windows over its
images, so does this, and answers of windows that overlap are averaged; an image
that is smaller than a window is one. Otherwise the model sees the prepared
image as a whole. Then the task brings the answer back to the original, as
`Task.restore` describes. One image after the other is finished, so that memory
holds the answers of the model to few.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.evaluators import windows as windows_lib
from tokenlearner_flexivit.inference import answers as answers_lib
from tokenlearner_flexivit.inference import trained as trained_lib

# Function of batches that yields the answers to each of them.
Stream = Callable[[Iterator[np.ndarray]], Iterator[Any]]
# Function of an image that returns it as `images.Preparation.with_place` does.
Prepare = Callable[[Any], tuple[np.ndarray, geometry.Place]]


@dataclasses.dataclass
class _Waiting:
  """An image whose parts wait for answers.

  Attributes:
    number: of the image.
    place: where the prepared image shows the original.
    size: (h, w) of the prepared image.
    corners: top and left of its parts.
    total: the answer to the only part, or the sum of answers [h, w, C + 1],
      whose last channel counts them.
    count: of the answers so far.
  """

  number: int
  place: geometry.Place
  size: tuple[int, int]
  corners: list[tuple[int, int]]
  total: Any = None
  count: int = 0

  def add(self, answer: Any) -> bool:
    """Adds the answer to the next part; tells whether it was the last."""
    if len(self.corners) == 1:
      self.total = answer
    else:
      self._add_part(answer)
    self.count += 1
    return self.count == len(self.corners)

  def _add_part(self, answer: Float[np.ndarray, "h w C"]) -> None:
    height, width, channels = answer.shape
    if self.total is None:
      sides = np.maximum(self.size, (height, width))
      self.total = np.zeros((*sides, channels + 1), np.float32)
    top, left = self.corners[self.count]
    part = self.total[top : top + height, left : left + width]
    part[..., :-1] += answer
    part[..., -1] += 1

  def answer(self) -> Any:
    """Returns the answer to the prepared image."""
    if len(self.corners) == 1:
      return self.total
    height, width = self.size
    total = self.total[:height, :width]
    return total[..., :-1] / np.maximum(total[..., -1:], 1)


def answers(
  images: Sequence[Any],
  prepare: Prepare,
  stream: Stream,
  trained: trained_lib.Trained,
  batch_size: int,
) -> list[tuple[Any, str | None]]:
  """Returns the answer to each image, or None and why it could not be read.

  Args:
    images: as `prepare` takes them.
    prepare: prepares an image.
    stream: runs the model on batches.
    trained: the model, its task, and how its evaluation slid windows.
    batch_size: the most parts of a batch.
  """
  results: list[tuple[Any, str | None]] = [(None, None)] * len(images)
  waiting: collections.deque[_Waiting] = collections.deque()

  def parts() -> Iterator[np.ndarray]:
    for number, image in enumerate(images):
      try:
        prepared, place = prepare(image)
      except Exception as error:  # Damaged files raise errors of every type.
        results[number] = None, answers_lib.error_in_words(error)
        continue
      corners = _corners(prepared, place, trained)
      waiting.append(_Waiting(number, place, prepared.shape[:2], corners))
      yield from _cut(prepared, corners, trained)

  def batches() -> Iterator[np.ndarray]:
    every = parts()
    while batch := list(itertools.islice(every, batch_size)):
      yield np.stack(batch)

  for outputs in stream(batches()):
    for i in range(len(jax.tree.leaves(outputs)[0])):
      image = waiting[0]
      if image.add(jax.tree.map(lambda x, i=i: x[i], outputs)):
        restored = trained.task.restore(image.answer(), image.place)
        results[image.number] = restored, None
        waiting.popleft()
  return results


def windows(
  prepared: Float[np.ndarray, "h w C"],
  place: geometry.Place,
  trained: trained_lib.Trained,
) -> Float[np.ndarray, "n window_h window_w C"]:
  """Returns what the model sees of a prepared image."""
  corners = _corners(prepared, place, trained)
  return np.stack([*_cut(prepared, corners, trained)])


def _corners(
  prepared: np.ndarray, place: geometry.Place, trained: trained_lib.Trained
) -> list[tuple[int, int]]:
  """Returns top and left of the parts that show some of the original."""
  if trained.stride is None:
    return [(0, 0)]
  height, width = place.size
  corners = place.matrix @ np.array([[0, width], [0, height], [1, 1]])
  ends = np.round(corners.max(axis=1)[::-1])
  sides = np.clip(ends, 1, prepared.shape[:2]).astype(int).tolist()
  begins = [
    windows_lib.anchors(*numbers)
    for numbers in zip(
      sides, trained.image_shape[:2], trained.stride, strict=True
    )
  ]
  return list(itertools.product(*begins))


def _cut(
  prepared: np.ndarray,
  corners: Sequence[tuple[int, int]],
  trained: trained_lib.Trained,
) -> Iterator[np.ndarray]:
  """Yields the parts of an image, which zeros extend to the model's size."""
  height, width, _ = trained.image_shape
  down, across = (
    max(0, most - side)
    for most, side in zip((height, width), prepared.shape[:2], strict=True)
  )
  if down or across:
    prepared = np.pad(prepared, ((0, down), (0, across), (0, 0)))
  for top, left in corners:
    yield prepared[top : top + height, left : left + width]
