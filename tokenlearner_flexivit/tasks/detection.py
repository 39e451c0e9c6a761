"""Open-vocabulary detection: boxes, and the names of what is in them.

OWL-ViT (arXiv 2205.06230): every token predicts a box and is compared with the
embeddings of the names of all classes. True boxes are assigned to predictions
at the least cost (`matching`); the loss is the focal one of all names, and L1
and generalized IoU of the assigned boxes, with the published weights.

Letters: B batch, b of this device, M places for true boxes, N predictions, K
classes, L tokens of a name.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.data.steps import BOX_LABEL, BOXES
from tokenlearner_flexivit.models import detection_heads
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import (
  base,
  box_answers,
  matching,
  text_towers,
  views,
)
from tokenlearner_flexivit.tasks import boxes as boxes_lib

NORMALIZATIONS = ("per_example", "global")
_MAX_LEN = 16  # As published.
_QUERIES = "queries"  # Beside the parameters in use.


class Detection(box_answers.BoxAnswers):
  """Finds things in `batch["image"]` [B, H, W, C].

  True boxes are `batch["boxes"]` [B, M, 4], relative (ymin, xmin, ymax, xmax),
  with classes `batch["box_label"]` [B, M], -1 for padding, as the op `objects`
  makes them.

  The answer to an image is a dict of its `top` best pairs of a box and a name:
  boxes [top, 4], as in the batch, scores [top] in [0, 1], and labels [top].

  Attributes:
    model: by default an `models.OwlViT`.
    class_names: of all classes, the held-out ones included.
    held_out: numbers of the classes that training does not see.
    vocabulary: turns names into tokens.
    min_score: the least score of a box that is told to people.
    programs: as in `base.Task`.
  """

  headline = "AP"
  remembered = ("class_names", "vocabulary")
  hub_task = "zero-shot-object-detection"
  purpose = "detection by names"

  def __init__(
    self,
    model: Any,
    class_names: Sequence[str],
    vocabulary: Mapping[str, Any],
    prompt: str = "{}",
    held_out: Sequence[str] = (),
    negatives: int | None = None,
    class_weight: float = 1.0,
    box_weight: float = 1.0,
    giou_weight: float = 1.0,
    focal_alpha: float | None = 0.3,
    focal_gamma: float = 2.0,
    normalization: str = "per_example",
    top: int = 300,
    min_score: float = 0.1,
    queries: Sequence[Sequence[float]] | None = None,
  ):
    """Builds the task.

    Args:
      model: predicts boxes, and embeds names by `embed_texts`.
      class_names: in the order of their numbers.
      vocabulary: as `describe` of a vocabulary returns it.
      prompt: a sentence with {} for a name, such as "a photo of a {}".
      held_out: names that training does not see: their boxes are no targets,
        and their names no queries.
      negatives: for data in which not every thing has a box, such as LVIS: the
        number of classes, drawn at each step, that count as not there beside
        those that are. None for all.
      class_weight: of the classes in cost and loss.
      box_weight: of the L1 distance.
      giou_weight: of the generalized IoU.
      focal_alpha: weight of what is there in the focal loss; None for the plain
        sigmoid cross-entropy.
      focal_gamma: its power.
      normalization: divides the sums of an image by its own numbers of boxes
        ("per_example") or by their mean over the batch ("global").
      top: pairs of an answer.
      min_score: of boxes that are told to people.
      queries: embeddings of what to look for, a row for each class in place of
        its name, as `embedding_in` returns them for things in other images.

    Raises:
      ValueError: an unknown name, a number out of its range, or a prompt
        without {}.
    """
    super().__init__(model)
    number = configuration.check_number
    for key, value in (
      ("class_weight", class_weight),
      ("box_weight", box_weight),
      ("giou_weight", giou_weight),
      ("focal_gamma", focal_gamma),
    ):
      number(value, f"config.task.{key}", "[0, inf)")
    if focal_alpha is not None:
      number(focal_alpha, "config.task.focal_alpha", "[0, 1]")
    number(min_score, "config.task.min_score", "[0, 1]")
    number(top, "config.task.top", "[1, inf)", whole=True)
    configuration.choose(
      normalization,
      dict.fromkeys(NORMALIZATIONS),
      "config.task.normalization",
    )
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
      raise ValueError(
        f"config.task.prompt={prompt!r} must be a text with one {{}} for the "
        "name of a class, such as 'a photo of a {}'."
      )
    self.class_names = tuple(class_names)
    numbers = {name: i for i, name in enumerate(self.class_names)}
    configuration.check_list(held_out, "config.task.held_out")
    self.held_out = tuple(
      configuration.choose(name, numbers, "config.task.held_out")
      for name in held_out
    )
    if len(self.held_out) == len(self.class_names):
      raise ValueError("config.task.held_out leaves no class to train.")
    if negatives is not None:
      most = len(self.class_names) - len(self.held_out)
      number(negatives, "config.task.negatives", f"[1, {most}]", whole=True)
    self._negatives = negatives
    self._weights = matching.Weights(
      classes=class_weight,
      box=box_weight,
      giou=giou_weight,
      alpha=focal_alpha,
      gamma=focal_gamma,
    )
    self._is_global = normalization == "global"
    self.top, self.min_score = top, min_score
    self._queries = None
    if queries is not None:
      self._queries = np.asarray(queries, np.float32)
    self.vocabulary = vocabularies.from_json(vocabulary)
    if not hasattr(model, "embed_texts"):
      raise ValueError(
        f"config.model is a {type(model).__name__}, which compares nothing "
        "with names. Leave config.model.name out for an OwlViT."
      )
    text_towers.check_size(model, self.vocabulary, "config.data.vocabulary")
    max_len = model.text["max_len"]
    # Names of LVIS are such as baseball_bat.
    names = [name.replace("_", " ") for name in self.class_names]
    self._tokens = np.stack(
      [
        self.vocabulary.tokens(prompt.replace("{}", name), max_len)
        for name in names
      ]
    )
    if self._queries is None:
      self.vocabulary.warn_of_unknown(names)
      text_towers.warn_of_equal(self.class_names, self._tokens)

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `class_names` and `vocabulary`, as `base.Task.about` asks.

    The vocabulary "words" is made of the names; `config.data.vocabulary` may
    name another, as in dict(name="clip").
    """
    del model_section
    _, names = data_lib.classes(data_section, source, "config.data", BOX_LABEL)
    if names is None:
      raise ValueError(
        f"{source.name} does not name the classes of its boxes, and a "
        "detection goes by names. Put objects(...) into config.data.pp, "
        "and take data that name them."
      )
    stored = data_section.get("vocabulary")
    vocabulary = (
      vocabularies.from_captions(names)
      if stored is None
      else vocabularies.from_json(stored)
    )
    return {"class_names": list(names), "vocabulary": vocabulary.describe()}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model, by default an OwlViT, for texts of the vocabulary."""
    # Before the data are opened, any number serves.
    known = {"vocab_size": 4, "max_len": _MAX_LEN}
    if about:
      known["vocab_size"] = vocabularies.from_json(about["vocabulary"]).size
    text = known | text_towers.section(section)
    name = configuration.value(section, "name", "owl_vit")
    return models.create(**{**section, "name": name, "text": text})

  def check_init(
    self, source: str | os.PathLike, fresh: Sequence[str] = ()
  ) -> None:
    """Raises ValueError if the weights know other words than the names."""
    text_towers.check_weights(source, self.model, self.vocabulary, fresh)

  @classmethod
  def renamed(
    cls,
    section: Mapping[str, Any],
    about: Mapping[str, Any],
    names: Sequence[str],
    queries: np.ndarray | None = None,
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns section and remembered values of a task that looks for others.

    Args:
      section: `config.task`.
      about: what the task remembers about its data.
      names: of the things to look for, in any words.
      queries: their embeddings, if these are not to be those of the names.
    """
    kept = {
      key: value
      for key, value in section.items()
      if key not in ("held_out", "negatives")
    }
    if queries is not None:
      kept["queries"] = queries.tolist()
    return kept, {**about, "class_names": list(names)}

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, BOXES, BOX_LABEL

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    self._check_boxes(example, where)

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError for boxes that are none."""
    self._check_boxes(batch, "config.data")

  def _check_boxes(self, batch: Mapping[str, np.ndarray], where: str) -> None:
    number = len(self.class_names)
    boxes_lib.check(batch[BOXES], batch[BOX_LABEL], number, where)

  def prepare(
    self,
    batch: base.Batch,
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> base.Batch:
    """Makes the targets of a batch; done once per step.

    Args:
      batch: has `batch_keys`, leaves [b, ...] of this device.
      key: draws the classes that count as not there.
      constants: not used.
      parallel: shares the batch among devices; None for a batch on one.

    Returns:
      The image; `classes` [b, M, K], zeros for padding and for held-out ones;
      `boxes` [b, M, 4] as centre, width and height; `counts` [b, K], whether a
      class counts for an image; and with normalization "global" `numbers`
      [b, 2], of classes and boxes of an image of the batch.
    """
    batch = super().prepare(batch, key, constants, parallel)
    if BOX_LABEL not in batch:
      return batch
    number = len(self.class_names)
    classes = jax.nn.one_hot(batch[BOX_LABEL], number)
    trained = np.ones(number, np.float32)
    trained[list(self.held_out)] = 0
    classes *= trained[None, None]
    drawn = jnp.asarray(trained)
    if self._negatives is not None:
      noise = jax.random.uniform(key, (number,)) - jnp.asarray(1 - trained)
      _, chosen = jax.lax.top_k(noise, self._negatives)
      drawn = jnp.zeros(number).at[chosen].set(1)
    result = {
      self.model.input: batch[self.model.input],
      "classes": classes,
      BOXES: boxes_lib.centres(batch[BOXES]),
      "counts": jnp.maximum(classes.max(axis=1), drawn[None]),
    }
    if self._is_global:
      numbers = jnp.stack(
        [
          classes.sum(axis=(1, 2)).mean(),
          matching.is_there(classes).sum(axis=1).mean(),
        ]
      )
      if parallel is not None:
        numbers = parallel.mean(numbers)
      result["numbers"] = jnp.broadcast_to(numbers, (len(classes), 2))
    return result

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[Float32[Array, ""], tuple[dict[str, jax.Array], Any]]:
    """Returns the loss of a prepared batch, its terms, and the answers.

    Args:
      params: of the model.
      batch: the result of `prepare`.
      key: drives dropout.
      setting: of the dials.
      parallel: not used, since the step averages over the devices.

    Raises:
      ValueError: there are fewer predictions than places for boxes.
    """
    del parallel
    answer, _ = self._trained(
      params, key, setting, batch[self.model.input], self._tokens
    )
    predictions, places = answer[BOXES].shape[1], batch[BOXES].shape[1]
    if predictions < places:
      raise ValueError(
        f"At {setting.name} an image has {predictions} predictions, fewer than "
        f"the {places} places for boxes. Take smaller patches, or "
        f"objects({predictions}) in config.data.pp."
      )
    logits = jnp.where(
      batch["counts"][:, None] > 0, answer["logits"], detection_heads.NO_QUERY
    )
    numbers = None
    if "numbers" in batch:
      numbers = batch["numbers"][:, 0], batch["numbers"][:, 1]
    terms = matching.losses(
      logits,
      answer[BOXES],
      batch["classes"],
      batch[BOXES],
      self._weights,
      numbers,
    )
    terms = {f"loss_{name}": term.mean() for name, term in terms.items()}
    return terms.pop("loss_total"), (terms, answer[BOXES])

  def further_cost(self, examples: int) -> int:
    """Returns an image's part of the multiply-adds of all names."""
    cost = getattr(self.model, "text_cost", lambda length: 0)
    return len(self._tokens) * cost(self._tokens.shape[1]) // examples

  def predict(
    self, params: Any, batch: base.Batch, setting: dials.Setting
  ) -> dict[str, jax.Array]:
    """Returns the best pairs of a box and a name, the best first.

    All names are asked for, held-out ones included.
    """
    if _QUERIES not in params:
      params = self.in_use(params)
    answer, _ = self.model.apply(
      {"params": params}, batch[self.model.input], **setting, train=False
    )
    logits = detection_heads.class_logits(answer, params[_QUERIES])
    number = logits.shape[-1]
    flat = logits.reshape(logits.shape[0], -1)
    best, pairs = jax.lax.top_k(flat, min(self.top, flat.shape[1]))
    boxes = boxes_lib.corners(answer[BOXES])[..., jnp.asarray([1, 0, 3, 2])]
    boxes = jnp.take_along_axis(boxes, (pairs // number)[..., None], axis=1)
    return {
      BOXES: boxes.clip(0, 1),
      "scores": jax.nn.sigmoid(best),
      "labels": pairs % number,
    }

  def in_use(self, params: Any) -> Any:
    """Returns the parameters, with the embeddings of what to look for."""
    queries = self._queries
    if queries is None:
      if _QUERIES not in self.programs:
        embed = functools.partial(self.model.apply, method="embed_texts")
        self.programs[_QUERIES] = jax.jit(embed)
      queries, _ = self.programs[_QUERIES]({"params": params}, self._tokens)
    return {**params, _QUERIES: jnp.asarray(queries)}

  def embedding_in(
    self,
    params: Any,
    image: Float[Array, "H W channels"],
    box: Float[Array, " 4"],
    setting: dials.Setting,
  ) -> Float32[Array, " E"]:
    """Returns the embedding of a thing in an image, to look for it in others.

    It is that of the prediction whose box overlaps most with the thing's.

    Args:
      params: of the model.
      image: prepared.
      box: (xmin, ymin, xmax, ymax) in shares of it.
      setting: of the dials.
    """
    answer, _ = self.model.apply(
      {"params": params}, image[None], **setting, train=False
    )
    overlap, _ = boxes_lib.giou(boxes_lib.corners(answer[BOXES][0]), box[None])
    return answer["embedding"][0, jnp.argmax(overlap)]
