"""Panoptic answers: segments with classes, brought back to images and told.

Letters: B batch, N patches, p pixels of a patch, C labels with void, I
instances, h w prepared image, H W original image, S numbers of segments.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Integer, Shaped, UInt8
from PIL import Image
from scipy import ndimage

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops.panoptic import INSTANCES, SEMANTIC
from tokenlearner_flexivit.models import label_coder, label_patches
from tokenlearner_flexivit.tasks import base, label_maps, views

# The parts of an answer.
SEGMENTS, CLASSES = "segments", "classes"
NO_CLASS = -1


class PanopticAnswers(base.Task):
  """The base of tasks whose answer to an image is a map of its segments.

  True labels are `batch["semantic"]` [B, H, W], class numbers and 255 for void,
  and `batch["instances"]` [B, H, W], as the op `canonical` numbers them.

  The answer is a dict of `segments` [B, H, W], numbers of segments of which 0
  is none, and `classes` [B, S], the class of each number, -1 for those that the
  image has not. Instances of a thing are segments; stuff of one class is one
  segment.

  Attributes:
    num_classes: of the data, without void.
    class_names: of the training data; None where they are not known.
    stuff: the numbers of the classes that are no things.
    coder: the `models.LabelCoder`, whose logits become the answer.
  """

  headline = "PQ"
  remembered = ("num_classes", "class_names", "known_stuff")
  hub_task = "image-segmentation"
  purpose = "panoptic segmentation"
  has_places = True
  written_ends = ("", "_ids")

  coder: label_coder.LabelCoder

  def __init__(
    self,
    model: Any,
    coder: label_coder.LabelCoder,
    num_classes: int,
    class_names: Sequence[str] | None,
    known_stuff: Sequence[str] | None,
    stuff: Sequence[str] | None,
    min_fraction: float,
  ):
    """Keeps what is known of the classes.

    Args:
      model: the Flax module.
      coder: of the labels.
      num_classes: of the data.
      class_names: of the data, where they are known.
      known_stuff: names of classes that the data call stuff; None if they do
        not tell.
      stuff: names of these classes, in place of what is known; where the data
        have none, their numbers as texts.
      min_fraction: of an image: smaller instances become void.

    Raises:
      ValueError: an unknown class, or a number out of its range.
    """
    super().__init__(model)
    configuration.check_number(
      min_fraction, "config.task.min_fraction", "[0, 1)"
    )
    self.coder = coder
    self.num_classes, self.class_names = num_classes, class_names
    names = class_names or [str(i) for i in range(num_classes)]
    numbers = {name: i for i, name in enumerate(names)}
    self._stuff_is_known = stuff is not None or known_stuff is not None
    if stuff is not None:
      configuration.check_list(stuff, "config.task.stuff")
    self.stuff = frozenset(
      configuration.choose(name, numbers, "config.task.stuff")
      for name in (known_stuff or () if stuff is None else stuff)
    )
    self.min_fraction = min_fraction

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns the classes and what the data call stuff."""
    del model_section
    count, names = data_lib.classes(
      data_section, source, "config.data", SEMANTIC
    )
    if count is None:
      raise ValueError(
        f"The dataset {data_section['name']!r} does not tell the number of "
        f"classes in {SEMANTIC!r}. Take data that do, such as panoptic "
        "annotations of COCO by the op panoptic."
      )
    names = list(names) if names and len(names) == count else None
    return {
      "num_classes": count,
      "class_names": names,
      "known_stuff": data_lib.stuff(source, names),
    }

  def check_source(
    self, source: data_lib.Source, example: Mapping[str, Any]
  ) -> None:
    """Says if nothing tells what is stuff."""
    del example
    if not self._stuff_is_known:
      terminal.say(
        f"{source.name} does not tell which classes are stuff, such as sky: "
        "all count as things. config.task.stuff names others."
      )

  @property
  def answer_text(self) -> str:
    """Returns what an answer holds, and which classes are stuff."""
    text = (
      "the number of the segment at each pixel of the prepared image, 0 for "
      "none, and the class of each number, -1 for none"
    )
    if not self.stuff:
      return text
    names = [self._names()[number] for number in sorted(self.stuff)]
    return f"{text}; each class of stuff is one segment: {', '.join(names)}"

  @property
  def num_segments(self) -> int:
    """Returns S: none, the instances, and a segment of each class of stuff."""
    return 1 + self.coder.num_instances + self.num_classes

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    shape = np.shape(example[self.model.input])
    if shape[:-1] != self.coder.image_size:
      wanted = "x".join(map(str, self.coder.image_size))
      raise ValueError(
        f"{where} gives images of {'x'.join(map(str, shape[:-1]))}, but labels "
        f"are coded at {wanted}: posemb_grid times patch_size of the coder."
      )
    for key in (SEMANTIC, INSTANCES):
      if np.shape(example[key]) != shape[:-1]:
        raise ValueError(
          f"{where} gives {key!r} the shape {list(np.shape(example[key]))}, "
          f"but images {list(shape)}. Name it in the ops that change the size, "
          f"as in resize(..., masks=('{SEMANTIC}','{INSTANCES}'))."
        )
    self.check_batch({k: np.asarray(v)[None] for k, v in example.items()})

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError for labels that are none."""
    if SEMANTIC not in batch:
      return
    limits = self.num_classes, self.coder.num_instances
    for key, number in zip((SEMANTIC, INSTANCES), limits, strict=True):
      self.check_numbers(batch[key], key, number, "config.data")

  def check_numbers(
    self, maps: Shaped[np.ndarray, "B H W"], key: str, number: int, where: str
  ) -> None:
    """Raises ValueError for maps with numbers that are not below a limit."""
    if maps.dtype.kind not in "iu":
      raise ValueError(
        f"{where} gives {key!r} the type {maps.dtype}, but its numbers are "
        "whole. Ops such as value_range are for the image alone."
      )
    wrong = (maps < 0) | (maps >= number)
    advice = "Let canonical(...) number the segments, and no more of them."
    if key == SEMANTIC:
      wrong &= maps != geometry.IGNORE
      advice = f"{geometry.IGNORE} is void; map_labels gives other numbers."
    if wrong.any():
      raise ValueError(
        f"{where} gives {key!r} the number {maps[wrong][0]}, but they are 0 to "
        f"{number - 1}. {advice}"
      )

  def labels(self, batch: base.Batch) -> dict[str, Int32[Array, "B H W"]]:
    """Returns the labels of a batch as the coder has them: void is 0."""
    classes = batch[SEMANTIC].astype(jnp.int32)
    is_void = classes == geometry.IGNORE
    return {
      "semantics": jnp.where(is_void, 0, classes + 1),
      "instances": jnp.where(is_void, 0, batch[INSTANCES].astype(jnp.int32)),
    }

  def answer(
    self, logits: label_coder.Logits
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns segments and their classes from the logits of labels."""
    labels, instances = predictions(logits, self.min_fraction)
    grid = self.coder.posemb_grid, self.coder.patch_size
    labels, instances = (
      label_patches.to_maps(maps, *grid) for maps in (labels, instances)
    )
    first = 1 + self.coder.num_instances
    is_stuff = np.zeros(self.num_classes + 1, bool)
    is_stuff[[1 + number for number in self.stuff]] = True
    segments = jnp.where(
      jnp.asarray(is_stuff)[labels], first + labels - 1, 1 + instances
    )
    segments = jnp.where(labels > 0, segments, 0)
    batch = labels.shape[0]  # A symbol in an export.
    nothing = jnp.full((batch, self.num_segments), NO_CLASS, jnp.int32)
    rows = jnp.arange(batch)[:, None, None]
    classes = nothing.at[rows, segments].max(labels - 1)
    return {SEGMENTS: segments, CLASSES: classes.at[:, 0].set(NO_CLASS)}

  def restore(
    self, answer: Mapping[str, np.ndarray], place: geometry.Place
  ) -> dict[str, np.ndarray]:
    """Returns the segments of the original image.

    Args:
      answer: of `predict` to one image.
      place: where the prepared image shows the original.

    Returns:
      `segments` int32 [H, W], 0 for none and 1, 2, ... for those in the image;
      `classes` int32, the class of each of these.
    """
    segments = np.asarray(answer[SEGMENTS]).astype(np.int32)
    segments = label_maps.nearest(segments, place, 0)
    return renumbered(segments, np.asarray(answer[CLASSES]).astype(np.int32))

  def _names(self) -> Sequence[str]:
    return self.class_names or [str(i) for i in range(self.num_classes)]

  def rows(self, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns a row for each segment, the largest first.

    Args:
      answer: of `restore`.
    """
    segments, names = answer[SEGMENTS], self._names()
    areas = np.bincount(segments.ravel()).tolist()
    rows = []
    for number, (label, (y, x)) in enumerate(
      zip(
        answer[CLASSES].tolist(), ndimage.find_objects(segments), strict=True
      ),
      start=1,
    ):
      rows.append(
        {
          "id": number,
          "index": label,
          "class": names[label],
          "kind": "stuff" if label in self.stuff else "thing",
          "share": areas[number] / segments.size,
          "xmin": x.start,
          "ymin": y.start,
          "xmax": x.stop,
          "ymax": y.stop,
        }
      )
    return sorted(rows, key=lambda row: -row["share"])

  def in_words(self, answer: Mapping[str, np.ndarray], most: int) -> str:
    """Returns the largest segments with their shares of the image."""
    rows = self.rows(answer)
    if not rows:
      return "no segment"
    shown = ", ".join(
      f"{row['class']} {100 * row['share']:.1f} %" for row in rows[:most]
    )
    more = f", and {len(rows) - most} more" if len(rows) > most else ""
    return shown + more

  def in_json(self, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns `rows`."""
    return self.rows(answer)

  def draw(
    self,
    answer: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "H W C"],
    path: pathlib.Path,
  ) -> None:
    """Draws the segments over the image, with the names of their classes."""
    # Matplotlib is imported only where something is drawn.
    from tokenlearner_flexivit.figures import drawing, segments

    image = np.broadcast_to(image, (*image.shape[:2], 3))
    cell = segments.Cell(answer[SEGMENTS], answer[CLASSES], image)
    drawing.save(segments.picture(cell, self._names()), path, dpi=100)

  def write(
    self, answer: Mapping[str, np.ndarray], path: str | os.PathLike
  ) -> pathlib.Path:
    """Writes the segments in COCO's form: PATH_ids.png and PATH.json.

    Colours of the PNG are ids, R + 256 G + 256^2 B. The JSON is an entry of
    COCO's `annotations`; its categories are the class numbers.

    Returns:
      the path of the JSON.
    """
    path = pathlib.Path(path)
    ids = path.with_name(f"{path.name}_ids.png")
    numbers = answer[SEGMENTS].astype(np.uint32)
    colours = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], -1)
    with paths.whole(ids) as partial, partial.open("wb") as file:
      Image.fromarray(colours.astype(np.uint8)).save(file, format="PNG")
    areas = np.bincount(numbers.ravel()).tolist()
    content = {
      "file_name": ids.name,
      "segments_info": [
        {
          "id": row["id"],
          "category_id": row["index"],
          "category": row["class"],
          "isthing": int(row["kind"] == "thing"),
          "area": areas[row["id"]],
          "bbox": [
            row["xmin"],
            row["ymin"],
            row["xmax"] - row["xmin"],
            row["ymax"] - row["ymin"],
          ],
          "iscrowd": 0,
        }
        for row in self.rows(answer)
      ],
    }
    path = path.with_name(f"{path.name}.json")
    with paths.whole(path) as partial:
      partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def predictions(
  logits: Mapping[str, Float[Array, "B N kinds p"]], min_fraction: float = 0.0
) -> tuple[Int32[Array, "B N p"], Int32[Array, "B N p"]]:
  """Returns the label and the instance of each pixel, by patches.

  A pixel's instance is the most likely one; the label of an instance is the
  most likely one by the sum of its pixels' logits (UViM). Pixels of instances
  that are no larger than `min_fraction` of the image have 0 for both.

  Args:
    logits: of `semantics` and `instances`, as a `LabelCoder` gives them.
    min_fraction: share of the image.
  """
  semantics, scores = logits["semantics"], logits["instances"]
  number = scores.shape[2]
  instances = jnp.argmax(scores, axis=2).astype(jnp.int32)
  masks = jax.nn.one_hot(instances, number, axis=2)
  # Rounded sums would change which label is the most likely.
  sums = jnp.einsum(
    "bncp,bnip->bic", semantics, masks, precision=jax.lax.Precision.HIGHEST
  )
  labels = jnp.argmax(sums, axis=-1).astype(jnp.int32)
  share = masks.mean(axis=(1, 3))
  labels = jnp.where(share > min_fraction, labels, 0)
  is_kept = jnp.where(share > min_fraction, 1, 0)

  def of_pixels(values: Int[Array, "B I"]) -> Int[Array, "B N p"]:
    flat = instances.reshape(instances.shape[0], -1)
    return jnp.take_along_axis(values, flat, axis=1).reshape(instances.shape)

  return of_pixels(labels), instances * of_pixels(is_kept)


def renumbered(
  segments: Integer[np.ndarray, "H W"], classes: Integer[np.ndarray, " S"]
) -> dict[str, Integer[np.ndarray, "..."]]:
  """Returns segments numbered 1, 2, ... without gaps, and their classes.

  Args:
    segments: numbers, of which those without a class become 0.
    classes: of each number, -1 for none.
  """
  is_there = np.zeros(len(classes), bool)
  is_there[np.unique(segments)] = True
  is_there &= classes > NO_CLASS
  new = np.where(is_there, np.cumsum(is_there), 0).astype(np.int32)
  return {
    SEGMENTS: new[segments],
    CLASSES: classes[is_there].astype(np.int32),
  }
