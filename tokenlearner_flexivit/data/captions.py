"""The captions of a source, and the vocabulary that a preprocessing names."""

import contextlib
import functools
import itertools
from collections.abc import Container, Iterator
from typing import NamedTuple

from absl import logging

from tokenlearner_flexivit.data import preprocess, vocabulary
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.ops import text as text_ops
from tokenlearner_flexivit.data.sources.base import Source

# Entries of examples that hold captions, the first that exists.
_ENTRIES = ("captions", "caption")
# Words that are false for a mirrored image, and how many captions are searched.
_SIDES = frozenset({"left", "right"})
_SAMPLE = 256


class Texts(NamedTuple):
  """The texts that a preprocessing turns into numbers.

  Attributes:
    max_len: number of ids of a text.
    vocabulary: name of the vocabulary.
  """

  max_len: int
  vocabulary: str


def vocabulary_of(pp: str) -> Texts:
  """Returns the length and the vocabulary of the texts in a preprocessing.

  Args:
    pp: the preprocessing string.

  Raises:
    ValueError: no op turns texts into numbers, or two do it differently.
  """
  steps = text_ops.tokenizing_steps(preprocess.parse(pp))
  known = {
    Texts(arguments["max_len"], arguments["vocabulary"])
    for arguments in (step.arguments() for step in steps)
  }
  if not known:
    raise ValueError(
      f"The preprocessing {pp!r} makes no tokens of texts. Put in "
      "choice|tokenize(MAX_LEN), or for an evaluation tokenize_all(MAX_LEN, "
      "'words', MOST)."
    )
  if len(known) > 1:
    raise ValueError(
      f"Texts differ in length or vocabulary in the preprocessing {pp!r}: "
      f"{' and '.join(step.text for step in steps)}."
    )
  return known.pop()


def entry_of(pp: str) -> str:
  """Returns the entry of a source's examples whose texts become tokens.

  Args:
    pp: the preprocessing string.

  Raises:
    ValueError: `vocabulary_of` raises it.
  """
  vocabulary_of(pp)
  key = None
  for step in reversed(preprocess.parse(pp).steps):
    if step.op not in (
      text_ops.tokenize,
      text_ops.tokenize_all,
      text_ops.choice,
      label_ops.copy,
    ):
      continue
    arguments = step.arguments()
    is_last = key is None and "vocabulary" in arguments
    if is_last or arguments["outkey"] == key:
      key = arguments["inkey"]
  return key


def captions_of(source: Source, key: str | None = None) -> Iterator[str]:
  """Yields all captions of a source, without decoding images.

  What is no text, such as bytes that are no UTF-8, is left out here: the
  pipeline names it as a corrupt example.

  Args:
    source: the source.
    key: the entry of an example with its captions, as `entry_of` returns it; by
      default "captions", or else "caption".

  Raises:
    ValueError: examples have no such entry.
  """
  if key is None:
    example = source[0]
    key = next((name for name in _ENTRIES if name in example), _ENTRIES[0])
  for value in source.entries(key):
    with contextlib.suppress(ValueError):
      yield from text_ops.texts_in(value)


def check_mirrors(
  parsed: preprocess.Preprocess, source: Source, kept: Container[str]
) -> None:
  """Raises ValueError if images are mirrored and their captions then are false.

  If captions are not known to be false, but some say left or right, it warns.

  Args:
    parsed: the preprocessing.
    source: the source of the examples.
    kept: entries that preprocessed examples have.
  """
  mirrors = [step.text for step in parsed.steps if step.mirrors]
  steps = text_ops.tokenizing_steps(parsed)
  outkeys = [step.arguments()["outkey"] for step in steps]
  if not mirrors or not any(key in kept for key in outkeys):
    return
  if source.mirror_error:
    raise ValueError(
      f"{mirrors[0]} in the preprocessing {parsed.text!r} mirrors images, and "
      f"their captions would be false: {source.mirror_error}. Take "
      f"{mirrors[0]} out."
    )
  sample = itertools.islice(captions_of(source, entry_of(parsed.text)), _SAMPLE)
  for text in sample:
    if not _SIDES.isdisjoint(vocabulary.split_words(text)):
      _warn_of_sides(source.name, mirrors[0], text)
      return


@functools.cache  # A run opens its data several times.
def _warn_of_sides(name: str, mirror: str, text: str) -> None:
  logging.warning(
    "%s mirrors images of %s, and captions may then be false: one says %r.",
    *(mirror, name, text),
  )


def make_vocabulary(
  pp: str, source: Source, most: int = 32_000
) -> vocabulary.Vocabulary:
  """Returns the vocabulary that a training's preprocessing names.

  Args:
    pp: the preprocessing string.
    source: source of the training, whose captions make the vocabulary `words`.
    most: greatest number of words.

  Raises:
    ValueError: `vocabulary_of`, `vocabulary.open_named` or
      `vocabulary.from_captions` raises it.
  """
  name = vocabulary_of(pp).vocabulary
  if name != vocabulary.WORDS:
    return vocabulary.open_named(name)
  return vocabulary.from_captions(captions_of(source, entry_of(pp)), most)
