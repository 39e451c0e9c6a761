"""Masks and boxes move with their image, by one draw.

Images whose pixels hold their own coordinates tell where an op took them from.
"""

import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import geometry, randaug

HEIGHT, WIDTH = 40, 48
FIRST = 1000  # Ids of pixels are from here on, so 255 is none of them.
OUTSIDE = -1e9

# Ops that draw between pixels, and ops that do not.
RESAMPLING = (
  "inception_crop((24,30),30",
  "resize((31,27)",
  "resize_small(25,'bilinear'",
  "resize_keep(33,'bilinear'",
  "scale_jitter(0.6,1.5",
)
COPYING = (
  "inception_crop(area_min=40",
  "pad_to(26)|random_crop((22,18)",
  "pad_to(30)|central_crop((19,23)",
  "flip_lr(",
  f"random_translate(3,{OUTSIDE}",
  f"pad_to(50,{OUTSIDE}",
)
ROTATING = (f"random_affine(20,0.1,(0.8,1.2),10,{OUTSIDE}",)


def coordinates(height=HEIGHT, width=WIDTH):
  """Returns an image [H, W, 2] whose pixels hold their centres (y, x)."""
  return np.stack(np.mgrid[:height, :width] + 0.5, axis=-1).astype(np.float32)


def ids(height=HEIGHT, width=WIDTH):
  """Returns a mask whose pixels have numbers of their own."""
  return FIRST + np.arange(height * width, dtype=np.int32).reshape(height, -1)


def places(mask, width=WIDTH):
  """Returns the (y, x) of the pixels that a moved mask shows."""
  return np.stack(np.divmod(mask - FIRST, width), axis=-1) + 0.5


def random_boxes(rng, count=6):
  corners = rng.random((count, 2, 2), np.float32)
  return np.concatenate([corners.min(1), corners.max(1)], axis=-1)


def spacing(image):
  """Returns how many pixels of the first image lie between neighbours."""
  down = np.abs(np.diff(image, axis=0)).reshape(-1, 2)
  across = np.abs(np.diff(image, axis=1)).reshape(-1, 2)
  return float((np.median(down, axis=0) + np.median(across, axis=0)).max())


def with_all(op):
  """Returns the op, or ops, that move the mask and the boxes along."""
  masks = "masks='mask'" if op[-1] == "(" else ",masks='mask'"
  first, bar, second = op.rpartition("|")
  first = first[:-1] + f",{OUTSIDE}" if first else ""
  first = first and f"{first},masks='mask',boxes='boxes')"
  return f"{first}{bar}{second}{masks},boxes='boxes')"


@pytest.mark.parametrize("is_rotated", [False, True])
def test_compositions_move_all_alike(is_rotated):
  rng = np.random.default_rng(int(is_rotated))
  pool = RESAMPLING + COPYING + ROTATING * (5 if is_rotated else 0)
  num_left = num_dropped = 0
  for seed in range(50):
    ops = rng.choice(pool, size=rng.integers(1, 5))
    pp = "|".join(map(with_all, ops))
    steps = []

    def watch(step, before, after, steps=steps):
      del after
      is_copy = any(
        name in step.text for name in ("area_min", "flip", "pad", "translate")
      ) or step.op.__name__ in ("random_crop", "central_crop")
      gap = spacing(before["image"])
      steps.append((0 if is_copy else gap, gap))

    boxes = random_boxes(rng)
    example = {
      "image": coordinates(),
      "mask": ids(),
      "boxes": boxes,
      "box_label": np.arange(len(boxes), dtype=np.int32),
      geometry.frame_key("image"): np.eye(2, 3),
    }
    result = data.parse(pp)(example, np.random.default_rng(seed), watch)
    image, mask = result["image"], result["mask"]
    assert mask.dtype == np.int32 and mask.shape == image.shape[:2]

    # Half a pixel of each image that was drawn between its pixels.
    is_inside = (image > 0).all(-1) & (mask != 255)
    error = np.abs(places(mask) - image)[is_inside].max(initial=0)
    assert error <= 0.5 * sum(gap for gap, _ in steps) + 0.05, pp
    # The frame leads from the original to where its pixels are now.
    frame = result[geometry.frame_key("image")]
    back = np.linalg.inv(np.concatenate([frame, [[0, 0, 1]]]))
    x, y, _ = np.einsum(
      "ij,jhw->ihw",
      back,
      [*coordinates(*mask.shape).transpose(2, 0, 1)[::-1], np.ones(mask.shape)],
    )
    error = np.abs(np.stack([y, x], axis=-1) - image)[is_inside].max(initial=0)
    assert error <= 0.5 * max(gap for _, gap in steps) + 0.05, pp

    # Image and mask were filled at the same places, to a pixel at the edge.
    assert ((image > 0).all(-1) != (mask != 255)).mean() < 0.2

    margin = 0.5 * max(gap for _, gap in steps) + 0.1
    centres = coordinates(*mask.shape)
    sides = np.tile(mask.shape, 2)
    for box, old, label in zip(
      result["boxes"] * sides,
      boxes * np.tile([HEIGHT, WIDTH], 2),
      result["box_label"],
      strict=True,
    ):
      shows_old = is_inside & contains(old, image, -margin)
      if label == -1:
        num_dropped += 1
        assert not box.any() and not shows_old.any(), pp
        continue
      num_left += 1
      is_in_box = contains(box, centres, 0.01)
      assert is_in_box[shows_old].all(), pp
      if not is_rotated:
        assert contains(old, image, margin)[is_inside & is_in_box].all(), pp
    assert (result["box_label"][result["box_label"] >= 0]).tolist() == [
      i for i, label in enumerate(result["box_label"]) if label >= 0
    ]
  assert num_left > 100 and num_dropped > 10


def contains(box, points, margin):
  """Tells which points [..., 2] are in a box that is larger by a margin."""
  low, high = box[:2] - margin, box[2:] + margin
  return ((points >= low) & (points <= high)).all(-1)


@pytest.mark.parametrize(
  "name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
@pytest.mark.parametrize("magnitude", [0.7, 3])
def test_randaug_moves_all_alike(name, magnitude, monkeypatch):
  operation = randaug.OPERATIONS[name]
  monkeypatch.setattr(randaug, "OPERATIONS", {name: operation})
  y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
  image = np.stack([y, x, np.zeros_like(y)], axis=-1)
  for seed in range(3):
    rng = np.random.default_rng(seed)
    example = {"image": image, "mask": ids(), "boxes": random_boxes(rng)}
    pp = f"randaug(1,{magnitude},masks='mask',boxes='boxes')"
    result = data.parse(pp)(example, rng)
    moved, mask = result["image"], result["mask"]
    is_inside = moved[..., 2] == 0  # 128 is filled in.
    np.testing.assert_array_equal(mask != 255, is_inside)
    np.testing.assert_array_equal(
      places(mask)[is_inside], moved[is_inside][:, :2] + 0.5
    )
    for box, old in zip(result["boxes"], example["boxes"], strict=True):
      old = old * np.tile([HEIGHT, WIDTH], 2)
      box = box * np.tile([HEIGHT, WIDTH], 2)
      shows_old = is_inside & contains(old, moved[..., :2] + 0.5, -0.55)
      assert contains(box, coordinates(), 0)[shows_old].all()


def test_what_randaug_does_to_colours_leaves_masks_alone():
  example = {"image": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "mask": ids()}
  moving = ("Rotate", "Shear", "Translate")
  for name, operation in randaug.OPERATIONS.items():
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(randaug, "OPERATIONS", {name: operation})
      rng = np.random.default_rng(0)
      result = randaug.randaug(example, rng, 1, 5, masks="mask")
    is_same = (result["mask"] == example["mask"]).all()
    assert is_same != name.startswith(moving)


def move(op, **entries):
  """Applies an op to an image of coordinates and other entries."""
  example = {"image": coordinates(), **entries}
  return data.parse(op)(example, np.random.default_rng(0))


def box(*numbers):
  return np.array([numbers], np.float32)


def test_boxes_are_clipped_and_dropped_by_their_visible_share():
  # The crop keeps rows 10 to 30 and columns 12 to 36.
  op = "central_crop((20,24),boxes='boxes',min_visible={})"
  half = box(0, 0.25, 0.5, 0.75)  # Rows 0 to 20: half of it is left.
  labels = np.array([3], np.int32)
  for least, label in ((0, 3), (0.5, 3), (0.51, -1), (1, -1)):
    result = move(op.format(least), boxes=half, box_label=labels)
    expected = [0, 0, 0.5, 1] if label == 3 else [0, 0, 0, 0]
    np.testing.assert_allclose(result["boxes"], [expected], atol=1e-6)
    assert result["box_label"].tolist() == [label]
    assert result["box_label"].dtype == np.int32
  assert labels.tolist() == [3]
  # Less than a pixel of rows, though half of the box, is degenerate.
  thin = box(9.4 / 40, 0, 10.6 / 40, 1)
  result = move(op.format(0), boxes=thin, box_label=labels)
  assert not result["boxes"].any() and result["box_label"].tolist() == [-1]
  result = move("resize(4,boxes='boxes')", boxes=thin)
  assert not result["boxes"].any()


def test_padding_of_boxes_stays_and_vectors_are_boxes():
  padding = np.zeros((3, 4), np.float32)
  labels = np.full(3, -1, np.int32)
  result = move("flip_lr(boxes='boxes')", boxes=padding, box_label=labels)
  assert not result["boxes"].any() and (result["box_label"] == -1).all()
  result = move("pad_to(80,boxes='box')", box=box(0, 0, 1, 0.5)[0])
  np.testing.assert_allclose(result["box"], [0, 0, 0.5, 0.3])


def test_a_turned_box_is_upright_around_it():
  # Rotation by 90 degrees about the centre of a square.
  class Quarter(np.random.Generator):
    def random(self, size=None):
      return np.array([1, 0.5, 0.5, 0.5, 0.5])

  example = {"image": coordinates(40, 40), "boxes": box(0, 0.5, 0.25, 0.75)}
  pp = data.parse("random_affine(90,boxes='boxes')")
  result = pp(example, Quarter(np.random.PCG64()))
  np.testing.assert_allclose(result["boxes"], [[0.5, 0.75, 0.75, 1]], atol=1e-6)


@pytest.mark.parametrize(
  "mask",
  [
    ids().astype(np.uint8),
    ids()[..., None],
    ids() % 2 == 0,
    ids().astype(np.uint16),
    ids().astype(np.float32),
    np.stack([ids(), -ids()], axis=-1),
  ],
)
def test_masks_keep_dtype_and_rank(mask):
  sizes = {"resize((20,24)": (20, 24), "random_affine(9": (40, 48)}
  sizes |= {"pad_to(50": (50, 50), "flip_lr(": (40, 48)}
  for op, size in sizes.items():
    op += "masks='mask')" if op[-1] == "(" else ",masks='mask')"
    moved = move(op, mask=mask)["mask"]
    assert moved.dtype == mask.dtype and moved.shape == size + mask.shape[2:]
  if mask.dtype != bool:
    assert (move("pad_to(50,masks='mask')", mask=mask)["mask"][45] == 255).all()


def test_videos_move_with_their_masks_and_boxes():
  video = np.stack([coordinates()] * 3)
  masks = np.stack([ids(), ids() + 1, ids() + 2])
  pp = data.parse(
    "inception_crop((20,30),30,key='video',masks='masks',boxes='boxes')"
  )
  for frames in (masks, masks[..., None]):
    example = {"video": video, "masks": frames}
    example["boxes"] = np.tile(box(0.2, 0.2, 0.8, 0.8), (3, 1))
    result = pp(example, np.random.default_rng(0))
    assert result["masks"].shape == (3, 20, 30, *frames.shape[3:])
    moved = result["masks"].reshape(3, 20, 30)
    np.testing.assert_array_equal(moved[2], moved[0] + 2)
    error = np.abs(places(moved[0]) - result["video"][0]).max()
    assert error <= 0.5 + 1e-3
    assert (result["boxes"] == result["boxes"][0]).all()


def test_maps_move_alone_under_their_own_key():
  example = {"image": coordinates(), "semantic": ids()}
  pp = data.parse(
    "resize((20,24),'nearest',key='semantic')|pad_to(30,255,key='semantic')"
  )
  result = pp(example)
  assert result["semantic"].shape == (30, 30)
  assert result["image"] is example["image"]
  np.testing.assert_allclose(result["valid"], [20 / 30, 24 / 30])


def test_whole_images_of_any_aspect_are_padded():
  rng = np.random.default_rng(0)
  pp = data.parse(
    "resize_keep(24,masks='mask',boxes='boxes')"
    "|pad_to(24,7,masks='mask',boxes='boxes')"
  )
  for height, width in ((40, 48), (48, 40), (8, 6), (200, 1)):
    example = {
      "image": coordinates(height, width),
      "mask": ids(height, width),
      "boxes": box(0, 0, 1, 1),
    }
    result = pp(example, rng)
    assert result["image"].shape == (24, 24, 2)
    ratio = 24 / max(height, width)
    new = max(1, round(height * ratio)), max(1, round(width * ratio))
    assert result["valid"].dtype == np.float32
    np.testing.assert_allclose(result["valid"] * 24, new)
    np.testing.assert_allclose(result["boxes"][0, 2:] * 24, new, rtol=1e-6)
    assert (result["mask"][new[0] :] == 255).all()
    assert (result["mask"][:, new[1] :] == 255).all()
    assert (result["mask"][: new[0], : new[1]] >= FIRST).all()
    assert (result["image"][new[0] :] == 7).all()
  larger = data.parse("pad_to((10,60))")({"image": coordinates()})
  assert larger["image"].shape == (40, 60, 2)
  np.testing.assert_allclose(larger["valid"], [1, 0.8])


def test_scale_jitter_keeps_the_aspect_ratio_and_draws_uniformly():
  pp = data.parse("scale_jitter(0.5,2,size=20)")
  rng = np.random.default_rng(0)
  shapes = [pp({"image": coordinates()}, rng)["image"].shape for _ in range(99)]
  sides = np.array(shapes)[:, :2]
  assert np.abs(sides[:, 0] * 1.2 - sides[:, 1]).max() < 1.2
  assert 10 <= sides[:, 0].min() < 12 and 38 < sides[:, 0].max() <= 40
  assert 22 < sides[:, 0].mean() < 28
  alone = data.parse("scale_jitter(2,2)")({"image": coordinates()}, rng)
  assert alone["image"].shape == (80, 96, 2)


def test_crops_with_one_class_are_drawn_again():
  semantic = np.zeros((HEIGHT, WIDTH), np.int32)
  semantic[:, 36:] = 1
  semantic[:, 44:] = 255
  op = "random_crop(16,cat_max_ratio={},masks='semantic')"
  shares = {}
  for ratio in (1, 0.75):
    pp = data.parse(op.format(ratio))
    shares[ratio] = []
    for seed in range(150):
      example = {"image": coordinates(), "semantic": semantic}
      crop = pp(example, np.random.default_rng(seed))["semantic"]
      counts = np.bincount(crop[crop != 255], minlength=2)
      shares[ratio].append(counts.max() / counts.sum() < 0.75)
  # p = 8 of 33 places: all ten draws miss with (25 / 33)^10 = 6 %.
  assert np.mean(shares[1]) < 0.35 and np.mean(shares[0.75]) > 0.85
  # Without the mask, as in inference, there is nothing to judge by.
  pp = data.parse(op.format(0.75)).only("image")
  assert pp({"image": coordinates()}, np.random.default_rng(0)).keys() == {
    "image"
  }


def test_inference_needs_no_masks_or_boxes():
  pp = data.parse(
    "decode(masks='semantic')|objects(4)|resize(16,masks='semantic',"
    "boxes='boxes')|pad_to(20,masks='semantic',boxes='boxes')"
    "|value_range(-1,1)|keep('image','semantic','boxes','box_label','valid')"
  )
  result = pp.only("image")({"image": np.zeros((40, 48, 3), np.uint8)})
  assert result["image"].shape == (20, 20, 3) and "valid" in result
  for name in ("boxes", "box_label"):
    objects = {"bbox": box(0, 0, 1, 1), "label": np.array([7])}
    example = {"image": np.zeros((40, 48, 3), np.uint8), "objects": objects}
    result = pp.only(name)(example)
    np.testing.assert_allclose(result["boxes"][0], [0, 0, 0.8, 0.8])
    assert result["box_label"].tolist() == [7, -1, -1, -1]


@pytest.mark.parametrize(
  "op, words",
  [
    ("flip_lr(masks=('image',))", "'image' is named twice"),
    ("flip_lr(masks=('a','a'))", "'a' is named twice"),
    ("flip_lr(masks=('a',1))", "names of entries, not 1"),
    ("flip_lr(masks='boxes',boxes='boxes')", "'boxes' is named twice"),
    ("flip_lr(min_visible=2)", "min_visible is the share"),
    ("flip_lr(masks=1)", "masks cannot be 1"),
    ("decode(masks='image')", "'image' is named twice"),
    ("random_crop(8,0.75)", "masks=\\('semantic',\\)"),
    ("random_crop(8,cat_max_ratio=2,masks='a')", "cat_max_ratio"),
    ("scale_jitter(2,1)", "lo <= hi"),
    ("pad_to(0)", "size must be"),
    ("resize_keep(8,'x')", "'x'"),
    ("value_range(masks='a')", "unexpected keyword"),
  ],
)
def test_impossible_arguments_are_found_before_any_data(op, words):
  with pytest.raises(ValueError, match=words):
    data.parse(op)


@pytest.mark.parametrize(
  "entries, words",
  [
    ({}, "no 'mask'"),
    ({"mask": b"png"}, "'mask' is still encoded"),
    ({"mask": ids()[:-1]}, r"\(39, 48\).* 40 x 48 pixels: .*of one size"),
    ({"mask": ids()[0]}, r"shape \(48,\)"),
    ({"mask": ids(), "boxes": ids()}, "no boxes"),
    ({"mask": ids(), "boxes": box(0, 0, 30, 40)}, "number 40: divide"),
    (
      {"mask": ids(), "boxes": box(0, 0, 1, 1), "box_label": ids()[0]},
      "signed",
    ),
  ],
)
def test_what_does_not_fit_the_image_is_named(entries, words):
  with pytest.raises(ValueError, match=words):
    move("flip_lr(masks='mask',boxes='boxes')", **entries)


def test_a_mask_that_cannot_hold_the_ignored_label_is_refused():
  with pytest.raises(ValueError, match="from -128 to 127"):
    move("pad_to(60,masks='mask')", mask=ids().astype(np.int8))
