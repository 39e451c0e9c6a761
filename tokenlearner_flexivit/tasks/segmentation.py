"""Semantic segmentation: a class for every pixel."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Integer, Shaped

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, label_maps, views

# The entry of an example that holds the classes of the pixels.
MASK = "semantic"


class Segmentation(base.Task):
  """Classifies each pixel of `batch["image"]` by `batch["semantic"]`.

  A mask [B, H, W] holds class numbers, and `ignore` at pixels of no class. The
  loss is the softmax cross-entropy of the logits [B, H, W, C], in nats, summed
  over the pixels that have a class and divided by their number in the whole
  batch: on all devices, and in all micro-batches if the step accumulates them.
  Without such a pixel it is 0.

  Attributes:
    num_classes: C.
    class_names: of the training data; None where they are not known.
    ignore: the number that stands for no class.
  """

  headline = "mIoU"
  remembered = ("num_classes", "class_names")
  hub_task = "image-segmentation"
  answer_text = "the logits of the classes at each pixel of the prepared image"
  has_places = True

  def __init__(
    self,
    model: Any,
    num_classes: int,
    ignore: int = geometry.IGNORE,
    class_names: Sequence[str] | None = None,
  ):
    """Builds the task.

    Args:
      model: its call returns (logits [B, H, W, C], out).
      num_classes: the number of classes of the data.
      ignore: the number of pixels that count in no loss and no metric.
      class_names: of the data, where they are known.

    Raises:
      ValueError: `ignore` is a class.
    """
    super().__init__(model)
    where = "config.task.ignore"
    # Devices hold masks as numbers of 32 bits.
    interval = f"[{-(2**31)}, {2**31})"
    configuration.check_number(ignore, where, interval, whole=True)
    if 0 <= ignore < num_classes:
      raise ValueError(
        f"{where}={ignore} is one of the {num_classes} classes. Take a number "
        "that is none, such as 255, and let an op of config.data.pp give it to "
        "the pixels to leave out."
      )
    self.num_classes = num_classes
    self.class_names = class_names
    self.ignore = ignore

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `num_classes` and `class_names`, as `base.Task.about` asks.

    Names are known where their number is that of the classes, which ops of the
    preprocessing may have changed.
    """
    count, names = data_lib.classes(data_section, source, "config.data", MASK)
    num_classes = model_section.get("num_classes") or count
    if num_classes is None:
      raise ValueError(
        f"The dataset {data_section['name']!r} does not tell the number of "
        f"classes in {MASK!r}; set config.model.num_classes."
      )
    names = names if names and len(names) == num_classes else None
    return {"num_classes": num_classes, "class_names": names}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model with logits for the classes, by default a Segmenter."""
    # Before the data are opened, any number of classes serves.
    number = about.get("num_classes") or section.get("num_classes") or 2
    name = configuration.value(section, "name", "segmenter")
    return models.create(**{**section, "name": name, "num_classes": number})

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, MASK

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    shape = example[self.model.input].shape
    self._check_answer(shape)
    if MASK in self.batch_keys:
      mask = np.asarray(example[MASK])
      if mask.shape != shape[:-1]:
        raise ValueError(
          f"{where} gives {MASK!r} the shape {list(mask.shape)}, but "
          f"{self.model.input!r} {list(shape)}. A mask has the size of the "
          "image and no channels: name it in the ops that change the size, as "
          f"in resize(..., masks={MASK!r})."
        )
      self.check_masks(mask[None], where)

  def _check_answer(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a model without logits for every pixel."""
    if isinstance(self.model, models.Segmenter):
      return
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    answer = jax.eval_shape(
      lambda key, x: self.model.init_with_output(key, x)[0][0],
      jax.random.key(0),
      image,
    )
    wanted = (1, *shape[:-1], self.num_classes)
    if getattr(answer, "shape", None) != wanted:
      raise ValueError(
        f"config.model is a {type(self.model).__name__}, whose answer to an "
        f"image {list(shape)} is {answer}. A segmentation needs logits "
        f"{list(wanted)[1:]}; leave config.model.name out for a Segmenter."
      )

  def check_source(
    self, source: data_lib.Source, example: Mapping[str, Any]
  ) -> None:
    """Raises ValueError for a single class."""
    del example
    if self.num_classes == 1:
      raise ValueError(
        f"{source.name} has a single class, so there is nothing to learn. Give "
        "the pixels beside it a class of their own, rather than "
        f"config.task.ignore={self.ignore}."
      )

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError if masks of a training batch are invalid."""
    if MASK in self.batch_keys:
      self.check_masks(batch[MASK], "config.data")

  def check_masks(self, masks: Shaped[np.ndarray, "B H W"], where: str) -> None:
    """Raises ValueError for masks with numbers of no class.

    Args:
      masks: with class numbers and `ignore`.
      where: the source of the masks, for errors, such as "config.data.pp".
    """
    if masks.dtype.kind not in "iub":
      raise ValueError(
        f"{where} gives {MASK!r} the type {masks.dtype}, but class numbers are "
        "whole. Ops such as value_range are for the image alone."
      )
    is_class = (masks >= 0) & (masks < self.num_classes)
    wrong = ~is_class & (masks != self.ignore)
    if not wrong.any():
      return
    numbers, counts = np.unique(masks[wrong], return_counts=True)
    more = ", ..." if len(numbers) > 8 else ""
    raise ValueError(
      f"{where} gives {MASK!r} the numbers "
      f"{', '.join(map(str, numbers[:8].tolist()))}{more} (at "
      f"{counts.sum()} of {masks.size} pixels), but the classes are 0 to "
      f"{self.num_classes - 1}, and {self.ignore} is ignored. Map them by an "
      "op of the preprocessing, set config.model.num_classes, or "
      "config.task.ignore to a number that stands for no class."
    )

  def prepare(
    self,
    batch: base.Batch,
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> base.Batch:
    """Counts the pixels with a class; done once per step.

    Args:
      batch: has `batch_keys`, leaves [b, ...] of this device.
      key: not used.
      constants: not used.
      parallel: shares the batch among devices; None for a batch on one.

    Returns:
      The entries of `batch_keys`, and `weight` [b]: 1 over the mean number of
      such pixels per image of the whole batch, or 0 without any. So the loss is
      a mean over images, which the devices and micro-batches can share.
    """
    batch = super().prepare(batch, key, constants, parallel)
    if MASK not in batch:
      return batch
    mask = batch[MASK].astype(jnp.int32)
    count = (mask != self.ignore).sum(axis=(1, 2)).mean(dtype=jnp.float32)
    if parallel is not None:
      count = parallel.mean(count)
    weight = jnp.where(count > 0, 1 / jnp.where(count > 0, count, 1), 0)
    weight = jnp.broadcast_to(weight, len(mask))
    return {**batch, MASK: mask, "weight": weight}

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[
    Float32[Array, ""], tuple[dict[str, jax.Array], Float32[Array, "B H W C"]]
  ]:
    """Returns the loss of a prepared batch, no metrics, and the logits.

    Args:
      params: of the model.
      batch: the result of `prepare`, or of `imitate`.
      key: drives dropout.
      setting: of the dials.
      parallel: not used, since the step averages over the devices.
    """
    del parallel
    logits = self.train_logits(params, batch[self.model.input], key, setting)
    return self.mask_loss(logits, batch), ({}, logits)

  def mask_loss(
    self, logits: Float[Array, "B H W C"], batch: base.Batch
  ) -> Float32[Array, ""]:
    """Returns the loss of logits on the mask of a prepared batch."""
    mask = batch[MASK]
    has_class = mask != self.ignore
    if "soft" in batch:
      losses = optax.softmax_cross_entropy(logits, batch["soft"])
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(has_class, mask, 0)
      )
    sums = jnp.where(has_class, losses, 0).sum(axis=(1, 2))
    return (sums * batch["weight"]).mean()

  def imitate(
    self, batch: base.Batch, answer: Float[Array, "B H W C"]
  ) -> base.Batch:
    """Returns the batch with the probabilities of logits as soft labels.

    Pixels without a class still count in no loss.
    """
    return {**batch, "soft": jax.nn.softmax(answer)}

  def restore(
    self, answer: Float[np.ndarray, "h w C"], place: geometry.Place
  ) -> Integer[np.ndarray, "H W"]:
    """Returns the label map of the original image from logits.

    Args:
      answer: of `predict` to one image.
      place: where the prepared image shows the original.

    Returns:
      The most likely class of each pixel, from interpolated logits; `ignore` at
      pixels that the preprocessing cuts off.
    """
    return label_maps.best_classes(answer, place, self.ignore)

  def rows(self, answer: Integer[np.ndarray, "H W"]) -> list[dict[str, Any]]:
    """Returns each class that some pixel has, with its share of the pixels.

    The most frequent comes first. Pixels without a class do not count.

    Args:
      answer: of `restore`.
    """
    numbers, counts = np.unique(
      answer[answer != self.ignore], return_counts=True
    )
    names = self.class_names or range(self.num_classes)
    order = np.argsort(-counts, kind="stable").tolist()
    return [
      {
        "index": int(numbers[i]),
        "class": str(names[numbers[i]]),
        "share": float(counts[i] / counts.sum()),
      }
      for i in order
    ]

  def in_words(self, answer: Integer[np.ndarray, "H W"], most: int) -> str:
    """Returns the most frequent classes, with their shares of the pixels."""
    return ", ".join(
      f"{row['class']} {100 * row['share']:.1f} %"
      for row in self.rows(answer)[:most]
    )

  def in_json(self, answer: Integer[np.ndarray, "H W"]) -> dict[str, Any]:
    """Returns height and width, and `rows` in place of millions of numbers."""
    return {"size": list(answer.shape), "classes": self.rows(answer)}

  def write(
    self, answer: Integer[np.ndarray, "H W"], path: str | os.PathLike
  ) -> pathlib.Path:
    """Writes a label map as PATH.png, see `label_maps.write`."""
    return label_maps.write(answer, path, self.num_classes, self.ignore)
