"""Checks that a text tower reads the vocabulary of a run."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import interop
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.interop import text_tower


def section(model: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the section of a text tower in `config.model`, perhaps empty.

  Raises:
    ValueError: it is no section.
  """
  text = configuration.value(model, "text", {})
  if not isinstance(text, Mapping):
    raise ValueError(
      f"config.model.text={text!r} must be a section: keys with values, such "
      "as dict(variant='S')."
    )
  return dict(text)


def check_size(
  model: Any, vocabulary: vocabularies.Vocabulary, where: str
) -> None:
  """Raises ValueError for a text tower with another number of tokens.

  Args:
    model: has the arguments of its text tower in `text`.
    vocabulary: of the run.
    where: the key that names the vocabulary, for errors.
  """
  text = getattr(model, "text", None) or {}
  if text.get("vocab_size", vocabulary.size) != vocabulary.size:
    raise ValueError(
      f"config.model.text.vocab_size={text['vocab_size']}, but the "
      f"vocabulary {vocabulary.name!r} of {where} has {vocabulary.size} "
      "tokens. Leave it out; or for weights to start from, name the vocabulary "
      "that they were trained with."
    )


def check_weights(
  source: str | os.PathLike,
  model: Any,
  vocabulary: vocabularies.Vocabulary,
  fresh: Sequence[str],
) -> None:
  """Raises ValueError if weights to start from know other words.

  Their numbers would stand for other words.

  Args:
    source: of the weights, `config.init`.
    model: has the arguments of its text tower in `text`.
    vocabulary: of the run.
    fresh: `config.init_fresh`. Nothing is compared if the embeddings of words
      are not taken from the weights.
  """
  if text_tower.EMBEDDING.startswith(tuple(fresh)):
    return
  known = interop.vocabulary(source)
  if known is None or "vocab_size" not in (model.text or {}):
    return
  if known != vocabulary.describe():
    raise ValueError(
      f"config.init={os.fspath(source)!r} was trained with another "
      f"vocabulary ({known['name']!r}). Set config.data.vocabulary to "
      "interop.vocabulary(config.init), as configs/captions.py does."
    )


def warn_of_equal(
  names: Sequence[str], tokens: Int[np.ndarray, "K *texts L"]
) -> None:
  """Warns of the first two names that a text tower reads as the same.

  Args:
    names: as a person gave them.
    tokens: of each name, or of several texts with it.
  """
  first = {}
  for name, row in zip(names, tokens, strict=True):
    other = first.setdefault(row.tobytes(), name)
    if other != name:
      warnings.warn(
        f"The text tower reads {name!r} as {other!r}, in its vocabulary and "
        f"at most {row.shape[-1]} tokens, so that nothing tells them apart. "
        "Give other names.",
        stacklevel=3,
      )
      return
