"""The task of images and texts: its errors, and how it reads texts."""

import re

import numpy as np
import pytest

from configs import lit
from tests import image_text
from tokenlearner_flexivit import interop, models, tasks
from tokenlearner_flexivit.train import setup

VOCABULARY = {"name": "words", "words": ["a", "cat", "dog"]}


def make_model(**options):
  text = dict(width=16, depth=1, mlp_dim=16, num_heads=2)
  text |= dict(vocab_size=6, max_len=5) | options.pop("text", {})
  return models.create(
    name="two_towers",
    variant="mu",
    depth=1,
    num_classes=8,
    text=text,
    **options,
  )


def make_task(model=None, **options):
  return tasks.create(
    dict(name="contrastive", **options),
    model=make_model() if model is None else model,
    vocabulary=VOCABULARY,
    max_len=5,
  )


@pytest.mark.parametrize(
  "model, options, words",
  [
    ({}, dict(loss="sigmoid"), "set config.model.bias_init=-10"),
    (dict(bias_init=-10.0), {}, "no effect on config.task.loss='softmax'"),
    ({}, dict(loss="triplet"), "config.task.loss='triplet' is unknown"),
    (
      dict(text=dict(vocab_size=9)),
      {},
      "vocab_size=9, but the vocabulary 'words' of config.data.pp has 6 tokens",
    ),
    (dict(text=dict(max_len=7)), {}, "max_len=7, but config.data.pp gives"),
  ],
)
def test_models_that_do_not_suit_the_loss_or_the_texts(model, options, words):
  with pytest.raises(ValueError, match=words):
    make_task(make_model(**model), **options)


@pytest.mark.parametrize("name", ["contrastive", "detection"])
@pytest.mark.parametrize("text", [3, "S", ["S"], False])
def test_a_text_tower_that_is_no_section(name, text):
  with pytest.raises(ValueError, match=r"config\.model\.text=.* a section"):
    tasks.TASKS[name].build_model({"variant": "mu/4", "text": text})


def test_texts_get_the_numbers_of_the_training():
  """Ids begin at 3, 2 is unknown, and 1 ends and fills."""
  task = make_task()
  tokens = task.tokenize(["A cat!", "a dog a dog a dog"])
  assert tokens.tolist() == [[3, 4, 1, 1, 1], [3, 5, 3, 5, 1]]
  with pytest.warns(match="No text of the training has 'zebra', so the"):
    assert task.tokenize(["a zebra"]).tolist() == [[3, 2, 1, 1, 1]]


def test_an_embedding_in_words():
  words = make_task().in_words(np.ones(8, np.float32), 5)
  assert words.startswith("an embedding of 8 numbers; give --labels")


def test_batches_that_teach_nothing_or_have_other_tokens():
  task = make_task()
  task.check_batch({"tokens": np.ones((2, 5), np.int32)})
  with pytest.raises(ValueError, match=r"config\.batch_size=1: a contrastive"):
    task.check_batch({"tokens": np.ones((1, 5), np.int32)})
  for tokens, words in (
    (np.ones((1, 4), np.int32), r"int32\[4\], but the model reads 5"),
    (np.ones((1, 5), np.float32), r"float32\[5\], but the model reads 5"),
    (np.full((1, 5), 6), "gives the token 6, but the vocabulary 'words' has"),
    (np.full((1, 5), -1), "gives the token -1, but"),
  ):
    with pytest.raises(ValueError, match=words):
      task.check_tokens(tokens, "config.data.pp")


def test_weights_that_know_other_words_are_refused(monkeypatch):
  """Their numbers would stand for other words."""
  task = make_task()
  known = {"name": "words", "words": ["a", "dog", "cat"]}
  for vocabulary in (None, VOCABULARY, known):
    monkeypatch.setattr(interop, "vocabulary", lambda source, v=vocabulary: v)
    if vocabulary is not known:
      task.check_init("there")
      continue
    with pytest.raises(ValueError, match="'there' was trained with another"):
      task.check_init("there", fresh=["txt/head"])
    task.check_init("there", fresh=["txt/"])  # None of its words is taken.


def test_a_vocabulary_may_be_given(tmp_path):
  config = image_text.make_config(image_text.write_pairs(tmp_path))
  config.evals = {}
  config.data.vocabulary = ["field", "red"]
  experiment = setup.Experiment(config)
  assert experiment.task.vocabulary.words == ("field", "red")
  assert experiment.data_section["vocabulary"] == ["field", "red"]
  config.accumulate = 2
  config.batch_size = 16
  with pytest.raises(
    ValueError, match=r"accumulate=2: the loss of Contrastive"
  ):
    setup.Experiment(config)


def test_a_locked_image_tower_is_all_but_what_was_added():
  names = "embedding/kernel", "MAPHead_0/probe", "Transformer/t/b", "cls"
  added = "txt/head/kernel", "head/kernel", "t", "b"
  pattern = re.compile(lit.IMAGE_TOWER)
  assert all(pattern.fullmatch(name) for name in names)
  assert not any(pattern.fullmatch(name) for name in added)
