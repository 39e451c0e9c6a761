"""Panoptic segmentation by UViM (arXiv 2205.10337): a code from the image.

A `models.LabelCoder`, trained before by the task `panoptic_code`, makes a short
code of the labels of an image. This task trains a `models.UViM` to predict that
code from the image, word by word; the frozen coder makes labels of it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int32, Key

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, interop, models, terminal
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.data.ops.panoptic import INSTANCES, SEMANTIC
from tokenlearner_flexivit.models import uvim
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, panoptic_answers

# What stands for a coder before the data are opened, or in a plan.
_ANY_CODER = dict(
  num_labels=2,
  num_instances=2,
  width=8,
  encoder_depth=1,
  decoder_depth=1,
  mlp_dim=8,
  num_heads=1,
  code_grid=2,
)


class Panoptic(panoptic_answers.PanopticAnswers):
  """Predicts the code of an image's labels.

  Labels and answers are those of `PanopticAnswers`. The loss is the softmax
  cross-entropy of each word of the true code, given the words before it, in
  nats. The coder is part of the model and is not trained: `config.model.coder`
  names its run, or is a mapping with the fields of `LabelCoder` for one with
  random weights, to try a program.

  Attributes:
    programs: as in `base.Task`.
  """

  remembered = (*panoptic_answers.PanopticAnswers.remembered, "coder")
  frozen = (f"{uvim.CODER}/.*",)

  def __init__(
    self,
    model: Any,
    num_classes: int,
    coder: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    known_stuff: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    min_fraction: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
  ):
    """Builds the task.

    Args:
      model: a `models.UViM` with a coder.
      num_classes: of the data.
      coder: `fields` of the coder, and for a training its `source`.
      class_names: of the data, where they are known.
      known_stuff: names of classes that the data call stuff, or None.
      stuff: names of these classes, in place of what is known.
      min_fraction: of an image: smaller instances become void.
      temperature: of codes that are drawn for an answer; 0 takes the most
        likely words.
      seed: of what is drawn, for each image by its pixels.

    Raises:
      ValueError: an unknown class, a number out of its range, or a model
        without a coder for so many classes.
    """
    check = configuration.check_number
    check(temperature, "config.task.temperature", "[0, inf)")
    check(seed, "config.task.seed", "[0, inf)", whole=True)
    if not isinstance(model, models.UViM) or model.coder is None:
      raise ValueError(
        f"config.model is a {type(model).__name__}, which predicts no code of "
        "labels. Leave config.model.name out for a UViM, and name the run of a "
        "coder in config.model.coder."
      )
    built = models.LabelCoder(**model.coder, dtype=model.dtype)
    if built.num_labels != num_classes + 1:
      raise ValueError(
        f"The coder of config.model.coder knows {built.num_labels - 1} classes "
        f"and void, but the data have {num_classes}."
      )
    super().__init__(
      model,
      built,
      num_classes,
      class_names,
      known_stuff,
      stuff,
      min_fraction,
    )
    self._source = coder.get("source")
    self._temperature, self._seed = temperature, seed

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns the classes, and the fields and the source of the coder."""
    about = super().about(model_section, data_section, source)
    coder = model_section.get("coder")
    if coder is None:
      raise ValueError(
        "config.model.coder names no coder. Train one by the task "
        "'panoptic_code' (stage I), and give its workdir."
      )
    if isinstance(coder, Mapping):
      fields = {"num_labels": about["num_classes"] + 1, **coder}
      return {**about, "coder": _as_json(fields, None)}
    configuration.check_text(coder, "config.model.coder")
    fields = _described(coder)
    names = interop.class_names(coder)
    both = class_names_lib.comparable(
      (fields["num_labels"] - 1, names),
      (about["num_classes"], about["class_names"]),
    )
    if both:
      class_names_lib.check_same(*both, coder, "the training data")
    return {**about, "coder": _as_json(fields, str(coder))}

  @classmethod
  def about_again(
    cls,
    before: Mapping[str, Any],
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `about` without reading the coder, which checkpoints hold."""
    coder = before.get("coder")
    if coder is None or isinstance(model_section.get("coder"), Mapping):
      return cls.about(model_section, data_section, source)
    section = {**model_section, "coder": coder["fields"]}
    return {**cls.about(section, data_section, source), "coder": coder}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model with the coder that the run remembers."""
    coder = section.get("coder")
    fields = about["coder"]["fields"] if about else coder
    if not isinstance(fields, Mapping):
      fields = _ANY_CODER
    fields = {"num_labels": 2, **fields}
    name = configuration.value(section, "name", "uvim")
    return models.create(**{**section, "name": name, "coder": fields})

  @classmethod
  def public(
    cls, section: Mapping[str, Any], about: Mapping[str, Any]
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns section and remembered values without the path of the coder."""
    fields = about["coder"]["fields"]
    return {**section, "coder": fields}, {**about, "coder": {"fields": fields}}

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, SEMANTIC, INSTANCES

  def complete(self, params: Any) -> Any:
    """Returns the parameters with those of the coder's run."""
    if self._source is None:
      terminal.say(
        "config.model.coder names no run: the coder's weights are random!"
      )
      return params
    weights, report = interop.load_params_and_report(
      self._source, self.coder, params=params[uvim.CODER]
    )
    if missing := report.names("fresh"):
      raise ValueError(
        f"config.model.coder: {self._source} lacks {', '.join(missing[:4])}."
      )
    return {**params, uvim.CODER: weights}

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[
    Float32[Array, ""],
    tuple[dict[str, jax.Array], Float32[Array, "B L tokens"]],
  ]:
    """Returns the loss of a batch, its accuracy, and the logits of the words.

    `word_accuracy` is the share of words that are the most likely ones.

    Args:
      params: of the model.
      batch: the result of `prepare` or of `imitate`.
      key: drives dropout.
      setting: of the dials.
      parallel: not used, since the step averages over the devices.
    """
    del parallel
    images = batch[self.model.input]
    frozen = jax.lax.stop_gradient(params)
    codes = self.model.apply(
      {"params": frozen},
      images,
      self.labels(batch),
      method="encode_labels",
    )
    logits, _ = self._trained(params, key, setting, images, codes)
    # The code c is the token c + 1; the first begins a code.
    if "soft" in batch:
      losses = optax.softmax_cross_entropy(logits, batch["soft"])
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, codes + 1
      )
    right = jnp.argmax(logits, axis=-1) == codes + 1
    return losses.mean(), ({"word_accuracy": right.mean()}, logits)

  def trained_cost(self, shape: Sequence[int], setting: dials.Setting) -> int:
    """Returns the multiply-adds of an image up to the words of its code."""
    whole = self.model.cost(shape, **setting)
    return whole - self.coder.decoding_cost(shape)

  def untrained_cost(self, shape: Sequence[int]) -> int:
    """Returns those of the code of the true labels."""
    return self.coder.cost(shape) - self.coder.decoding_cost(shape)

  def imitate(
    self, batch: base.Batch, answer: Float32[Array, "B L tokens"]
  ) -> base.Batch:
    """Returns the batch with the probabilities of logits as soft words."""
    return {**batch, "soft": jax.nn.softmax(answer)}

  def predict(
    self, params: Any, batch: base.Batch, setting: dials.Setting
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns the labels of the code that is decoded for an image."""
    images = batch[self.model.input]
    nothing = jnp.zeros((images.shape[0], self.model.code_len), jnp.int32)
    _, out = self.model.apply({"params": params}, images, nothing, **setting)
    decoded = self.model.apply(
      {"params": params},
      out["memory"],
      out["memory_mask"],
      keys=self._keys(images) if self._temperature else None,
      temperature=self._temperature,
      method="decode",
    )
    logits = self.model.apply(
      {"params": params}, images, decoded.codes, method="decode_labels"
    )
    return self.answer(logits)

  def _keys(self, images: Float[Array, "B H W C"]) -> Key[Array, " B"]:
    """Returns the key of each image, by the seed and its pixels.

    So the answer to an image depends on no other and on no number of devices.
    """
    pixels = images.astype(jnp.float32).reshape(images.shape[0], -1)
    # Whole numbers have one sum, in whatever order they are added.
    bits = jax.lax.bitcast_convert_type(pixels, jnp.uint32)
    sums = bits.sum(axis=1, dtype=jnp.uint32)
    key = jax.random.key(self._seed, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sums)

  def reconstruct(
    self, params: Any, batch: base.Batch
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns what the code keeps of the labels of a batch: the ceiling."""
    logits, _ = self.coder.apply(
      {"params": params[uvim.CODER]},
      batch[self.model.input],
      self.labels(batch),
    )
    return self.answer(logits)


def _as_json(fields: Mapping[str, Any], source: str | None) -> dict[str, Any]:
  """Returns what a run remembers of a coder, as it is read from JSON."""
  return json.loads(json.dumps({"fields": dict(fields), "source": source}))


def _described(source: str | os.PathLike) -> dict[str, Any]:
  """Returns the fields of the coder whose weights lie in a source.

  Raises:
    ValueError: it holds no coder.
  """
  section = dict(interop.describe(source).model)
  if section.pop("name", None) != "label_coder":
    raise ValueError(
      f"config.model.coder={str(source)!r} holds no coder of labels. Give the "
      "workdir of a run of the task 'panoptic_code', or a file of its weights."
    )
  return section
