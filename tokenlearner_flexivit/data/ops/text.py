"""Preprocessing ops on texts: they choose a caption and turn it into numbers.

A caption is a text or its bytes in UTF-8. Several captions are a list of texts,
as `coco:` has them, or a dict of lists with `text`, as TFDS's coco_captions. A
single text is a list of one.

The vocabulary `words` is made of the captions of a training, so that a string
cannot hold it: `data.settings` binds the run's to the ops.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit.data import preprocess, vocabulary
from tokenlearner_flexivit.data.ops import label
from tokenlearner_flexivit.data.preprocess import Example, register_op

# The parameter of these ops that a string cannot give.
_BOUND = "run_vocabulary"
# The entry of `tokenize_all` that tells which rows are captions.
TEXT_MASK = "text_mask"


def texts_in(value: Any) -> list[str]:
  """Returns the texts in an entry of an example.

  Args:
    value: a text, bytes in UTF-8, a list or array of such, a dict with a list
      under `text`, or a list of dicts with `text`.

  Raises:
    ValueError: it is something else, or bytes are no UTF-8.
  """
  if isinstance(value, Mapping) and "text" in value:
    value = value["text"]
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, str):
    return [str(value)]
  if isinstance(value, bytes):
    try:
      return [value.decode()]
    except UnicodeDecodeError:
      raise ValueError(f"the text {value[:80]!r} is no UTF-8") from None
  if isinstance(value, Sequence):
    return [text for item in value for text in texts_in(item)]
  shown = repr(value)[:80]
  raise ValueError(f"{shown} is no text, nor a list of texts")


def _texts(example: Example, key: str) -> list[str]:
  """Returns the texts under `key`, at least one."""
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  texts = texts_in(example[key])
  if not texts:
    raise ValueError(f"the example has no text: {key!r} is empty")
  return texts


@register_op(entries=("inkey", "outkey"))
def choice(
  example: Example,
  rng: np.random.Generator,
  inkey: str = "captions",
  outkey: str = "caption",
) -> Example:
  """Chooses one of several texts at random, each with the same probability.

  Args:
    example: has texts under `inkey`.
    rng: generator of the random numbers.
    inkey: where the texts are.
    outkey: where the chosen text is put.
  """
  texts = _texts(example, inkey)
  return {**example, outkey: texts[int(rng.integers(len(texts)))]}


def _check_length(max_len: int, vocabulary: str) -> None:
  _check_vocabulary(vocabulary)
  least = 3 if vocabulary == "clip" else 2
  if max_len < least:
    raise ValueError(
      f"max_len is the number of ids of a text, with those of its ends: at "
      f"least {least}, not {max_len}"
    )


def _check_vocabulary(name: str) -> None:
  vocabulary.check_name(name)


def _check_most(most: int) -> None:
  if most < 1:
    raise ValueError(f"most is the number of rows, at least 1, not {most}")


def _check_outkey(inkey: str, outkey: str) -> None:
  if outkey == TEXT_MASK:
    raise ValueError(f"{TEXT_MASK!r} is the other result")


# In the functions below, the parameter `vocabulary` hides the module.
_open = vocabulary.open_named


@register_op(check=_check_length, entries=("inkey", "outkey"), bound=(_BOUND,))
def tokenize(
  example: Example,
  max_len: int,
  vocabulary: str = "words",
  inkey: str = "caption",
  outkey: str = "tokens",
  *,
  run_vocabulary: vocabulary.Vocabulary | None = None,
) -> Example:
  """Turns a text into the ids of its words or pieces, and of its end.

  Args:
    example: has a text under `inkey`.
    max_len: number of ids. A longer text is cut before the last, which is the
      id of the end; a shorter one is padded.
    vocabulary: "words", "sentencepiece:/path/to.model" or "clip"; see
      `data.vocabulary`.
    inkey: where the text is.
    outkey: where the ids are put.
    run_vocabulary: the vocabulary of the run.

  Returns:
    The example with int32 [max_len] under `outkey`.

  Raises:
    ValueError: there are several texts, or the text has no word or is no UTF-8.
  """
  texts = _texts(example, inkey)
  if len(texts) > 1:
    raise ValueError(
      f"{inkey!r} has {len(texts)} texts: choose one by choice({inkey!r}, "
      "'caption'), or take all by tokenize_all"
    )
  opened = _open(vocabulary, run_vocabulary)
  return {**example, outkey: opened.tokens(texts[0], max_len)}


@register_op(
  check=(_check_length, _check_most, _check_outkey),
  entries=("inkey", "outkey"),
  writes=(TEXT_MASK,),
  bound=(_BOUND,),
)
def tokenize_all(
  example: Example,
  max_len: int,
  vocabulary: str,
  most: int,
  inkey: str = "captions",
  outkey: str = "texts",
  *,
  run_vocabulary: vocabulary.Vocabulary | None = None,
) -> Example:
  """Turns all texts of an example into ids, for evaluations.

  Args:
    example: has one or more texts under `inkey`.
    max_len: number of ids of each text, as for `tokenize`.
    vocabulary: as for `tokenize`.
    most: number of rows, and the greatest number of texts.
    inkey: where the texts are.
    outkey: where the ids are put.
    run_vocabulary: the vocabulary of the run.

  Returns:
    The example with int32 [most, max_len] under `outkey`, rows of padding
    behind the texts, and under `text_mask` float32 [most], 1 for texts.

  Raises:
    ValueError: there are more texts than `most`, or a text has no word or is no
      UTF-8.
  """
  texts = _texts(example, inkey)
  if len(texts) > most:
    raise ValueError(
      f"{inkey!r} has {len(texts)} texts, more than most={most}: set most to "
      "the greatest number"
    )
  opened = _open(vocabulary, run_vocabulary)
  rows = np.full((most, max_len), opened.padding, np.int32)
  for row, text in zip(rows, texts, strict=False):
    row[:] = opened.tokens(text, max_len)
  mask = (np.arange(most) < len(texts)).astype(np.float32)
  return {**example, outkey: rows, TEXT_MASK: mask}


TOKENIZING = (tokenize, tokenize_all)


def tokenizing_steps(
  parsed: preprocess.Preprocess,
) -> list[preprocess.Step]:
  """Returns the steps that turn texts into ids."""
  return [step for step in parsed.steps if step.op in TOKENIZING]


def without_texts(parsed: preprocess.Preprocess) -> preprocess.Preprocess:
  """Returns the preprocessing without the ids of texts, for images alone."""
  steps, gone = [], {TEXT_MASK}
  for step in parsed.steps:
    if step.op in TOKENIZING:
      gone.add(step.arguments()["outkey"])
    elif step.op in (label.keep, label.drop):
      names = tuple(name for name in step.args if name not in gone)
      steps.append(dataclasses.replace(step, args=names))
    else:
      steps.append(step)
  return dataclasses.replace(parsed, steps=tuple(steps))


def open_vocabularies(
  parsed: preprocess.Preprocess, *, with_words: bool
) -> None:
  """Opens the vocabularies of a preprocessing, to see errors early.

  Args:
    parsed: the preprocessing.
    with_words: whether the vocabulary of a run must be there already, if it is
      named.

  Raises:
    ValueError: a vocabulary cannot be read, or `words` is not there.
    ImportError: a package is not installed.
  """
  for step in tokenizing_steps(parsed):
    arguments = step.arguments()
    name = arguments["vocabulary"]
    if with_words or name != vocabulary.WORDS:
      try:
        _ = _open(name, arguments[_BOUND]).size
      except ImportError as error:
        raise ImportError(f"{step.text}: {error}") from None
      except ValueError as error:
        raise ValueError(f"{step.text}: {error}") from None


def bind(
  parsed: preprocess.Preprocess, known: vocabulary.Vocabulary
) -> preprocess.Preprocess:
  """Returns the preprocessing whose ops have the vocabulary of the run."""
  return parsed.bound(**{_BOUND: known})
