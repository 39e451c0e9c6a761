"""Agreement: counts as they should be, and ensembles of equal cost."""

import functools
import json

import jax
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, interop, models
from tokenlearner_flexivit.analysis import agreement, agreement_figure
from tokenlearner_flexivit.inference import runs

COARSE, MIDDLE, FINE = (dials.Setting((p, p)) for p in (6, 4, 3))


def made(right, macs=(1, 2, 4), together=None, **attributes):
  """Answers of which it is said which are right; wrong ones are all alike."""
  right = np.array(right, bool)
  settings = (COARSE, MIDDLE, FINE)[: right.shape[1]]
  groups = ((COARSE, MIDDLE), settings) if right.shape[1] == 3 else (settings,)
  together = right[:, : len(groups)] if together is None else together
  return agreement.Answers(
    settings,
    groups,
    np.array(macs[: len(settings)]) * 10**9,
    right.astype(int),
    np.array(together).astype(int),
    np.ones(len(right), int),
    {k: np.array(v) for k, v in attributes.items()},
  )


def test_ensembles_are_compared_at_no_more_cost():
  # Right of four: 2, 3 and 4; together 4 and 0.
  answers = made(
    [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]],
    together=[[1, 0], [1, 0], [1, 0], [1, 0]],
  )
  pair, every = agreement.ensembles(answers)
  assert pair == {
    "name": "patch6+patch4",
    "accuracy": 1.0,
    "gmacs": 3.0,
    "single": "patch4",  # The finest costs 4.
    "single_accuracy": 0.75,
    "single_gmacs": 2.0,
  }
  assert every["gmacs"] == 7 and every["single"] == "patch3"
  assert (every["accuracy"], every["single_accuracy"]) == (0, 1)
  same = agreement.same_answers(answers)
  np.testing.assert_allclose(same[0], [1, 0.75, 0.5])
  np.testing.assert_allclose(same, same.T)


def test_every_example_is_of_one_kind():
  right = np.array(
    [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool
  )
  found = agreement.kinds(right)
  assert {k: np.flatnonzero(v).tolist() for k, v in found.items()} == {
    "all": [0],
    "none": [1],
    "only fine": [2],
    "only coarse": [3],
    "others": [4],
  }
  # Of three settings the middle one counts for neither side.
  found = agreement.kinds(np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0]], bool))
  assert found["only fine"].tolist() == [True, True, False]
  assert found["only coarse"].tolist() == [False, False, True]
  np.testing.assert_array_equal(sum(x.astype(int) for x in found.values()), 1)


def test_an_attribute_tells_who_is_right():
  right = [[0, 1]] * 6 + [[1, 1]] * 6
  answers = made(right, size=[0] * 5 + [1] + [1] * 5 + [0])
  found = agreement.by_attribute(answers, "size")
  assert found["parts"]["0"] == {
    "examples": 6,
    "only_fine": pytest.approx(5 / 6),
    "accuracy": [pytest.approx(1 / 6), 1.0],
  }
  assert found["kinds"]["only fine"]["mean"] == pytest.approx(1 / 6)
  assert found["kinds"]["only fine"]["error"] == pytest.approx(1 / 6)
  assert found["kinds"]["none"] == {"examples": 0, "mean": None, "error": None}
  assert found["correlation"] == pytest.approx(-2 / 3)
  # What does not vary has no correlation.
  assert (
    agreement.by_attribute(made(right, size=[1] * 12), "size")["correlation"]
    is None
  )
  named = agreement.by_attribute(answers, "size", ["fine", "coarse", "huge"])
  assert named["names"] == {"0": "fine", "1": "coarse"}


@pytest.mark.parametrize(
  "values, names",
  [
    (np.arange(3), ["0", "1", "2"]),
    (np.array([True, False]), ["False", "True"]),
    (np.float32([0.1, 0.25, 3]), ["0.1", "0.25", "3"]),
    (np.array([1000001, 1000002] * 5), ["1000001", "1000002"]),
    (np.float64([1e9 + 0.25, 1e9 + 0.5]), ["1000000000.25", "1000000000.5"]),
    (np.array([2**53, 2**53 + 1]), ["9007199254740992", "9007199254740993"]),
    (np.arange(100) / 7, ["0 to 3.43", "3.57 to 7", "7.14 to 10.6", None]),
    (10000 + np.arange(100), ["10000 to 10024", *[None] * 3]),
    (10000.0 + np.arange(100), ["10000 to 10024", *[None] * 3]),
    (1 + 1e-9 * np.arange(100), [None] * 4),
    (1e6 + np.float32(np.arange(100)) / 16, [None] * 4),
    (np.r_[[0] * 90, np.arange(1, 11)], ["0", "1 to 10"]),
  ],
)
def test_every_example_is_in_one_part(values, names):
  parts = agreement.parts_by_value(values)
  np.testing.assert_array_equal(
    sum(there.astype(int) for there in parts.values()), 1
  )
  assert len(parts) == len(names)
  for part, name in zip(parts, names, strict=True):
    assert name in (part, None)


def test_what_has_no_value_is_in_no_part():
  with pytest.raises(ValueError, match="2 of 3 examples have no finite value"):
    agreement.parts_by_value(np.array([0, np.nan, np.inf]))


def test_what_few_get_right_only_at_fine_settings_is_drawn():
  right = [[1, 1]] * 97 + [[0, 1]] * 3
  answers = made(right, size=[0] * 50 + [1] * 50)
  meanings = {"size": ["fine", "coarse"]}
  drawn = agreement_figure.draw(agreement.summary(answers, meanings))
  costs, same, above, below = drawn.axes
  # The bars have an axis of their own.
  assert max(bar.get_height() for bar in below.patches) == pytest.approx(6)
  assert below.get_ylim()[1] < 10
  texts = [text.get_text() for text in below.get_xticklabels()]
  assert texts == ["fine", "coarse"]
  assert same.get_xlabel() and same.get_ylabel()
  for axes in (costs, above):
    (size,) = {text.get_fontsize() for text in axes.get_legend().get_texts()}
    assert size >= 9


def test_answers_are_those_of_the_model(untrained_run):
  run = runs.open_run(untrained_run, "image")
  model, params, data = run.model, run.params, run.data
  images, given = runs.read_examples(data, 14), [COARSE, FINE]
  # Noise is all of one class, unless what all have in common is taken away.
  head, common = params["head"], logits_of(model, params, images, given)
  bias = head["bias"] - common.mean(axis=(0, 1))
  params = {**params, "head": {**head, "bias": bias}}
  batches = list(runs.read_batches(data, 14, 7, ["id"]))
  images = np.concatenate([batch["image"] for batch in batches])
  found = agreement.answer(model, params, batches, given[::-1])
  assert found.settings == (COARSE, FINE)  # From the cheapest on.
  assert found.macs[0] < found.macs[1]
  expected = jax.nn.softmax(logits_of(model, params, images, given))
  np.testing.assert_array_equal(found.single, expected.argmax(-1))
  np.testing.assert_array_equal(
    found.together[:, 0], expected.mean(axis=1).argmax(-1)
  )
  assert len(np.unique(found.single)) > 1
  assert sorted(found.attributes["id"]) == (np.arange(14) * 21 // 14).tolist()
  assert len(found.labels) == 14


def test_examples_without_a_label_are_left_out(untrained_run):
  run = runs.open_run(untrained_run, "image")

  def answer(labels):
    images = np.zeros((len(labels), 12, 12, 3), np.float32)
    batch = {"image": images, "label": labels, "id": np.arange(len(labels))}
    return agreement.answer(run.model, run.params, [batch], [COARSE, FINE])

  found = answer(np.array([-1, 2, 0, -1]))
  assert found.labels.tolist() == [2, 0]
  assert found.attributes["id"].tolist() == [1, 2]
  assert found.single.shape == (2, 2)
  for labels, words in (
    ([-1, -1], "No examples that have a label"),
    ([0, 5], "The split gives the label 5, .* are 0 to 4"),
    ([0.0, 1.0], "no label that is a class"),
  ):
    with pytest.raises(ValueError, match=words):
      answer(np.array(labels))


def logits_of(model, params, images, settings):
  @functools.partial(jax.jit, static_argnums=2)
  def apply(params, images, setting):
    return model.apply({"params": params}, images, **setting)[0]

  return np.stack([apply(params, images, s) for s in settings], axis=1)


@pytest.mark.slow
def test_the_command_draws_a_run(untrained_run, tmp_path):
  picture = tmp_path / "agreement.png"

  def command(*arguments):
    agreement.main(
      [f"--workdir={untrained_run}", f"--output={picture}", *arguments]
    )

  command("--attribute=id", "--num_images=21", "--batch_size=7")
  assert picture.stat().st_size > 10_000
  found = json.loads(picture.with_suffix(".json").read_text())
  assert [row["name"] for row in found["settings"]] == [
    "patch6",
    "patch4",
    "patch3",
  ]
  assert len(found["ensembles"]) == 4  # Three pairs, and all.
  assert sum(found["kinds"].values()) == found["examples"] == 21
  command("--attribute=label", "--num_images=21", "--batch_size=7")
  found = json.loads(picture.with_suffix(".json").read_text())
  (by_label,) = found["attributes"]
  assert by_label["attribute"] == "label" and len(by_label["parts"]) > 1
  for arguments, words in (
    (["--attribute=scale"], "no number 'scale'.* have label, id"),
    (["--patch_sizes=6"], "at least two"),
    (["--batch_size=0"], "1 or more"),
  ):
    with pytest.raises(SystemExit, match=words):
      command(*arguments)


@pytest.mark.parametrize(
  "name, options, words",
  [
    ("segmenter", {}, "a Segmenter, which answers by logits of .* every pixel"),
    (
      "two_towers",
      {"text": dict(width=8, depth=1, num_heads=1, vocab_size=4, max_len=2)},
      "a TwoTowers, which answers by embeddings",
    ),
  ],
)
def test_weights_of_no_classifier_are_refused(tmp_path, name, options, words):
  """Files of `save_params` tell the model, but no task."""
  model = models.create(
    name,
    **dict(width=8, depth=1, num_heads=1, mlp_dim=8, posemb_grid=2),
    **dict(patch_size=6, num_classes=3) | options,
  )
  params = tiny.init(model, np.zeros((1, 12, 12, 3), np.float32))
  path = tmp_path / "model.safetensors"
  interop.save_params(params, path, model=model)
  with pytest.raises(SystemExit, match=words + ".*that a classifier answers"):
    agreement.main(
      [
        *(f"--init={path}", "--data=fake:12x12x3:3:8", "--patch_sizes=6,4"),
        f"--output={tmp_path / 'agreement.png'}",
      ]
    )


def test_what_is_not_a_number_is_no_answer(untrained_run):
  """Not the first class, which would be right for some images."""
  run = runs.open_run(untrained_run, "image")
  params = jax.tree.map(lambda x: np.full_like(x, np.nan), run.params)
  batch = {"image": np.zeros((2, 12, 12, 3), np.float32)}
  batch["label"] = np.zeros(2, np.int32)
  found = agreement.answer(run.model, params, [batch], [COARSE, FINE])
  assert not found.right.any() and (found.together == -1).all()
