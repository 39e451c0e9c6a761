"""Preprocessing ops on texts."""

import pickle

import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import vocabulary
from tokenlearner_flexivit.data.ops import text as text_ops

WORDS = vocabulary.Words(("a", "cat", "dog"))


def run(pp, example, rng=None):
  return text_ops.bind(data.parse(pp), WORDS)(example, rng)


@pytest.mark.parametrize(
  "caption",
  [
    *("A cat.", b"A cat.", np.bytes_(b"A cat."), np.str_("A cat.")),
    *(["A cat."], np.array([b"A cat."], object), np.array(b"A cat.", object)),
    *({"text": [b"A cat."], "id": [1]}, [{"text": "A cat.", "id": 1}]),
  ],
)
def test_a_caption_becomes_numbers(caption):
  example = run("tokenize(4)|keep('tokens')", {"caption": caption})
  np.testing.assert_array_equal(example["tokens"], [3, 4, 1, 1])
  assert example["tokens"].dtype == np.int32


def test_unknown_words_are_allowed():
  example = run("tokenize(4,inkey='x',outkey='y')", {"x": "une chatte"})
  np.testing.assert_array_equal(example["y"], [2, 2, 1, 1])


def test_choice_takes_every_caption_as_often():
  captions, rng = ["a", "b", "c", "d"], np.random.default_rng(0)
  drawn = [
    run("choice", {"captions": captions}, rng)["caption"] for _ in range(400)
  ]
  counts = [drawn.count(caption) for caption in captions]
  # Four standard deviations of a binomial distribution.
  assert sum(counts) == 400
  assert max(abs(count - 100) for count in counts) < 4 * (400 * 3 / 16) ** 0.5
  assert run("choice", {"captions": b"a"}, rng)["caption"] == "a"


def test_all_captions():
  pp = "tokenize_all(3,'words',3)"
  example = run(pp, {"captions": {"text": ["a cat", "A dog and a cat"]}})
  np.testing.assert_array_equal(
    example["texts"], [[3, 4, 1], [3, 5, 1], [1, 1, 1]]
  )
  np.testing.assert_array_equal(example["text_mask"], [1, 1, 0])
  assert example["texts"].dtype == np.int32
  assert example["text_mask"].dtype == np.float32
  single = run("tokenize_all(3,'words',1,inkey='c')", {"c": "a cat"})
  np.testing.assert_array_equal(single["texts"], [[3, 4, 1]])


@pytest.mark.parametrize(
  "pp, example, error",
  [
    ("tokenize(4)", {"caption": b"caf\xe9"}, r"b'caf\\xe9' is no UTF-8"),
    ("tokenize(4)", {"caption": "..."}, r"the text '...' has no word"),
    ("tokenize(4)", {"caption": ["a", "b"]}, "2 texts: choose one by choice"),
    ("tokenize(4)", {"captions": "a"}, r"no 'caption'; it has \['captions'\]"),
    ("tokenize(4)", {"caption": 3}, "3 is no text, nor a list of texts"),
    ("choice", {"captions": []}, "'captions' is empty"),
    (
      "tokenize_all(4,'words',2)",
      {"captions": ["a", "b", "c"]},
      "3 texts, more than most=2",
    ),
    ("tokenize_all(4,'words',2)", {"captions": ["a", "!"]}, "'!' has no word"),
  ],
)
def test_captions_that_cannot_be_used(pp, example, error):
  with pytest.raises(ValueError, match=error):
    run(pp, example, np.random.default_rng(0))


@pytest.mark.parametrize(
  "pp, error",
  [
    ("tokenize(1)", "at least 2, not 1"),
    ("tokenize(2,'clip')", "at least 3, not 2"),
    ("tokenize(8,'bert')", "no vocabulary 'bert'"),
    ("tokenize(8,run_vocabulary=None)", "unexpected keyword argument"),
    ("tokenize_all(8,'words',0)", "at least 1, not 0"),
    ("tokenize_all(8,'words',1,outkey='text_mask')", "is the other result"),
  ],
)
def test_arguments(pp, error):
  with pytest.raises(ValueError, match=error):
    data.parse(pp)


def test_clip_has_room_for_both_ends():
  pytest.importorskip("instant_clip_tokenizer")
  tokens = run("tokenize(3,'clip')", {"caption": "a photo"})["tokens"]
  np.testing.assert_array_equal(tokens, [49406, 320, 49407])


def test_worker_processes_get_the_vocabulary():
  parsed = text_ops.bind(data.parse("tokenize(4)"), WORDS)
  parsed({"caption": "a"})
  example = pickle.loads(pickle.dumps(parsed))({"caption": "a dog"})
  np.testing.assert_array_equal(example["tokens"], [3, 5, 1, 1])


def test_images_alone_need_no_captions():
  parsed = data.parse("choice|tokenize(4)|value_range(0,1)").only("image")
  assert [step.text for step in parsed.steps] == ["value_range(0, 1)"]
