"""Vocabularies: words, SentencePiece models and CLIP's byte pairs."""

import json
import pickle
import sys

import ml_collections
import numpy as np
import pytest

from tokenlearner_flexivit.data import vocabulary

CAPTIONS = ["A large red circle, tilted left.", "A red square!", "a CIRCLE"]


@pytest.mark.parametrize(
  "text, words",
  [
    ("A large red circle, tilted left.", "a large red circle tilted left"),
    ("a cat's bed, 'quoted' & re-made_2", "a cat's bed quoted re made 2"),
    ("Don\u2019t", "don't"),
    # One letter, or a letter and an accent.
    ("CAF\u00c9 cafe\u0301", "caf\u00e9 caf\u00e9"),
    # Vowels of Hindi are marks on the letters before them.
    (
      "\u0939\u093f\u0928\u094d\u0926\u0940 \u0964",
      "\u0939\u093f\u0928\u094d\u0926\u0940",
    ),
    ("\u2764\ufe0f ...", ""),
  ],
)
def test_words_are_runs_of_letters_and_digits(text, words):
  assert vocabulary.split_words(text) == words.split()


def test_words_are_numbered_by_count_then_alphabet():
  words = vocabulary.from_captions(CAPTIONS)
  assert words.words == (
    *("a", "circle", "red"),
    *("large", "left", "square", "tilted"),
  )
  assert (words.size, words.end, words.padding) == (10, 1, 1)
  assert words.encode("A red, RED thing") == [3, 5, 5, 2]
  assert vocabulary.from_captions(CAPTIONS, most=2).words == ("a", "circle")
  with pytest.raises(ValueError, match="have no words"):
    vocabulary.from_captions(["..."])


def test_the_end_stays_when_a_text_is_cut():
  words = vocabulary.from_captions(CAPTIONS)
  np.testing.assert_array_equal(words.tokens("a red", 4), [3, 5, 1, 1])
  np.testing.assert_array_equal(words.tokens("a red", 3), [3, 5, 1])
  np.testing.assert_array_equal(words.tokens("a red", 2), [3, 1])
  assert words.tokens("a", 4).dtype == np.int32


@pytest.mark.parametrize("text", ["", " ", "...", "-"])
def test_a_text_must_have_a_word(text):
  for known in (vocabulary.from_captions(CAPTIONS), vocabulary.Clip()):
    with pytest.raises(ValueError, match="has no word"):
      known.tokens(text, 4)


def test_words_come_back_from_json():
  words = vocabulary.from_captions(CAPTIONS)
  described = json.loads(json.dumps(words.describe()))
  assert vocabulary.from_json(described) == words
  assert vocabulary.from_json(list(words.words)) == words
  assert vocabulary.from_json(ml_collections.ConfigDict(described)) == words
  words.encode("a")
  assert pickle.loads(pickle.dumps(words)) == words
  assert vocabulary.open_named("words", words) is words


@pytest.mark.parametrize(
  "value", ["a cat", 3, {}, {"name": "words"}, ["a", ""], {"name": "bert"}]
)
def test_no_vocabulary(value):
  with pytest.raises(ValueError, match="is a list of words, or what"):
    vocabulary.from_json(value)


def test_a_word_has_one_number():
  with pytest.raises(ValueError, match="'b' twice"):
    vocabulary.from_json(["a", "b", "b"])


@pytest.mark.parametrize("name", ["bert", "sentencepiece:", "Words", ""])
def test_unknown_names(name):
  with pytest.raises(ValueError, match=f"no vocabulary '{name}': expected"):
    vocabulary.open_named(name)


def test_clip_has_the_ids_that_clip_has():
  pytest.importorskip("instant_clip_tokenizer")
  clip = vocabulary.open_named("clip")
  cat = [49406, 320, 1125, 539, 320, 2368, 49407]
  np.testing.assert_array_equal(
    clip.tokens("A photo of a CAT", 9), [*cat, 0, 0]
  )
  np.testing.assert_array_equal(
    clip.tokens("a photo of a cat", 4), [49406, 320, 1125, 49407]
  )
  # Captions from the web have escapes, sometimes twice.
  assert clip.encode("cat &amp;amp; dog ") == clip.encode("cat & dog")
  assert (clip.size, clip.end, clip.padding) == (49_408, 49_407, 0)
  assert pickle.loads(pickle.dumps(clip)) == clip
  assert vocabulary.from_json(clip.describe()) == clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """The path of a tiny SentencePiece model with the numbers of T5's."""
  sentencepiece = pytest.importorskip("sentencepiece")
  path = tmp_path_factory.mktemp("sentencepiece") / "tiny.model"
  with path.open("wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([text.lower() for text in CAPTIONS] * 8),
      model_writer=file,
      vocab_size=24,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      minloglevel=2,
    )
  return path


def test_sentencepiece(model):
  import sentencepiece

  pieces = vocabulary.open_named(f"sentencepiece:{model}")
  assert vocabulary.from_json({"name": pieces.name}) == pieces
  peer = sentencepiece.SentencePieceProcessor(model_file=str(model))
  assert (pieces.size, pieces.end, pieces.padding) == (24, 1, 1)
  ids = peer.encode("a red circle")
  assert pieces.encode("A red Circle") == ids
  row = pieces.tokens("A red Circle", len(ids) + 3)
  np.testing.assert_array_equal(row, [*ids, 1, 1, 1])
  assert peer.decode(ids) == "a red circle"
  # As TensorFlow's, which big_vision calls.
  assert pieces.encode("\u00c9") == peer.encode("\u00c9")


def test_sentencepiece_comes_back_without_its_file(model, monkeypatch):
  pieces = vocabulary.open_named(f"sentencepiece:{model}")
  pieces.encode("a")
  assert pickle.loads(pickle.dumps(pieces)) == pieces
  described = json.loads(json.dumps(pieces.describe()))
  # A larger model is read from its file again.
  monkeypatch.setattr(vocabulary, "_MOST_BYTES", 10)
  digest = pieces.describe()
  assert "model" not in digest
  assert vocabulary.from_json(digest) == pieces
  moved = model.rename(model.with_suffix(".moved"))
  try:
    vocabulary._open_file.cache_clear()
    restored = vocabulary.from_json(described)
    assert restored.encode("a red circle") == pieces.encode("a red circle")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
      vocabulary.from_json(digest)
    model.write_bytes(b"another")
    with pytest.raises(
      ValueError, match="is not the file with which the model"
    ):
      vocabulary.from_json(digest)
    vocabulary._open_file.cache_clear()
    other = vocabulary.open_named(f"sentencepiece:{model}")
    with pytest.raises(ValueError, match="is no SentencePiece model"):
      _ = other.size
  finally:
    moved.rename(model)
    vocabulary._open_file.cache_clear()


@pytest.mark.parametrize(
  "module, known",
  [
    ("sentencepiece", vocabulary.SentencePiece("sentencepiece:x", b"")),
    ("instant_clip_tokenizer", vocabulary.Clip()),
  ],
)
def test_a_missing_package_is_named(module, known, monkeypatch):
  monkeypatch.setitem(sys.modules, module, None)
  vocabulary._clip_tokenizer.cache_clear()
  with pytest.raises(ImportError, match=r"pip install '.*\[text\]'"):
    known.encode("a cat")
