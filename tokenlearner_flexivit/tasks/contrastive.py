"""Image and text towers whose embeddings of a pair agree: CLIP, LiT, SigLIP.

* `softmax` (CLIP, arXiv 2103.00020; LiT, arXiv 2111.07991): each image picks
  its text out of those of the whole batch, and each text its image.
* `sigmoid` (SigLIP, arXiv 2303.15343): each pair of an image and a text is
  right or wrong by itself.

Both compare an image with the texts of all devices, and their gradients are
those of the whole batch on one device. Learned are the temperature t, and for
`sigmoid` a bias b: logits are t * cosine + b.

Letters: B pairs of all devices, b of this device, M texts, L tokens of a text,
E width of the embeddings.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Float32, Int, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, text_towers, views

# The entry of an example that holds the numbers of its text's tokens.
TOKENS = "tokens"
LOSSES = ("softmax", "sigmoid")


def softmax_loss(
  zimg: Float[Array, "b E"],
  ztxt: Float[Array, "b E"],
  t: Float[Array, ""],
  parallel: Parallel | None = None,
) -> Float32[Array, ""]:
  """Returns CLIP's loss for the pairs of this device.

  Its mean over devices is that of the batch. It is the cross-entropy of each
  image's own text among all texts, and of each text's own image among all
  images; the mean of both, in nats.

  Args:
    zimg: embeddings of images, of length 1.
    ztxt: those of their texts.
    t: temperature, which multiplies the cosines.
    parallel: shares the batch among devices; None for a batch on one.
  """
  own = jnp.arange(len(zimg))
  all_images, all_texts = zimg, ztxt
  if parallel is not None:
    all_images, all_texts = parallel.gather((zimg, ztxt))
    own = own + parallel.index() * len(zimg)
  losses = [
    optax.softmax_cross_entropy_with_integer_labels(
      t * _cosines(z, others), own
    )
    for z, others in ((zimg, all_texts), (ztxt, all_images))
  ]
  return (losses[0].mean() + losses[1].mean()) / 2


def sigmoid_loss(
  zimg: Float[Array, "b E"],
  ztxt: Float[Array, "b E"],
  t: Float[Array, ""],
  bias: Float[Array, ""],
  parallel: Parallel | None = None,
) -> Float32[Array, ""]:
  """Returns SigLIP's loss for the images of this device.

  Its mean over devices is that of the batch. It is the sum over all texts, and
  the mean over images, of the sigmoid cross-entropy of each pair, in nats. The
  texts of one device at a time pass by (SigLIP, Section 3.3), so that no device
  holds the logits of all of them.

  Args:
    zimg: embeddings of images, of length 1.
    ztxt: those of their texts.
    t: temperature, which multiplies the cosines.
    bias: added to them.
    parallel: shares the batch among devices; None for a batch on one.
  """
  eye = jnp.eye(len(zimg), dtype=jnp.float32)

  @jax.checkpoint  # The backward pass computes the logits again.
  def summed(texts: jax.Array, signs: jax.Array) -> jax.Array:
    logits = t * _cosines(zimg, texts) + bias
    return -jax.nn.log_sigmoid(signs * logits).sum()

  total = summed(ztxt, 2 * eye - 1)
  if parallel is not None and parallel.num_devices > 1:

    def add(carry, _):
      texts, total = carry
      texts = parallel.shift(texts)
      return (texts, total + summed(texts, -jnp.ones_like(eye))), None

    others = parallel.num_devices - 1
    (_, total), _ = jax.lax.scan(add, (ztxt, total), length=others)
  return total / len(zimg)


def _cosines(
  a: Float[Array, "N E"], b: Float[Array, "M E"]
) -> Float32[Array, "N M"]:
  """Returns the products of embeddings of length 1."""
  # Of the accelerators' quick products, the errors would be times t.
  return jnp.matmul(
    a.astype(jnp.float32),
    b.astype(jnp.float32).T,
    precision=jax.lax.Precision.HIGHEST,
  )


class Contrastive(base.Task):
  """Embeds `batch["image"]` [B, H, W, C] and `batch["tokens"]` [B, L] alike.

  The tokens are those of the op `tokenize`. The answer to an image is its
  embedding [E], of length 1.

  Attributes:
    model: the two towers, by default `models.TwoTowers`.
    vocabulary: turns texts into tokens.
    max_len: L.
    loss_name: "softmax" or "sigmoid".
    programs: as in `base.Task`.
  """

  headline = "R1"
  remembered = ("vocabulary", "max_len")
  hub_task = "zero-shot-image-classification"
  purpose = "images and texts"
  answer_text = (
    "the embedding of the image, of length 1: its product with that of a text "
    "is their cosine, of which the logit is exp(t) times as much, plus b if "
    "the weights have one"
  )
  is_mean = False

  def __init__(
    self,
    model: Any,
    vocabulary: Mapping[str, Any],
    max_len: int,
    loss: str = "softmax",
  ):
    """Builds the task.

    Args:
      model: embeds images, and texts by the method `embed_texts`.
      vocabulary: as `describe` of a vocabulary returns it.
      max_len: tokens of a text.
      loss: "softmax" or "sigmoid".

    Raises:
      ValueError: an unknown loss, or a model without bias for `sigmoid`, or
        with one for `softmax`.
    """
    super().__init__(model)
    configuration.choose(loss, dict.fromkeys(LOSSES), "config.task.loss")
    has_bias = getattr(model, "bias_init", None) is not None
    if loss == "sigmoid" and not has_bias:
      raise ValueError(
        "config.task.loss='sigmoid' needs a bias, since nearly all pairs are "
        "wrong ones: set config.model.bias_init=-10, as SigLIP does."
      )
    if loss == "softmax" and has_bias:
      raise ValueError(
        f"config.model.bias_init={model.bias_init} has no effect on "
        "config.task.loss='softmax', which compares logits with one another. "
        "Leave it out."
      )
    self.loss_name = loss
    self.vocabulary = vocabularies.from_json(vocabulary)
    self.max_len = max_len
    self._check_text_tower()

  def _check_text_tower(self) -> None:
    """Raises ValueError for a text tower that reads other texts."""
    text_towers.check_size(self.model, self.vocabulary, "config.data.pp")
    text = getattr(self.model, "text", None) or {}
    if text.get("max_len", self.max_len) != self.max_len:
      raise ValueError(
        f"config.model.text.max_len={text['max_len']}, but config.data.pp "
        f"gives texts of {self.max_len} tokens. Give both the same, or leave "
        "the former out."
      )

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `vocabulary` and `max_len`, as `base.Task.about` asks.

    The vocabulary "words" is made of the captions of the training data, unless
    `config.data.vocabulary` holds one.
    """
    del model_section
    pp = data_section["pp"]
    try:
      max_len, name = data_lib.vocabulary_of(pp)
      if data_section.get("vocabulary") is None:
        vocabulary = data_lib.make_vocabulary(pp, source)
      else:
        stored = vocabularies.from_json(data_section["vocabulary"])
        vocabulary = vocabularies.open_named(name, stored)
    except ValueError as error:
      raise ValueError(f"config.data.pp: {error}") from None
    return {"vocabulary": vocabulary.describe(), "max_len": max_len}

  @classmethod
  def about_again(
    cls,
    before: Mapping[str, Any],
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `about` without the file of the vocabulary, which a run holds."""
    stored = before.get("vocabulary")
    # That of the captions shows whether these have changed.
    if stored is not None and stored["name"] != vocabularies.WORDS:
      asked = data_section.get("vocabulary")
      data_section = {**data_section, "vocabulary": asked or stored}
    return cls.about(model_section, data_section, source)

  @classmethod
  def data_options(cls, **about: Any) -> dict[str, Any]:
    """Returns the vocabulary, for the op `tokenize` of all data sections."""
    return {"vocabulary": about["vocabulary"]}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model, by default two towers, for texts of the vocabulary."""
    # Before the data are opened, any numbers serve.
    known = {"vocab_size": 4, "max_len": 2}
    if about:
      size = vocabularies.from_json(about["vocabulary"]).size
      known = {"vocab_size": size, "max_len": about["max_len"]}
    text = known | text_towers.section(section)
    name = configuration.value(section, "name", "two_towers")
    return models.create(**{**section, "name": name, "text": text})

  def check_init(
    self, source: str | os.PathLike, fresh: Sequence[str] = ()
  ) -> None:
    """Raises ValueError if the weights know other words than the data."""
    text_towers.check_weights(source, self.model, self.vocabulary, fresh)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, TOKENS

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    self.check_tokens(np.asarray(example[TOKENS])[None], where)

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError for a batch of a single pair, which teaches nothing."""
    if len(batch[TOKENS]) * jax.process_count() == 1:
      raise ValueError(
        "config.batch_size=1: a contrastive loss compares a pair with others. "
        "Give a larger batch."
      )

  def check_tokens(self, tokens: np.ndarray, where: str) -> None:
    """Raises ValueError unless tokens are of the model's vocabulary.

    Args:
      tokens: whole numbers [..., L].
      where: the source of the tokens, for errors, such as "config.data.pp".
    """
    if tokens.dtype.kind not in "iu" or tokens.shape[-1] != self.max_len:
      raise ValueError(
        f"{where} gives texts of {tokens.dtype}{list(tokens.shape)[1:]}, but "
        f"the model reads {self.max_len} tokens, whole numbers. Use "
        f"tokenize({self.max_len}, {self.vocabulary.name!r})."
      )
    size = self.vocabulary.size
    if tokens.min() < 0 or tokens.max() >= size:
      wrong = tokens[(tokens < 0) | (tokens >= size)][0]
      raise ValueError(
        f"{where} gives the token {wrong}, but the vocabulary "
        f"{self.vocabulary.name!r} has those from 0 to {size - 1}."
      )

  def tokenize(self, texts: Sequence[str]) -> Int32[np.ndarray, "M L"]:
    """Returns the tokens of texts, as the op `tokenize` makes them.

    It tells which words the vocabulary lacks.
    """
    self.vocabulary.warn_of_unknown(texts)
    return np.stack(
      [self.vocabulary.tokens(text, self.max_len) for text in texts]
    )

  def embed_texts(
    self, params: Any, tokens: Int[Array, "M L"]
  ) -> Float32[Array, "M E"]:
    """Returns the embeddings of texts, of length 1, in evaluation."""
    embedded, _ = self.model.apply(
      {"params": params}, tokens, method="embed_texts"
    )
    return embedded.astype(jnp.float32)

  def further_cost(self, examples: int) -> int:
    """Returns the multiply-adds of a text, if the model tells them."""
    del examples
    cost = getattr(self.model, "text_cost", None)
    return 0 if cost is None else cost(self.max_len)

  def in_words(self, answer: Float[np.ndarray, " E"], most: int) -> str:
    """Returns that the answer is an embedding, and what to do with it."""
    del most
    return (
      f"an embedding of {len(answer)} numbers; give --labels to compare it "
      "with texts"
    )

  def rows(self, answer: Float[np.ndarray, " E"]) -> list[dict[str, Any]]:
    """Raises ValueError: an embedding has no rows."""
    raise ValueError(
      f"The answer is {self.in_words(answer, 0)}, which a table can hold."
    )

  def further_programs(self) -> dict[str, base.Program]:
    """Returns the program of the text tower."""
    does = (
      "float32 [batch, E], embeddings of length 1. The inputs are tokens of "
      f"texts in the vocabulary {self.vocabulary.name!r}"
    )
    about = {}
    if self.vocabulary.rule:
      does += f", which is in the manifest. {self.vocabulary.rule}"
      about["vocabulary"] = self.vocabulary.describe()
    shape = (self.max_len,)
    program = base.Program(self.embed_texts, shape, jnp.int32, does, about)
    return {"texts": program}

  def logits(
    self, params: Any, cosines: Float[ArrayLike, "N M"]
  ) -> Float32[Array, "N M"]:
    """Returns the logits that the loss reads, from cosines of embeddings."""
    logits = jnp.exp(params["t"].reshape(())) * cosines
    return logits + params["b"].reshape(()) if "b" in params else logits

  def probabilities(self, logits: Float[Array, "N M"]) -> Float[Array, "N M"]:
    """Returns how probable texts are for each image, as the loss reads logits.

    By `softmax` the texts of an image exclude one another, by `sigmoid` each is
    right or wrong by itself.
    """
    if self.loss_name == "sigmoid":
      return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits, axis=-1)

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[
    Float32[Array, ""], tuple[dict[str, jax.Array], Float32[Array, "b E"]]
  ]:
    """Returns this device's share of the loss, metrics, and the embeddings.

    Args:
      params: of the model.
      batch: the result of `prepare`.
      key: drives dropout.
      setting: of the dials.
      parallel: shares the batch among devices; None for a batch on one.

    Returns:
      The loss, whose mean over devices is that of the batch; the metric
      `temperature` and, if there is one, `bias`; embeddings of the images.
    """
    zimg, out = self._trained(
      params, key, setting, batch[self.model.input], batch[TOKENS]
    )
    metrics = {"temperature": out["t"].reshape(())}
    towers = zimg, out["ztxt"], metrics["temperature"]
    if self.loss_name == "softmax":
      return softmax_loss(*towers, parallel), (metrics, zimg)
    metrics["bias"] = out["b"].reshape(())
    return sigmoid_loss(*towers, metrics["bias"], parallel), (metrics, zimg)
