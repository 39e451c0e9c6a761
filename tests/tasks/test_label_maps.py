"""Label maps: at the size of the original image, in files, and in colours."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import decode, geometry
from tokenlearner_flexivit.evaluators import confusion
from tokenlearner_flexivit.figures import palette
from tokenlearner_flexivit.inference import images
from tokenlearner_flexivit.tasks import label_maps

RNG = np.random.default_rng(0)
NUM_CLASSES = 5


def test_they_are_what_the_evaluation_counts_at_the_original_size():
  logits = RNG.normal(size=(12, 14, NUM_CLASSES)).astype(np.float32)
  logits[2, 3, 1] = np.nan
  truth = RNG.integers(0, NUM_CLASSES, (1, 19, 9)).astype(np.int32)
  seen, shown = (11, 6), (17, 9)
  counted = np.arange(19)[None, :, None] < shown[0]
  expected = confusion.count_resized(
    jnp.asarray(logits[None]),
    jnp.asarray(truth),
    jnp.broadcast_to(counted, truth.shape),
    jnp.array([seen]),
    jnp.array([shown]),
  )
  place = geometry.Place(shown, geometry.window(0, 0, *shown, *seen), seen)
  classes = label_maps.best_classes(logits, place, NUM_CLASSES)
  assert (classes == NUM_CLASSES).any()  # Of pixels beside the NaN.
  matrix = confusion.count(
    jnp.asarray(truth[0, : shown[0]]),
    jnp.asarray(classes, jnp.int32),
    jnp.ones(shown, bool),
    NUM_CLASSES,
  )
  np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(
  ("pp", "size", "any_size"),
  [
    ("resize((24,36))", (60, 40), False),
    ("resize_small(36,'bilinear')|central_crop((24,36))", (60, 40), False),
    ("resize_keep(36)|pad_to((24,36))", (30, 90), False),
    ("value_range(-1,1)", (24, 36), False),
    ("value_range(-1,1)", (30, 30), False),  # Padded to the model's aspect.
    ("value_range(-1,1)", (70, 90), True),
  ],
)
def test_answers_lie_where_the_original_shows_them(pp, size, any_size):
  """An image in whose four quarters are classes, which a model would know."""
  height, width = size
  quarters = np.repeat(
    np.repeat([[0, 1], [2, 3]], height // 2, 0), width // 2, 1
  )
  values = np.array([20, 90, 160, 230])
  image = np.repeat(values[quarters][..., None], 3, axis=2).astype(np.uint8)
  prepare = images.Preparation(pp, (24, 36, 3), whole=True, any_size=any_size)
  prepared, place = prepare.with_place(image)
  assert place.size == size
  grey = prepared[..., :1]
  if "value" in pp:
    grey = (grey + 1) * 127.5
  classes = label_maps.best_classes(-abs(grey - values), place, 255)
  assert classes.shape == size and classes.dtype == np.uint8
  is_shown = classes != 255
  if "crop" in pp:  # 24 of 54 rows, and all columns.
    assert is_shown.any(1).sum() == 26 and is_shown.any(0).all()
  else:
    assert is_shown.all()
  # Between two quarters lie the values of others.
  inside = is_shown.copy()
  for axis, side in enumerate(size):
    middle = slice(side // 2 - 3, side // 2 + 3)
    inside[(middle, slice(None)) if axis == 0 else (slice(None), middle)] = 0
  assert inside.mean() > 0.25
  np.testing.assert_array_equal(classes[inside], quarters[inside])


def test_mirror_images_are_mirrored_back():
  logits = RNG.normal(size=(7, 8, NUM_CLASSES)).astype(np.float32)
  plain = geometry.Place((9, 8), geometry.window(0, 0, 9, 8, 7, 8), (7, 8))
  mirrored = plain._replace(
    matrix=plain.matrix * [[-1], [1]] + [[0, 0, 8], [0, 0, 0]]
  )
  np.testing.assert_array_equal(
    label_maps.best_classes(logits[:, ::-1], mirrored, 255),
    label_maps.best_classes(logits, plain, 255),
  )


def test_ops_that_hide_where_they_move_pixels_are_named():
  @data.register_op
  def cut_a_corner(example, *, key: str = "image"):
    return {**example, key: example[key][:8, :8]}

  prepare = images.Preparation("cut_a_corner|value_range", (8, 8, 3))
  image = np.zeros((10, 12, 3), np.uint8)
  assert prepare(image).shape == (8, 8, 3)
  with pytest.raises(
    ValueError, match=r"cut_a_corner in .* does not say where"
  ):
    prepare.with_place(image)


def test_rotations_are_refused():
  place = geometry.Place(
    (4, 4), np.array([[0.9, 0.1, 0], [-0.1, 0.9, 0]]), (4, 4)
  )
  with pytest.raises(ValueError, match="rotates or shears"):
    label_maps.best_classes(np.zeros((4, 4, 2), np.float32), place, 255)


@pytest.mark.parametrize(
  ("num_classes", "ignore", "mode", "absent"),
  [
    (3, 255, "P", 255),
    (3, -1, "P", 255),
    (256, 300, "I;16", 300),
    (700, 65535, "I;16", 65535),
  ],
)
def test_files_hold_class_numbers(tmp_path, num_classes, ignore, mode, absent):
  classes = RNG.integers(0, num_classes, (6, 9)).astype(np.int32)
  classes[0, :2] = ignore
  path = label_maps.write(classes, tmp_path / "a.b", num_classes, ignore)
  assert path.name == "a.b.png"
  with Image.open(path) as image:
    assert image.mode == mode
    shown = np.asarray(image.convert("RGB"))
  if mode == "P":
    inside = classes != ignore
    np.testing.assert_array_equal(
      shown[inside], palette.colors(num_classes)[classes[inside]]
    )
    assert (shown[~inside] == palette.NO_CLASS).all()
  read = decode.decode_ids({"mask": path.read_bytes()}, key="mask")["mask"]
  expected = np.where(classes == ignore, absent, classes)
  np.testing.assert_array_equal(read, expected)


def test_colors_stay_apart_for_the_colour_blind():
  for number, least in ((7, 0.07), (19, 0.07), (150, 0.01)):
    colors = palette.colors(number)
    np.testing.assert_array_equal(colors, palette.colors(256)[:number])
    seen = palette._as_seen(colors.astype(int))
    apart = np.stack(
      [palette._distances(seen, seen[:, i]) for i in range(number)]
    )
    assert apart[~np.eye(number, dtype=bool)].min() > least
