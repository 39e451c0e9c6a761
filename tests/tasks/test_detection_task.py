"""The task of detection: its errors, its targets, the places of its boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import dials, interop, models, tasks
from tokenlearner_flexivit.inference import images

NAMES = ["cat", "dog", "red ball"]
VOCABULARY = {"name": "words", "words": ["ball", "cat", "dog", "red"]}


def make_task(class_names=NAMES, vocabulary=VOCABULARY, **options):
  text = dict(width=8, depth=1, mlp_dim=8, num_heads=1)
  text |= dict(vocab_size=7, max_len=4)
  model = models.create(
    name="owl_vit", variant="mu", depth=1, patch_size=8, text=text
  )
  return tasks.create(
    dict(name="detection", **options),
    model=model,
    class_names=class_names,
    vocabulary=vocabulary,
  )


def batch():
  boxes = np.zeros((2, 3, 4), np.float32)
  boxes[:, 0] = [0.1, 0.2, 0.5, 0.8]
  boxes[0, 1] = [0, 0, 1, 1]
  labels = np.array([[0, 2, -1], [1, -1, -1]], np.int32)
  image = np.zeros((2, 16, 16, 3), np.float32)
  return dict(image=image, boxes=boxes, box_label=labels)


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(prompt="a photo"), "prompt='a photo' must be a text with one"),
    (dict(held_out=["bird"]), "held_out='bird' is unknown"),
    (dict(held_out=NAMES), "leaves no class to train"),
    (dict(held_out="cat"), r"held_out='cat' must be a list"),
    (dict(held_out=5), r"held_out=5 must be a list"),
    (dict(negatives=4), r"negatives=4 must be a whole number in \[1, 3\]"),
    (dict(box_weight=-1), r"box_weight=-1 must be a number in \[0, inf\)"),
    (dict(normalization="mean"), "normalization='mean' is unknown"),
    (
      dict(vocabulary={"name": "words", "words": ["cat", "dog"]}),
      "vocab_size=7, but the vocabulary 'words' of .* has 5 tokens",
    ),
  ],
)
def test_options_that_make_no_sense(options, words):
  with pytest.raises(ValueError, match=words):
    make_task(**options)


def test_weights_that_know_other_words_are_refused(monkeypatch):
  task, known = make_task(), {"name": "words", "words": list("abcd")}
  for vocabulary in (None, VOCABULARY):
    monkeypatch.setattr(interop, "vocabulary", lambda _, v=vocabulary: v)
    task.check_init("there")
  monkeypatch.setattr(interop, "vocabulary", lambda _: known)
  with pytest.raises(ValueError, match="'there' was trained with another"):
    task.check_init("there")


def test_names_that_the_vocabulary_does_not_tell_apart():
  with pytest.warns(match="No text of the training has 'zebra', so the"):
    make_task(class_names=["cat", "zebra"])
  with (
    pytest.warns(match="No text of the training has 'emu', 'yak', so the"),
    pytest.warns(match="reads 'yak' as 'emu', in its vocabulary"),
  ):
    make_task(class_names=["emu", "cat", "yak"])
  with pytest.warns(match="reads 'red_ball' as 'Red ball'.* at most 4 tokens"):
    make_task(class_names=["Red ball", "red_ball"])


def test_boxes_that_are_none_are_refused():
  task, good = make_task(), batch()
  task.check_batch(good)
  for key, value, words in (
    ("boxes", [5, 5, 20, 20], r"gives the box \[5.0, 5.0, 20.0, 20.0\]"),
    ("boxes", [0.5, 0.5, 0.5, 0.9], "have an area"),
    ("boxes", [np.nan, 0, 1, 1], "gives the box"),
    ("box_label", 3, "the label 3, but the classes are 0 to 2"),
  ):
    wrong = {**good, key: good[key].copy()}
    wrong[key][0, 0] = value
    with pytest.raises(ValueError, match=words):
      task.check_batch(wrong)
  with pytest.raises(ValueError, match="Make both by objects"):
    task.check_batch({**good, "box_label": good["box_label"][:, :2]})


def test_targets_leave_held_out_classes_out():
  placed = jax.tree.map(jnp.asarray, batch())
  prepared = make_task(held_out=["dog"]).prepare(placed, jax.random.key(0))
  np.testing.assert_array_equal(
    prepared["classes"],
    [[[1, 0, 0], [0, 0, 1], [0] * 3], [[0] * 3, [0] * 3, [0] * 3]],
  )
  np.testing.assert_array_equal(prepared["counts"], [[1, 0, 1]] * 2)
  np.testing.assert_allclose(
    prepared["boxes"][0, 0], [0.5, 0.3, 0.6, 0.4], rtol=1e-6
  )
  # Those that are there always count, of the others as many as are drawn.
  task = make_task(negatives=1)
  drawn = [
    np.asarray(task.prepare(placed, jax.random.key(i))["counts"])
    for i in range(20)
  ]
  assert {tuple(counts[1]) for counts in drawn} == {
    (1, 1, 0),
    (0, 1, 0),
    (0, 1, 1),
  }
  shared = make_task(normalization="global").prepare(placed, jax.random.key(0))
  np.testing.assert_allclose(shared["numbers"], [[1.5, 1.5]] * 2)


def test_more_boxes_than_predictions_are_told():
  task = make_task()
  params = task.init(jax.random.key(0), (16, 16, 3))
  placed = jax.tree.map(jnp.asarray, batch())
  prepared = task.prepare(placed, jax.random.key(0))
  with pytest.raises(ValueError, match="1 predictions, fewer than the 3 place"):
    jax.eval_shape(
      lambda p: task.loss(
        p, prepared, jax.random.key(1), dials.Setting(patch_size=(16, 16))
      )[0],
      params,
    )


@pytest.mark.parametrize("size", [(100, 50), (37, 80), (64, 64)])
@pytest.mark.parametrize(
  "pp", ["decode|resize_keep(48)|pad_to(48)", "decode|resize(48)"]
)
def test_boxes_are_those_of_the_original_to_half_a_pixel(size, pp):
  """A bright rectangle is where the box around its prepared image is."""
  height, width = size
  top, left, bottom, right = height // 4, width // 8, height // 2, width // 2
  image = np.zeros((height, width, 3), np.uint8)
  image[top:bottom, left:right] = 255
  prepare = images.Preparation(pp, (48, 48, 3), whole=True)
  seen, place = prepare.with_place(image)
  # Edges lie where the brightness is half.
  rows, columns = (seen[..., 0].max(axis=i) for i in (1, 0))
  edges = [_edges(line / line.max()) / 48 for line in (rows, columns)]
  (ymin, ymax), (xmin, xmax) = edges
  answer = make_task().restore(
    {
      "boxes": np.array([[ymin, xmin, ymax, xmax]], np.float32),
      "scores": np.array([0.9]),
      "labels": np.array([1]),
    },
    place,
  )
  np.testing.assert_allclose(
    answer["boxes"], [[left, top, right, bottom]], atol=0.51 * max(size) / 48
  )
  assert make_task().in_words(answer, 3).startswith("dog 90.0 % (")


def _edges(line):
  """Returns where a bright run begins and ends, between the pixels."""
  bright = np.flatnonzero(line > 0)
  return np.array(
    [bright[0] + 1 - line[bright[0]], bright[-1] + line[bright[-1]]]
  )


def test_the_best_pairs_come_first():
  """Each box with each name, as the scores order them."""
  task = make_task(top=4)
  params = task.init(jax.random.key(0), (16, 16, 3))
  image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
  setting = dials.Setting(patch_size=(8, 8))
  params = jax.tree.map(lambda x: x + 0.1, params)
  answer = jax.jit(functools.partial(task.predict, setting=setting))(
    params, {"image": image.astype(jnp.float32)}
  )
  assert answer["boxes"].shape == (2, 4, 4)
  assert (np.diff(answer["scores"], axis=1) <= 0).all()
  assert answer["labels"].max() < 3
