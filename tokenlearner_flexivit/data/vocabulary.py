"""Vocabularies: they turn texts into the numbers that a text model sees.

A preprocessing string names one of these:

  `words`                    words of the training captions, numbered by
                             `from_captions`; needs no package and no file;
  `sentencepiece:/path`      a SentencePiece model, such as cc_en.32000 of T5,
                             with which big_vision trained LiT and SigLIP;
  `clip`                     the byte pairs of CLIP, which OWL-ViT has, too.

The last two need packages: pip install 'tokenlearner_flexivit[text]'.

A run and the weights that it exports keep what `describe` returns. `from_json`
restores the vocabulary from it, without the training captions; a SentencePiece
model is kept whole, so that its file is not needed either, unless it is larger
than any that is known (8 MB): then the file must lie where it was, unchanged.
"""

import abc
import base64
import collections
import dataclasses
import functools
import hashlib
import html
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from tokenlearner_flexivit import paths

WORDS = "words"
CLIP = "clip"
SENTENCEPIECE = "sentencepiece:"
# Numbers of `words`, in the places that T5's vocabularies have them: 0 pads
# texts of others, 1 ends and pads, 2 is any unknown word.
_END, _UNKNOWN, _FIRST = 1, 2, 3
# Models of 256,000 pieces have 4.2 MB.
_MOST_BYTES = 8 * 10**6
# Characters of a text that an error shows.
_SHOWN = 80
# Words that a warning names.
_MOST_WORDS = 8


class Vocabulary(abc.ABC):
  """Turns texts into ids in [0, size).

  Attributes:
    name: name of the vocabulary in preprocessing strings.
    size: number of ids.
    end: id that ends every text.
    padding: id that fills rows after the end.
    rule: how `describe` gives ids to words, for users of exports; "" if the
      name alone tells it.
  """

  name: str
  size: int
  end: int
  padding: int
  rule = ""

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, in lower case and without the end."""

  @abc.abstractmethod
  def describe(self) -> dict[str, Any]:
    """Returns JSON values from which `from_json` restores the vocabulary."""

  def unknown(self, text: str) -> list[str]:
    """Returns the words of a text that have no id of their own."""
    del text
    return []

  def warn_of_unknown(self, texts: Iterable[str]) -> None:
    """Warns of the words of texts that have no id of their own."""
    words = dict.fromkeys(w for text in texts for w in self.unknown(text))
    if words:
      more = ", ..." if len(words) > _MOST_WORDS else ""
      shown = ", ".join(map(repr, list(words)[:_MOST_WORDS]))
      warnings.warn(
        f"No text of the training has {shown}{more}, so the model knows "
        "nothing of what that means.",
        stacklevel=3,
      )

  def tokens(self, text: str, max_len: int) -> Int[np.ndarray, " L"]:
    """Returns the ids of a text with its end, cut or padded to a length.

    A text that is too long is cut before its last place, which holds the end
    ("sticky" in big_vision).

    Args:
      text: the text.
      max_len: number of ids.

    Returns:
      int32 [max_len].

    Raises:
      ValueError: the text has no letter and no digit.
    """
    if not any(map(str.isalnum, text)):
      raise ValueError(f"the text {text[:_SHOWN]!r} has no word")
    row = np.full(max_len, self.padding, np.int32)
    ids = [*self.encode(text)[: max_len - 1], self.end]
    row[: len(ids)] = ids
    return row

  def __getstate__(self) -> dict[str, Any]:
    # What is computed from the fields stays out of pickles: tokenizers of
    # other packages cannot be pickled to worker processes.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Words(Vocabulary):
  """Numbers words of captions.

  Attributes:
    words: the words with the ids 3, 4, ...
  """

  words: tuple[str, ...]
  rule = (
    f"The words of a text, in lower case, have the ids {_FIRST}, {_FIRST + 1}, "
    f"... in the order of `words`, others {_UNKNOWN}; {_END} ends a text and "
    "pads it"
  )
  name = WORDS
  end = _END
  padding = _END

  @property
  def size(self) -> int:
    """Returns the number of words and of the three ids before them."""
    return _FIRST + len(self.words)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text's words; 2 stands for unknown ones."""
    return [self._ids.get(word, _UNKNOWN) for word in split_words(text)]

  def unknown(self, text: str) -> list[str]:
    """Returns the words of a text that are none of `words`."""
    return [word for word in split_words(text) if word not in self._ids]

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: i for i, word in enumerate(self.words, _FIRST)}

  def describe(self) -> dict[str, Any]:
    """Returns the name and the words."""
    return {"name": self.name, "words": list(self.words)}


@dataclasses.dataclass(frozen=True)
class SentencePiece(Vocabulary):
  """Splits texts by a SentencePiece model.

  Texts are padded with the model's end of a sentence, which is 1 in T5's
  models, as big_vision does for LiT and SigLIP. Like there, only A to Z become
  lower case.

  Attributes:
    name: "sentencepiece:" and the path of the file.
    model: its content.
  """

  name: str
  model: bytes = dataclasses.field(repr=False)

  @functools.cached_property
  def _processor(self) -> Any:
    try:
      import sentencepiece
    except ImportError:
      raise _missing(self.name, "sentencepiece") from None
    try:
      processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
    except (RuntimeError, ValueError):
      raise ValueError(f"{self.name} is no SentencePiece model.") from None
    if processor.eos_id() < 0:
      raise ValueError(
        f"{self.name} has no id for the end of a text. Train it with one, such "
        "as by --eos_id=1."
      )
    return processor

  @functools.cached_property
  def size(self) -> int:
    """Returns the number of pieces."""
    return self._processor.get_piece_size()

  @functools.cached_property
  def end(self) -> int:
    """Returns the id of the end of a sentence."""
    return self._processor.eos_id()

  @property
  def padding(self) -> int:
    """Returns the id of the end of a sentence."""
    return self.end

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text's pieces."""
    lower = text.encode().lower().decode()  # Of bytes, A to Z alone.
    return self._processor.encode(lower)

  def describe(self) -> dict[str, Any]:
    """Returns the name and the model; of a very large one only its digest."""
    if len(self.model) > _MOST_BYTES:
      return {"name": self.name, "digest": _digest(self.model)}
    return {
      "name": self.name,
      "model": base64.b64encode(self.model).decode("ascii"),
    }


@dataclasses.dataclass(frozen=True)
class Clip(Vocabulary):
  """Splits texts by CLIP's byte pairs, between a start and an end.

  Escapes of HTML are resolved, as CLIP does. CLIP also repairs texts that were
  decoded by a wrong encoding, which is left out here.
  """

  name = CLIP
  size = 49_408
  end = 49_407
  padding = 0

  def encode(self, text: str) -> list[int]:
    """Returns the start, 49406, and the ids of a text's pieces."""
    text = html.unescape(html.unescape(text)).strip()
    tokenizer = _clip_tokenizer()
    return [tokenizer.start_of_text(), *tokenizer.encode(text)]

  def describe(self) -> dict[str, Any]:
    """Returns the name; the package holds all else."""
    return {"name": self.name}


@functools.cache
def _clip_tokenizer() -> Any:
  try:
    import instant_clip_tokenizer
  except ImportError:
    raise _missing(CLIP, "instant-clip-tokenizer") from None
  return instant_clip_tokenizer.Tokenizer()


def _missing(name: str, package: str) -> ImportError:
  return ImportError(
    f"The vocabulary {name!r} needs the package {package}: pip install "
    "'tokenlearner_flexivit[text]'. instant-clip-tokenizer has wheels for "
    "Python 3.11 and 3.12. The vocabulary 'words' needs no package."
  )


def split_words(text: str) -> list[str]:
  """Returns the words of a text in lower case.

  A word is a run of letters and digits of any script, with the marks on them
  and with apostrophes inside: "A cat's bed, re-made!" has a, cat's, bed, re and
  made. Everything else is dropped. Languages that write no blanks between words
  need another vocabulary.
  """
  text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
  words = (word.strip("'") for word in text.translate(_BLANKS).split())
  return [word for word in words if any(map(str.isalnum, word))]


class _Blanks(dict[int, str]):
  """Maps what is in no word to a blank, for `str.translate`."""

  def __missing__(self, code: int) -> str:
    character = chr(code)
    # Vowels of Indic scripts are marks; selectors of emoji's looks are, too.
    is_mark = unicodedata.category(character)[0] == "M"
    is_selector = "\ufe00" <= character <= "\ufe0f"
    is_kept = character.isalnum() or character == "'"
    if not (is_kept or (is_mark and not is_selector)):
      character = " "
    self[code] = character
    return character


_BLANKS = _Blanks()


def from_captions(captions: Iterable[str], most: int = 32_000) -> Words:
  """Returns the vocabulary of the words in captions.

  The most frequent word gets the first number; words that are equally frequent
  follow the alphabet.

  Args:
    captions: the captions of the training.
    most: greatest number of words; rarer ones are unknown.

  Raises:
    ValueError: there is no word.
  """
  counts = collections.Counter()
  for caption in captions:
    counts.update(split_words(caption))
  if not counts:
    raise ValueError("The captions have no words, so there is no vocabulary.")
  ranked = sorted(counts, key=lambda word: (-counts[word], word))
  return Words(tuple(ranked[:most]))


def check_name(name: str) -> None:
  """Raises ValueError unless a preprocessing string may name it."""
  is_file = name.startswith(SENTENCEPIECE) and name != SENTENCEPIECE
  if name not in (WORDS, CLIP) and not is_file:
    raise ValueError(
      f"there is no vocabulary {name!r}: expected 'words', 'clip' or "
      "'sentencepiece:/path/to.model'"
    )


def open_named(name: str, stored: Vocabulary | None = None) -> Vocabulary:
  """Returns a vocabulary by its name.

  Args:
    name: as in a preprocessing string.
    stored: the vocabulary of the run, which is taken if it has this name.

  Raises:
    ValueError: there is no such vocabulary, its file cannot be read, or it is
      `words` and not stored.
  """
  check_name(name)
  if stored is not None and stored.name == name:
    return stored
  if name == CLIP:
    return Clip()
  if name == WORDS:
    raise ValueError(
      "The vocabulary 'words' is made of the captions of a training, and none "
      "is given here. A task on texts gives it. Elsewhere pass the words as "
      "`vocabulary` of the data section, or name another vocabulary."
    )
  return _open_file(name)


@functools.lru_cache(maxsize=4)
def _open_file(name: str) -> SentencePiece:
  path = paths.local(name.removeprefix(SENTENCEPIECE), "sentencepiece")
  try:
    return SentencePiece(name, path.read_bytes())
  except OSError as error:
    raise ValueError(
      f"The vocabulary {name!r} cannot be read: {error.strerror or error}. "
      "Give the path of a SentencePiece model, such as T5's of cc_en.32000."
    ) from None


@functools.lru_cache(maxsize=4)
def _restore(name: str, model: str) -> SentencePiece:
  return SentencePiece(name, base64.b64decode(model))


def from_json(value: Any) -> Vocabulary:
  """Returns the vocabulary that `describe` described.

  Args:
    value: what `describe` returned; or a list of words, numbered from 3.

  Raises:
    ValueError: it is neither, or the file that it names is gone or changed.
  """
  if isinstance(value, Sequence) and not isinstance(value, str | bytes):
    value = {"name": WORDS, "words": value}
  try:
    value = dict(value)  # It may be a ConfigDict, which is no Mapping.
    name = value["name"]
    check_name(name)
  except (AttributeError, KeyError, TypeError, ValueError):
    raise _unreadable(value) from None
  if name == WORDS:
    return Words(_check_words(value))
  if name == CLIP:
    return Clip()
  if "model" in value:
    return _restore(name, value["model"])
  vocabulary = _open_file(name)
  # A config may name the file alone.
  if "digest" in value and _digest(vocabulary.model) != value["digest"]:
    raise ValueError(
      f"{name} is not the file with which the model was trained. Put that "
      "file there."
    )
  return vocabulary


def _check_words(value: Mapping[str, Any]) -> tuple[str, ...]:
  words = value.get("words")
  if not isinstance(words, Sequence) or not all(
    isinstance(word, str) and word for word in words
  ):
    raise _unreadable(value)
  repeated = [w for w, n in collections.Counter(words).items() if n > 1]
  if repeated:
    raise ValueError(
      f"A vocabulary must have each word once, not {repeated[0]!r} twice."
    )
  return tuple(words)


def _unreadable(value: Any) -> ValueError:
  return ValueError(
    "A vocabulary is a list of words, or what `describe()` returned, such as "
    f"{{'name': 'words', 'words': ['a', 'cat']}}, not {repr(value)[:_SHOWN]}."
  )


def _digest(model: bytes) -> str:
  return hashlib.blake2b(model, digest_size=16).hexdigest()
