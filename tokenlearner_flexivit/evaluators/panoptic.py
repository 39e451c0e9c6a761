"""Panoptic quality of every setting in one pass.

Each batch is sent to the devices once; every setting's program runs on it, and
the devices count how many pixels predicted and true segments share. These
tables are gathered, and qualities are computed from them as panopticapi does.

* `PQ`, `SQ`, `RQ`: means over the classes that the truth or the prediction has;
  `PQ_things`, `SQ_things`, ... and `PQ_stuff`, ... over those of a kind.
* `ceiling`: the PQ of what the code keeps of the true labels, for a task that
  predicts codes; if `data.pp` gives labels, too.
* `PQ_CLASS` of each class, by its name or number.

Without `truth`, the prediction is compared with the labels that `data.pp`
gives. To compare at the original size, `truth` is another preprocessing of the
same examples, that gives the labels only:

    data=dict(..., pp="decode(masks=('semantic','instances'))|resize(512,...)"
              "|canonical(99)|value_range(-1,1)"
              "|keep('image','semantic','instances')"),
    truth="decode_ids(rgb=True,key='panoptic_image')|panoptic(crowds=True)"
          "|pad_to(640,key='semantic',masks=('instances','crowd'))"
          "|keep('semantic','instances','crowd','valid')",

Its maps have one size, so the padding must be no less than the longest side.
`valid`, which `pad_to` leaves, holds the shares of height and width that are
not padding, of the images as of the labels. `crowd` may be missing.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops.geometry import VALID
from tokenlearner_flexivit.data.ops.panoptic import CROWD, INSTANCES, SEMANTIC
from tokenlearner_flexivit.evaluators import (
  base,
  class_table,
  images,
  panoptic_quality,
  shown_examples,
  shown_settings,
)
from tokenlearner_flexivit.evaluators.images import TRUTH
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks.panoptic_answers import (
  CLASSES,
  NO_CLASS,
  SEGMENTS,
  renumbered,
)

PICTURE_FILE = "panoptic.png"
_KINDS = {"": "", "_things": ", things", "_stuff": ", stuff"}
METRICS = {
  f"{name}{kind}": Metric(f"{name}{words}", "%")
  for kind, words in _KINDS.items()
  for name in ("PQ", "SQ", "RQ")
}
CEILING = "ceiling"
# Numbers of true segments of an image, that of none included.
_TRUE = 256
# Before the names of classes.
_PQ = "PQ_"


class Evaluator(base.Evaluator):
  """An evaluator of a panoptic task.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of the images.
    headline: the metric that settings are compared by.
  """

  headline = "PQ"
  needs = ("reconstruct",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    truth: str | None = None,
  ):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a panoptic task.
      data: the data section of the config.
      truth: preprocessing of the labels to compare with; None for those that
        `data.pp` gives.

    Raises:
      ValueError: no examples, an entry that is missing, labels that are none,
        classes other than those of the training, or a setting that does not fit
        the images.
    """
    super().__init__(context)
    task, where = self._task, self._where
    source = data_lib.open_source(data, f"{where}.data")
    self.sources = (source,)
    self._data, self._truth = data, truth
    self._check_classes(
      data if truth is None else {**data, "pp": truth}, source, SEMANTIC
    )
    self._prefix = "" if truth is None else TRUTH
    needed = (SEMANTIC, INSTANCES)
    codes_labels = SEMANTIC in task.answer_keys
    self._images = self._open(
      data,
      source,
      entries=needed if truth is None or codes_labels else (),
      optional=(*needed, CROWD, VALID),
      label_key=f"{self._prefix}{INSTANCES}",
      check_labels=self._check_truth,
      truth_pp=truth,
    )
    example = self._images.example
    data_lib.check_entries(
      example,
      [f"{self._prefix}{key}" for key in needed],
      f"{where}.data.pp" if truth is None else f"{where}.truth",
    )
    has_labels = example.keys() >= {*needed}
    if has_labels:
      task.check(example, f"{where}.data.pp")
    self._has_ceiling = has_labels and not codes_labels
    self.metrics = dict(METRICS)
    if self._has_ceiling:
      self.metrics[CEILING] = Metric("ceiling of PQ", "%")
    self.image_shape = self._images.shape
    self._answers = self._answer_programs()
    self._count = self._program(
      ("segments", self._prefix), self._count_segments
    )
    self._reconstruct = self._program(
      "reconstructed", self._task.reconstruct, sharded_output=True
    )
    # It depends on the coder, which is frozen, and the labels alone.
    self._ceiling: float | None = None

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

  def _check_truth(self, instances: np.ndarray, where: str) -> None:
    """Raises ValueError for numbers of segments that no table has."""
    largest = int(instances.max(initial=0))
    if instances.ndim != 3 or largest >= _TRUE:
      raise ValueError(
        f"{where} gives {INSTANCES!r} the shape {list(instances.shape[1:])} "
        f"and the number {largest}, but it is a map of at most {_TRUE - 1} "
        "segments. canonical(...) or panoptic numbers them from 1 on."
      )

  def _count_segments(
    self, _: Any, batch: base.Batch
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns what a batch's segments share; runs on each device."""
    truth = {
      key: batch[f"{self._prefix}{key}"].astype(jnp.int32)
      for key in (SEMANTIC, INSTANCES, CROWD)
      if f"{self._prefix}{key}" in batch
    }
    segments, classes = (
      batch[key].astype(jnp.int32) for key in (SEGMENTS, CLASSES)
    )
    shown = images.seen_pixels(
      batch.get(f"{self._prefix}{VALID}"), truth[SEMANTIC][..., None]
    )
    seen = images.seen_pixels(batch.get(VALID), segments[..., None])

    def of_image(segments, truth, seen, shown):
      predicted, is_inside = segments, True
      for axis in (0, 1):
        places = jnp.arange(truth[SEMANTIC].shape[axis])
        # In whole numbers: the pixel at the centre of one of the truth.
        nearest = (2 * places + 1) * seen[axis] // (2 * shown[axis])
        nearest = jnp.minimum(nearest, seen[axis] - 1)
        predicted = jnp.take(predicted, nearest, axis=axis)
        inside = jnp.expand_dims(places < shown[axis], 1 - axis)
        is_inside = inside & is_inside
      is_void = truth[SEMANTIC] == geometry.IGNORE
      true = jnp.where(is_void, 0, truth[INSTANCES])
      nothing = jnp.full(_TRUE, NO_CLASS, jnp.int32)
      held = jnp.where(is_inside & ~is_void, true, 0)
      crowd = truth.get(CROWD, jnp.zeros_like(true))
      return {
        "table": panoptic_quality.areas(
          predicted, true, self._task.num_segments, _TRUE, is_inside
        ),
        "truth": nothing.at[held].max(truth[SEMANTIC]),
        "crowds": jnp.zeros(_TRUE, jnp.int32).at[held].max(crowd),
      }

    rows = jax.vmap(of_image)(segments, truth, seen, shown)
    return self._parallel.gather(
      {**rows, "predicted": classes, "mask": batch["mask"]}
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/` with the names of `metrics`, and `/examples`.

    Means over no class are left out, as those of stuff where there is none.

    Raises:
      ValueError: no image has a true segment.
    """
    number = self._task.num_classes
    counts = dict.fromkeys(self.settings, panoptic_quality.Counts.zeros(number))
    kept = panoptic_quality.Counts.zeros(number)
    examples = 0
    for batch in self._images:
      known = {k: v for k, v in batch.items() if k != self._task.model.input}
      inputs = self._inputs(batch)
      for setting, answer in self._answers.items():
        answers = answer(params, inputs)
        own, number_real = self._counts(known, answers)
        counts[setting] = counts[setting].plus(own)
      if self._has_ceiling and self._ceiling is None:
        labels = {key: batch[key] for key in (SEMANTIC, INSTANCES)}
        answers = self._reconstruct(params, {**inputs, **labels})
        kept = kept.plus(self._counts(known, answers)[0])
      examples += number_real
    if not any(c.matched.sum() + c.missed.sum() for c in counts.values()):
      raise ValueError(
        f"{self._where}: no image of {self.sources[0].name} has a segment, so "
        "there is no quality. Take a split with panoptic labels."
      )
    if self._has_ceiling and self._ceiling is None:
      self._ceiling = float(panoptic_quality.mean(kept)[0])
    for setting, total in counts.items():
      values = self._named(total)
      if self._has_ceiling:
        values[CEILING] = self._ceiling
      for name, value in {**values, "examples": examples}.items():
        if np.isfinite(value):
          yield f"{setting.name}/{name}", value

  def _counts(
    self, known: base.Batch, answers: base.Batch
  ) -> tuple[panoptic_quality.Counts, int]:
    """Returns the counts of a batch's images on all devices, their number."""
    rows = jax.device_get(self._count(self._nothing(), {**known, **answers}))
    total = panoptic_quality.Counts.zeros(self._task.num_classes)
    real = np.flatnonzero(rows["mask"] > 0).tolist()
    for i in real:
      total = total.plus(
        panoptic_quality.compare(
          rows["table"][i],
          rows["predicted"][i],
          rows["truth"][i],
          rows["crowds"][i] > 0,
          self._task.num_classes,
        )
      )
    return total, len(real)

  def _named(self, counts: panoptic_quality.Counts) -> dict[str, float]:
    """Returns the metrics of a setting by name."""
    is_stuff = np.zeros(self._task.num_classes, bool)
    is_stuff[list(self._task.stuff)] = True
    kinds = zip(_KINDS, (None, ~is_stuff, is_stuff), strict=True)
    values = {}
    for kind, chosen in kinds:
      means = panoptic_quality.mean(counts, chosen).tolist()
      for name, value in zip(("PQ", "SQ", "RQ"), means, strict=True):
        values[f"{name}{kind}"] = value
    qualities = panoptic_quality.of_classes(counts)[:, 0].tolist()
    return values | dict(zip(self._metric_names(), qualities, strict=True))

  def _labels(self) -> list[str]:
    """Returns the name, or else the number, of each class."""
    return [str(x) for x in self._class_names or range(self._task.num_classes)]

  def _metric_names(self) -> list[str]:
    """Returns the name of the PQ of each class."""
    return class_table.metric_names(_PQ, self._labels(), METRICS)

  def details(self, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of the PQ of each class."""
    return class_table.class_table(
      rows,
      self._labels(),
      self._metric_names(),
      self.headline,
      METRICS["PQ"],
    )

  def pictures(
    self, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> Iterator[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """Yields a picture of images, true segments and predictions."""
    yield (
      PICTURE_FILE,
      "images, true segments and predictions",
      lambda path: self._draw(path, params, rows),
    )

  def _draw(
    self, path: pathlib.Path, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    """Draws evenly spaced images, at three patch sizes."""
    # Matplotlib is imported only where something is drawn.
    from tokenlearner_flexivit.figures import drawing, overlay
    from tokenlearner_flexivit.figures import segments as pictures

    task, source = self._task, self.sources[0]
    settings = shown_settings.pictured(rows, self.headline)
    pp = self._data["pp"]
    examples = list(shown_examples.prepared(source, pp, self._truth or pp))
    keys = dict.fromkeys((*task.answer_keys, SEMANTIC, INSTANCES))
    batch = {
      key: np.stack([example[key] for example, _ in examples])
      for key in keys
      if key in examples[0][0]
    }
    metric = self.metrics[self.headline]
    columns = {}
    if self._has_ceiling:
      columns["kept by the code"] = task.reconstruct
    for setting, row in settings:
      heading = shown_settings.heading(setting, row, self.headline, metric)
      columns[heading] = functools.partial(task.predict, setting=setting)
    answers = [
      jax.device_get(jax.jit(answer)(params, batch))
      for answer in columns.values()
    ]
    shown = []
    for i, (example, truth) in enumerate(examples):
      image = example[task.model.input]
      seen = shown_examples.visible(example, task.model.input)
      sides = shown_examples.visible(truth, SEMANTIC)
      classes = truth[SEMANTIC][: sides[0], : sides[1]].astype(np.int32)
      ids = truth[INSTANCES][: sides[0], : sides[1]].astype(np.int32)
      is_void = classes == geometry.IGNORE
      ids = np.where(is_void, 0, ids)
      labels = np.full(_TRUE, NO_CLASS, np.int32)
      labels[ids[~is_void]] = classes[~is_void]
      labels[0] = NO_CLASS
      matrix = geometry.window(0, 0, *sides, *seen)
      place = geometry.Place(sides, matrix, image.shape[:2])
      cells = [renumbered(ids, labels)]
      for answer in answers:
        own = {key: value[i] for key, value in answer.items()}
        cells.append(task.restore(own, place))
      visible = overlay.displayable(image[: seen[0], : seen[1]])
      cells = [pictures.Cell(c[SEGMENTS], c[CLASSES]) for c in cells]
      shown.append((visible, cells))
    names = self._labels()
    drawn = pictures.figure(
      shown,
      ["image", "truth", *columns],
      names,
      f"{source.name}: true and predicted segments",
    )
    drawing.save(drawn, path, dpi=150)

  def _timed(self, params):
    return self._answers, (params, self._inputs(next(iter(self._images))))
