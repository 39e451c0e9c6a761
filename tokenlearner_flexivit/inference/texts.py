"""The texts of a model of images and texts: embeddings, and similarity."""

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from tokenlearner_flexivit import dials, tasks
from tokenlearner_flexivit.inference import answers
from tokenlearner_flexivit.tasks import text_towers

# Texts of the largest program; smaller ones have powers of two.
_MAX_TEXTS = 64
# Embeddings that are kept: 3 kB each at width 768.
_MAX_KEPT = 1 << 16


def check_distinct(texts: Sequence[str], where: str) -> None:
  """Raises ValueError unless texts are a list of different ones.

  Args:
    texts: to choose from, or to look for.
    where: the argument that they come from.
  """
  if isinstance(texts, str) or not len(texts):
    raise ValueError(f"{where}={texts!r} must be a list of at least one text.")
  twice = [text for text, n in collections.Counter(texts).items() if n > 1]
  if twice:
    raise ValueError(
      f"{where} has {twice[0]!r} more than once. Give each text once."
    )


class Texts:
  """Embeds texts, and remembers the embeddings."""

  def __init__(self, task: tasks.Task, params: Any):
    """Compiles nothing yet.

    Args:
      task: of the model.
      params: of the model, on the device.
    """
    self._task, self._params = task, params
    self._kept: dict[str, np.ndarray] = {}

  @functools.cached_property
  def _program(self) -> Callable[[Any, np.ndarray], jax.Array]:
    return jax.jit(self._task.embed_texts)

  def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "M E"]:
    """Returns the embeddings of texts, of length 1.

    Raises:
      ValueError: the model has no text tower, there is no text, or one has no
        word.
    """
    if not hasattr(self._task, "embed_texts"):
      raise ValueError(
        f"The task of this model is {type(self._task).__name__}, which embeds "
        "no texts. Take a model of the task 'contrastive', such as "
        "configs/captions.py trains."
      )
    if isinstance(texts, str) or not texts:
      raise ValueError(f"texts={texts!r} must be a list of at least one text.")
    new = [text for text in dict.fromkeys(texts) if text not in self._kept]
    for start in range(0, len(new), _MAX_TEXTS):
      part = new[start : start + _MAX_TEXTS]
      tokens = self._task.tokenize(part)
      size = 1 << (len(part) - 1).bit_length()
      padded = np.pad(tokens, ((0, size - len(part)), (0, 0)))
      embedded = jax.device_get(self._program(self._params, padded))
      self._kept.update(zip(part, embedded, strict=False))
    vectors = np.stack([self._kept[text] for text in texts])
    if len(self._kept) > _MAX_KEPT:
      self._kept.clear()
    return vectors

  def warn_of_equal(self, texts: Sequence[str]) -> None:
    """Warns of texts that the model reads as the same."""
    vocabulary, length = self._task.vocabulary, self._task.max_len
    tokens = [vocabulary.tokens(text, length) for text in texts]
    text_towers.warn_of_equal(texts, np.stack(tokens))

  def similarity(
    self,
    setting: dials.Setting,
    images: Float32[np.ndarray, "n E"],
    texts: Float32[np.ndarray, "M E"],
    errors: dict[int, str],
  ) -> answers.Similarity:
    """Returns how well texts describe images.

    Args:
      setting: at which the images were embedded.
      images: their embeddings, NaN for those that could not be read.
      texts: embeddings of length 1.
      errors: of images, by their number.
    """
    images = images / (np.linalg.norm(images, axis=1, keepdims=True) + 1e-8)
    cosines = images @ texts.T
    logits = self._task.logits(self._params, cosines)
    probabilities = np.asarray(self._task.probabilities(logits))
    return answers.Similarity(
      setting, cosines, np.asarray(logits), probabilities, errors
    )
