"""COCO's average precision of every setting in one pass.

Boxes are compared in pixels of the original images, by pycocotools (extra
`[detection]`). `truth` is a second preprocessing of the same examples, that
gives the true boxes; it must not move them:

    data=dict(..., pp="decode|resize_keep(96)|pad_to(96)|value_range(-1,1)"
              "|keep('image','valid')"),
    truth="image_size|objects(100,details=True)"
          "|keep('size','boxes','box_label','box_area','box_crowd')",

`valid`, which `pad_to` leaves, holds the shares of height and width that are
not padding; without it images are resized as a whole. Detections that lie in
the padding alone are none, as in predictions. `box_area` and `box_crowd` may be
missing: then areas are those of the boxes, and none is a crowd.

* `AP`: the mean over ten thresholds of IoU, .5 to .95, and over the classes;
  `AP50`, `AP75` at one threshold, `AP_small` (below 32² pixels), `AP_medium`,
  `AP_large` (from 96² on).
* `AR`: recall of the hundred best detections of an image.
* `AP_novel`, `AP_seen`, `AP50_novel`, `AP50_seen`: over the held-out classes
  of the task, and the others.
* `AP_NAME` of each class, by `class_table.metric_names`.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data.ops.geometry import VALID
from tokenlearner_flexivit.data.steps import BOX_LABEL
from tokenlearner_flexivit.evaluators import (
  base,
  class_table,
  coco_ap,
  shown_examples,
  shown_settings,
)
from tokenlearner_flexivit.evaluators.images import TRUTH
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks.detection import BOXES

PICTURE_FILE = "detection.png"
# Before the names of classes.
_AP = "AP_"
_MOST_SHOWN = 20  # Boxes of an image in a picture.
SIZE, AREA, CROWD = "size", "box_area", "box_crowd"
_NOVEL = {
  f"{name}_{part}": Metric(f"{name}, {part}", "%")
  for name in ("AP", "AP50")
  for part in ("novel", "seen")
}


class Evaluator(base.Evaluator):
  """An evaluator of a detection task.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of the images.
    headline: the metric that settings are compared by.
  """

  headline = "AP"
  needs = ("embedding_in",)

  def __init__(self, context: base.Context, data: dict[str, Any], truth: str):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a detection task.
      data: the data section of the config.
      truth: preprocessing of the true boxes.

    Raises:
      ValueError: no examples, an entry that is missing, classes other than
        those of the training, or a setting that does not fit the images.
      ImportError: pycocotools is missing.
    """
    coco_ap.check_installed()
    super().__init__(context)
    task, where = self._task, self._where
    self._pp, self._truth = data["pp"], truth
    self.metrics = coco_ap.METRICS | (_NOVEL if task.held_out else {})
    source = data_lib.open_source(data, f"{where}.data")
    self.sources = (source,)
    self._check_names({**data, "pp": truth}, source)
    self._images = self._open(
      data,
      source,
      entries=(),
      optional=(VALID,),
      label_key=f"{TRUTH}{BOX_LABEL}",
      truth_pp=truth,
    )
    example = {
      key.removeprefix(TRUTH): value
      for key, value in self._images.example.items()
      if key.startswith(TRUTH)
    }
    data_lib.check_entries(example, (SIZE, BOXES, BOX_LABEL), f"{where}.truth")
    self.image_shape = self._images.shape
    self._answers = self._answer_programs()
    self._gather = self._gather_program()

  @classmethod
  def check(cls, section: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for faults that no example is read for."""
    super().check(section, where)
    configuration.check_text(section.get("truth"), f"{where}.truth")
    if section.get("data") is not None:
      data_lib.check_section(
        {**section["data"], "pp": section["truth"]}, f"{where}.truth"
      )

  def _check_names(
    self, data: Mapping[str, Any], source: data_lib.Source
  ) -> None:
    """Raises ValueError for classes other than those of the training."""
    where, known = f"{self._where}.truth", list(self._task.class_names)
    _, names = data_lib.classes(data, source, where, BOX_LABEL)
    if names is not None and list(names) != known:
      other = sorted(set(names) ^ set(known)) or ["their order"]
      raise ValueError(
        f"{where}: {source.name} has other classes than the training data: "
        f"{', '.join(map(repr, other[:5]))} differ."
      )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/` with the names of `metrics`, and `/examples`.

    Metrics without a true box are left out, as those of large things where
    there are none.

    Raises:
      ValueError: no image has a true box that is not of a crowd, or answers are
        not finite.
    """
    kept, nothing = [], self._nothing()
    params = self._in_use(params)
    for batch in self._images:
      inputs = self._inputs(batch)
      rows = {
        key: value for key, value in batch.items() if key not in inputs
      } | {
        setting.name: answer(params, inputs)
        for setting, answer in self._answers.items()
      }
      kept.append(jax.device_get(self._gather(nothing, rows)))
    rows = jax.tree.map(lambda *x: np.concatenate(x), *kept)
    is_real = rows["mask"] > 0
    rows = jax.tree.map(lambda x: x[is_real], rows)
    truths = _truths(rows)
    if all(truth.crowds.all() for truth in truths):
      raise ValueError(
        f"No image of {self._where}.data has a box that is not of a crowd, so "
        "there is no precision. Take a split with boxes."
      )
    for setting in self.settings:
      result = coco_ap.evaluate(
        truths,
        self._detections(rows, setting.name),
        len(self._task.class_names),
      )
      for name, value in self._named(result).items():
        if np.isfinite(value):
          yield f"{setting.name}/{name}", value
      yield f"{setting.name}/examples", len(truths)

  def _in_use(self, params: Any) -> Any:
    """Returns the parameters with the embedded names, on all devices.

    Without them each program would embed all names for each batch.
    """
    return self._parallel.place(self._task.in_use(params))

  def _detections(
    self, rows: Mapping[str, Any], name: str
  ) -> list[coco_ap.Detections]:
    """Returns the detections within all images, in pixels."""
    answer = rows[name]
    if not all(np.isfinite(x).all() for x in answer.values()):
      raise ValueError(
        f"{self._where}: the answers at {name} are not finite. The training "
        "has diverged."
      )
    shown = rows.get(VALID, np.ones((len(rows["mask"]), 2)))
    detections = []
    for boxes, scores, labels, valid, size in zip(
      answer[BOXES],
      answer["scores"],
      answer["labels"],
      shown,
      rows[f"{TRUTH}{SIZE}"],
      strict=True,
    ):
      pixels = _in_pixels(boxes / np.tile(valid, 2), size)
      inside = (pixels[:, :2] < pixels[:, 2:]).all(axis=1)
      detections.append(
        coco_ap.Detections(
          pixels[inside], scores[inside], labels[inside].astype(int)
        )
      )
    return detections

  def _named(self, result: coco_ap.Result) -> dict[str, float]:
    """Returns the metrics of a setting by name."""
    named = {name: result.stats[name] for name in coco_ap.METRICS}
    if self._task.held_out:
      novel = np.isin(
        np.arange(len(self._task.class_names)), self._task.held_out
      )
      for name, of_classes in result.of_classes.items():
        for part, chosen in (("novel", novel), ("seen", ~novel)):
          values = of_classes[chosen & np.isfinite(of_classes)]
          named[f"{name}_{part}"] = values.mean() if len(values) else np.nan
    of_classes = result.of_classes["AP"].tolist()
    return named | dict(zip(self._metric_names(), of_classes, strict=True))

  def _metric_names(self) -> list[str]:
    """Returns the name of the AP of each class."""
    others = coco_ap.METRICS | _NOVEL
    return class_table.metric_names(_AP, self._task.class_names, others)

  def details(self, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of the AP of each class in %, at each setting."""
    return class_table.class_table(
      rows,
      self._task.class_names,
      self._metric_names(),
      self.headline,
      self.metrics[self.headline],
    )

  def pictures(
    self, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> Iterator[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """Yields a picture of images, true boxes and predictions."""
    yield (
      PICTURE_FILE,
      "images, true boxes and predictions",
      lambda path: self._draw(path, params, rows),
    )

  def _draw(
    self, path: pathlib.Path, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    """Draws evenly spaced images with boxes at three patch sizes."""
    # Matplotlib is imported only where something is drawn.
    from tokenlearner_flexivit.figures import boxes as pictures
    from tokenlearner_flexivit.figures import drawing, overlay

    task, source = self._task, self.sources[0]
    params = task.in_use(params)
    settings = shown_settings.pictured(rows, self.headline)
    examples = list(shown_examples.prepared(source, self._pp, self._truth))
    images = np.stack([example[task.model.input] for example, _ in examples])
    answers = [
      jax.device_get(
        jax.jit(functools.partial(task.predict, setting=setting))(
          params, {task.model.input: images}
        )
      )
      for setting, _ in settings
    ]
    shown = []
    for i, (example, truth) in enumerate(examples):
      image = example[task.model.input]
      share = np.asarray(example.get(VALID, (1, 1)))
      seen = shown_examples.visible(example, task.model.input)
      visible = overlay.displayable(image[: seen[0], : seen[1]])
      real = truth[BOX_LABEL] >= 0
      boxes = _in_pixels(truth[BOXES][real], seen)
      cells = [pictures.Cell(visible, boxes, truth[BOX_LABEL][real])]
      for answer in answers:
        chosen = answer["scores"][i] >= task.min_score
        boxes = answer[BOXES][i][chosen] / np.tile(share, 2)
        cells.append(
          pictures.Cell(
            visible,
            _in_pixels(boxes, seen)[:_MOST_SHOWN],
            answer["labels"][i][chosen][:_MOST_SHOWN],
            answer["scores"][i][chosen][:_MOST_SHOWN],
          )
        )
      shown.append(cells)
    metric = self.metrics[self.headline]
    headings = [
      shown_settings.heading(setting, row, self.headline, metric)
      for setting, row in settings
    ]
    drawn = pictures.figure(
      shown,
      ["true boxes", *headings],
      task.class_names,
      f"{source.name}: true boxes, and predictions of at least "
      f"{100 * task.min_score:g} %",
    )
    drawing.save(drawn, path, dpi=150)

  def _timed(self, params):
    inputs = self._inputs(next(iter(self._images)))
    return self._answers, (self._in_use(params), inputs)


def _truths(rows: Mapping[str, Any]) -> list[coco_ap.Truth]:
  """Returns the true boxes of all images, in pixels."""
  truths = []
  labels = rows[f"{TRUTH}{BOX_LABEL}"]
  for i, size in enumerate(rows[f"{TRUTH}{SIZE}"]):
    real = labels[i] >= 0
    boxes = _in_pixels(rows[f"{TRUTH}{BOXES}"][i][real], size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowds = np.zeros(len(boxes), bool)
    if f"{TRUTH}{AREA}" in rows:
      areas = rows[f"{TRUTH}{AREA}"][i][real]
    if f"{TRUTH}{CROWD}" in rows:
      crowds = rows[f"{TRUTH}{CROWD}"][i][real] > 0
    truths.append(coco_ap.Truth(boxes, labels[i][real], areas, crowds))
  return truths


def _in_pixels(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
  """Returns (xmin, ymin, xmax, ymax) of relative (ymin, xmin, ymax, xmax)."""
  height, width = np.asarray(size, np.float64)
  pixels = boxes.astype(np.float64).clip(0, 1)[:, [1, 0, 3, 2]]
  return pixels * np.array([width, height, width, height])
