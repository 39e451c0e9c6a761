"""The report's parts about segmentations: a table of classes, and a picture."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int32

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.evaluators import (
  shown_examples,
  shown_settings,
  windows,
)
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks import Task

Row = Mapping[str, Any]
Sides = tuple[int, int]  # Height and width in pixels.
PICTURE_FILE = "segmentation.png"


class Strip:
  """A picture of some images of an evaluation, their truth and predictions.

  It shows evenly spaced images, and predictions at the smallest, the middle and
  the largest patch size that were evaluated.
  """

  def __init__(
    self,
    task: Task,
    data: Mapping[str, Any],
    source: data_lib.Source,
    truth: str | None,
    mask: str,
    slides: tuple[Sides, Sides] | None,
  ):
    """Keeps what the evaluator evaluates.

    Args:
      task: makes the predictions.
      data: the section of the evaluation's data.
      source: these data.
      truth: preprocessing of masks of another size, or None.
      mask: the entry of an example that holds its classes.
      slides: window and stride, or None for whole images.
    """
    self._task, self._data, self._source = task, data, source
    self._truth, self._mask, self._slides = truth, mask, slides

  def draw(
    self,
    path: pathlib.Path,
    params: Any,
    rows: Sequence[Row],
    names: Sequence[str],
    headline: str,
    metric: Metric,
  ) -> None:
    """Draws the picture.

    Args:
      path: of the picture.
      params: of the model, on one device.
      rows: of the settings.
      names: of the classes.
      headline: the metric in the titles.
      metric: its display.
    """
    # Matplotlib is imported only where something is drawn.
    from tokenlearner_flexivit.figures import drawing, label_maps, overlay

    settings = shown_settings.pictured(rows, headline)
    examples = list(self._examples())
    images = np.stack([image for image, _, _ in examples])
    sides = np.array([seen for _, seen, _ in examples], np.int32)
    answers = [
      np.asarray(self._answer(setting)(params, images, sides), np.float32)
      for setting, _ in settings
    ]
    shown = []
    for i, (image, seen, truth) in enumerate(examples):
      matrix = geometry.window(0, 0, *truth.shape, *seen)
      place = geometry.Place(truth.shape, matrix, image.shape[:2])
      maps = [self._task.restore(answer[i], place) for answer in answers]
      visible = overlay.displayable(image[: seen[0], : seen[1]])
      shown.append(label_maps.Row(visible, [truth, *maps]))
    headings = [
      shown_settings.heading(setting, row, headline, metric)
      for setting, row in settings
    ]
    count = terminal.counted(len(settings), "patch size")
    drawn = label_maps.figure(
      shown,
      ["image", "truth", *headings],
      names,
      self._task.ignore,
      f"{self._source.name}: truth and predictions at {count}",
    )
    drawing.save(drawn, path, dpi=150)

  def _examples(self) -> Iterator[tuple[np.ndarray, Sides, np.ndarray]]:
    """Yields images, the sides of their visible parts, and masks of these."""
    key, pp = self._task.model.input, self._data["pp"]
    for example, truth in shown_examples.prepared(
      self._source, pp, self._truth or pp
    ):
      height, width = shown_examples.visible(truth, self._mask)
      mask = np.asarray(truth[self._mask])[:height, :width]
      yield example[key], shown_examples.visible(example, key), mask

  def _answer(
    self, setting: dials.Setting
  ) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """Returns a program from parameters, images and visible sides to logits."""

    def predict(
      params: Any, images: Float[jax.Array, "B H W channels"]
    ) -> Float[jax.Array, "B H W C"]:
      batch = {self._task.model.input: images}
      return self._task.predict(params, batch, setting)

    def slide(
      params: Any,
      images: Float[jax.Array, "B H W channels"],
      seen: Int32[jax.Array, "B 2"],
    ) -> Float[jax.Array, "B H W C"]:
      if self._slides is None:
        return predict(params, images)
      answer = functools.partial(predict, params)
      return windows.slide(answer, images, seen, *self._slides)

    return jax.jit(slide)
