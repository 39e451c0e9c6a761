"""Mean intersection over union of every setting in one pass.

Each batch is read, decoded and sent to the devices once; then every setting's
program runs on it. Confusion matrices are counted on the devices and summed
over all of them; metrics are those of the whole set, not means over images.
Pixels with the task's `ignore` count nowhere.

* `mIoU`: the mean over the classes that the truth or the prediction has.
* `pixel_accuracy`, and `mean_accuracy` over the classes of the truth.
* `ceiling`: the mIoU of the label map that has in each patch the class of most
  of its pixels; of all maps that are constant in patches it has the most pixels
  right. Where windows overlap, their patches divide one another into smaller
  cells. Segmenter's logits are interpolated between patches, so that it may be
  above.
* `IoU_CLASS` of each class, by its name or number.

The prediction is made at the size of the images and compared with the masks of
the batch. To compare at the original size, `truth` is another preprocessing of
the same examples, that gives the masks only:

    data=dict(..., pp="decode(exif=False)|resize_keep(512)|pad_to(512)"
              "|value_range(-1,1)|keep('image','valid')"),
    truth="decode_ids(key='semantic')|pad_to(2048,255,key='semantic')"
          "|keep('semantic','valid')",

There `valid`, which `pad_to` leaves, holds the shares of height and width that
are not padding. All masks have one size then, so 2048 must be no less than the
longest side.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.data import alignment, preprocess
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.data.ops.geometry import VALID
from tokenlearner_flexivit.evaluators import (
  base,
  class_table,
  confusion,
  segmentation_report,
  windows,
)
from tokenlearner_flexivit.evaluators.images import TRUTH, seen_pixels
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.models import tiling
from tokenlearner_flexivit.tasks.segmentation import MASK

# Before the names of classes.
_IOU = "IoU_"
METRICS = {
  "mIoU": Metric("mIoU", "%"),
  "pixel_accuracy": Metric("pixel accuracy", "%"),
  "mean_accuracy": Metric("mean accuracy", "%"),
  "ceiling": Metric("ceiling of mIoU", "%"),
}


class Evaluator(base.Evaluator):
  """An evaluator of a segmentation task.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of the images; of the windows if these slide.
    headline: the metric that settings are compared by.
  """

  metrics = METRICS
  headline = "mIoU"
  needs = ("check_masks",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    truth: str | None = None,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
  ):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a task that has `predict`, `check_masks`, `num_classes` and
        `ignore`.
      data: the data section of the config. Images may have `valid`.
      truth: preprocessing of the masks; None for those that `data.pp` gives.
      window: side, or (height, width), of parts of the images that the model
        sees one by one, as the published evaluations do; None for whole images.
      stride: between windows; None for the window's size.

    Raises:
      ValueError: no examples, a mask that does not fit, a window or a stride
        that is no size, or a setting that does not fit the images.
    """
    super().__init__(context)
    where, task = self._where, context.task
    self._window = self._stride = None
    if window is not None:
      self._window = _size(window, f"{where}.window")
      self._stride = _size(
        window if stride is None else stride, f"{where}.stride"
      )
      if any(s > w for s, w in zip(self._stride, self._window, strict=True)):
        raise ValueError(
          f"{where}.stride={stride!r} is larger than {where}.window="
          f"{window!r}, so that no window would see the pixels between two. "
          "Give at most the window's size."
        )
    elif stride is not None:
      raise ValueError(
        f"{where}.stride={stride!r} is the way from window to window, but "
        f"{where}.window is None. Set both, or none."
      )
    source = data_lib.open_source(data, f"{where}.data")
    self.sources = (source,)
    masks = data if truth is None else {**data, "pp": truth}
    self._check_classes(masks, source, MASK)
    self._prefix = "" if truth is None else TRUTH
    self._images = self._open(
      data,
      source,
      entries=() if truth else (MASK,),
      optional=(VALID,),
      check_labels=task.check_masks,
      label_key=f"{self._prefix}{MASK}",
      truth_pp=truth,
    )
    self._check_mask(truth)
    self.image_shape = self._images.shape
    if self._window is not None:
      self.image_shape = (*self._window, self._images.shape[-1])
      for setting in self.settings:
        task.model.check(self._window, **setting)
    self._logits = self._answer_programs()
    self._count = self._program(
      ("confusion", bool(truth)), functools.partial(self._add, bool(truth))
    )
    self._ceilings: dict[tuple[int, int] | None, float] = {}
    slides = None if self._window is None else (self._window, self._stride)
    self._strip = segmentation_report.Strip(
      task, data, source, truth, MASK, slides
    )

  @classmethod
  def check(cls, section: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for faults that no example is read for."""
    super().check(section, where)
    truth = section.get("truth")
    if truth is not None:
      configuration.check_text(truth, f"{where}.truth")
      if section.get("data") is not None:
        data_lib.check_section(
          {**section["data"], "pp": truth}, f"{where}.truth"
        )
        _check_orientation(section["data"]["pp"], truth, where)

  def _check_classes(
    self, data: dict[str, Any], source: data_lib.Source, key: str = "label"
  ) -> None:
    """Raises ValueError for classes other than those of the training data.

    Where ops change the number of classes, the masks tell whether they fit, but
    no class of the training may have another number.
    """
    where, known = f"{self._where}.data", list(self._class_names or ())
    count, names = data_lib.classes(data, source, where, key)
    if count == self._task.num_classes:
      super()._check_classes(data, source, key)
    elif any(
      name in known and known.index(name) != number
      for number, name in enumerate(names or ())
    ):
      class_names_lib.check_same(names, known, where, "the training data")

  def _check_mask(self, truth: str | None) -> None:
    """Raises ValueError unless the first example's mask fits its image."""
    mask = self._images.example[f"{self._prefix}{MASK}"]
    image = self._images.example[self._task.model.input]
    if image.ndim != 3:
      raise ValueError(
        f"{self._where}.data.pp gives images the shape {list(image.shape)}; a "
        "segmentation takes one view of each, [height, width, channels]."
      )
    if truth is not None and mask.ndim != 2:
      raise ValueError(
        f"{self._where}.truth gives {MASK!r} the shape {list(mask.shape)}; a "
        "mask is [height, width]."
      )
    if truth is None and mask.shape != image.shape[:-1]:
      raise ValueError(
        f"{self._where}.data.pp gives {MASK!r} the shape {list(mask.shape)}, "
        f"but images {list(image.shape)}. Let its ops change both alike, or "
        f"give masks of another size by {self._where}.truth."
      )

  def _answer_programs(self) -> base.Programs:
    if self._window is None:
      return super()._answer_programs()
    # Each window is a call of the model.
    return {
      setting: self._program(
        ("windows", setting, self._window, self._stride),
        functools.partial(self._slide, setting),
        sharded_output=True,
      )
      for setting in self.settings
    }

  def _slide(
    self, setting: dials.Setting, params: Any, batch: base.Batch
  ) -> Float[Array, "b H W C"]:
    """Returns the logits of sliding windows; runs on each device."""
    name = self._task.model.input
    images = batch[name]

    def answer(parts: jax.Array) -> jax.Array:
      logits = self._task.predict(params, {name: parts}, setting)
      return logits.astype(jnp.float32)

    seen = seen_pixels(batch.get(VALID), images)
    return windows.slide(answer, images, seen, self._window, self._stride)

  def _inputs(self, batch: base.Batch) -> base.Batch:
    inputs = super()._inputs(batch)
    if self._window is not None and VALID in batch:
      inputs[VALID] = batch[VALID]
    return inputs

  def _truth(
    self, batch: base.Batch
  ) -> tuple[jax.Array, jax.Array, Int32[Array, "b 2"]]:
    """Returns masks, the pixels that count, and the sizes of the pictures."""
    mask = batch[f"{self._prefix}{MASK}"].astype(jnp.int32)
    shown = seen_pixels(batch.get(f"{self._prefix}{VALID}"), mask[..., None])
    counted = (mask != self._task.ignore) & (batch["mask"] > 0)[:, None, None]
    for axis in (1, 2):
      inside = jnp.arange(mask.shape[axis])[None] < shown[:, axis - 1 : axis]
      counted &= jnp.expand_dims(inside, 3 - axis)
    return mask, counted, shown

  def _add(
    self, resizes: bool, sums: confusion.Sums, batch: base.Batch
  ) -> confusion.Sums:
    """Adds the matrix of one batch; runs on each device."""
    truth, counted, shown = self._truth(batch)
    logits = batch["logits"]
    if resizes:
      seen = seen_pixels(batch.get(VALID), logits)
      matrix = confusion.count_resized(logits, truth, counted, seen, shown)
    else:
      matrix = confusion.count(
        truth, confusion.predictions(logits), counted, logits.shape[-1]
      )
    return confusion.add(sums, self._parallel.sum(matrix))

  def _add_best(
    self,
    patch_size: tuple[int, int],
    sums: confusion.Sums,
    batch: base.Batch,
  ) -> confusion.Sums:
    """Adds the best matrix that patches allow; runs on each device."""
    truth, counted, shown = self._truth(batch)
    images = batch[self._task.model.input]
    size = images.shape[1:3]
    seen = seen_pixels(batch.get(VALID), images)
    cells, grid = zip(
      *map(
        windows.cells,
        size,
        seen.T,
        self._window or size,
        self._stride or size,
        patch_size,
      ),
      strict=True,
    )
    matrix = confusion.count_best_of_cells(
      truth, counted, seen, shown, cells, grid, self._task.num_classes
    )
    return confusion.add(sums, self._parallel.sum(matrix))

  def _add_examples(self, number: jax.Array, batch: base.Batch) -> jax.Array:
    """Adds the number of images with a pixel that counts."""
    _, counted, _ = self._truth(batch)
    return number + self._parallel.sum(counted.any(axis=(1, 2)).sum())

  def _patch_size(self, setting: dials.Setting) -> tuple[int, int] | None:
    size = setting.get("patch_size") or self._task.model.own_patch_size
    return None if size is None else tiling.to_pair(size)

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields the metrics of each setting.

    These are `{setting.name}/{mIoU,pixel_accuracy,mean_accuracy,ceiling,
    examples}` and, for each class that the truth or the prediction has,
    `{setting.name}/IoU_{name}`. Examples are images with a pixel that counts.

    Raises:
      ValueError: a mask is invalid, or no pixel has a class.
    """
    zeros = self._parallel.place(confusion.zeros(self._task.num_classes))
    sums = dict.fromkeys(self.settings, zeros)
    # They depend on the masks alone, so one pass is enough for all runs.
    sizes = {self._patch_size(setting) for setting in self.settings} - {None}
    best = dict.fromkeys(sizes - self._ceilings.keys(), zeros)
    programs = {
      size: self._program(
        ("ceiling", size, self._prefix, self._window, self._stride),
        functools.partial(self._add_best, size),
      )
      for size in best
    }
    examples = self._parallel.place(np.int32(0))
    count_examples = self._program(
      ("segmented", self._prefix), self._add_examples
    )
    for batch in self._images:
      known = {k: v for k, v in batch.items() if k != self._task.model.input}
      examples = count_examples(examples, known)
      for size, program in programs.items():
        best[size] = program(best[size], batch)
      for setting, logits in self._logits.items():
        answers = {**known, "logits": logits(params, self._inputs(batch))}
        sums[setting] = self._count(sums[setting], answers)
    examples = int(jax.device_get(examples))
    if not examples:
      raise ValueError(
        f"{self._where}: no pixel of {self.sources[0].name} has a class, so "
        "there is no mIoU. Take a split with masks."
      )
    for size, totals in best.items():
      matrix = confusion.total(jax.device_get(totals))
      self._ceilings[size] = confusion.metrics(matrix)["mIoU"]
    for setting, totals in sums.items():
      matrix = confusion.total(jax.device_get(totals))
      values = confusion.metrics(matrix)
      if (size := self._patch_size(setting)) is not None:
        values["ceiling"] = self._ceilings[size]
      names = class_table.metric_names(_IOU, self._labels())
      for name, iou in zip(names, confusion.ious(matrix), strict=True):
        if not np.isnan(iou):
          values[name] = float(iou)
      for name, value in {**values, "examples": examples}.items():
        yield f"{setting.name}/{name}", value

  def _labels(self) -> list[str]:
    """Returns the name, or else the number, of each class."""
    return [str(x) for x in self._class_names or range(self._task.num_classes)]

  def details(self, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of the IoU of each class."""
    labels = self._labels()
    return class_table.class_table(
      rows,
      labels,
      class_table.metric_names(_IOU, labels),
      self.headline,
      Metric("IoU", "%"),
    )

  def pictures(
    self, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> Iterator[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """Yields a picture of images, truth and predictions."""
    yield (
      segmentation_report.PICTURE_FILE,
      "images, truth and predictions",
      lambda path: self._strip.draw(
        path,
        params,
        rows,
        self._labels(),
        self.headline,
        self.metrics[self.headline],
      ),
    )

  def _timed(self, params):
    return self._logits, (params, self._inputs(next(iter(self._images))))


def _check_orientation(pp: str, truth: str, where: str) -> None:
  """Raises ValueError if images are turned by their EXIF, and masks are not."""
  turns = [
    any(map(alignment.turns_upright, preprocess.parse(text).steps))
    for text in (pp, truth)
  ]
  if turns == [True, False]:
    raise ValueError(
      f"{where}.data.pp={pp!r} turns images by their EXIF orientation, and "
      f"{where}.truth={truth!r} leaves their masks. Say decode(exif=False) in "
      f"data.pp, or decode(masks={MASK!r}) in truth."
    )


def _size(value: Any, where: str) -> tuple[int, int]:
  try:
    return tiling.to_pair(value)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None
