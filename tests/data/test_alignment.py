"""Ops that move an image and not its mask: refused before the first step."""

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data

RNG = np.random.default_rng(0)
EXAMPLE = {
  "image": RNG.integers(0, 256, (48, 64, 3), np.uint8),
  "semantic": RNG.integers(0, 9, (48, 64, 1), np.uint8),
  "classes": RNG.integers(0, 9, (48, 64), np.int32),
  "depth": RNG.random((48, 64), np.float32),
  "boxes": np.zeros((5, 4), np.float32),
  "bbox": np.zeros(4, np.float32),
  "box_label": np.full(5, -1, np.int32),
  "keypoints": np.zeros((3, 2), np.float32),
  "text": np.zeros((7, 30), np.float32),
  "label": np.int32(3),
  "weights": np.zeros(4, np.float32),
  "video": RNG.integers(0, 256, (9, 12, 16, 3), np.uint8),
  "masks": RNG.integers(0, 9, (9, 12, 16, 1), np.uint8),
}


class OneExample(data.Source):
  name = "one example"

  def __len__(self):
    return 1

  def __getitem__(self, index):
    return dict(EXAMPLE)


def look(pp):
  """Opens a stream with the preprocessing, as a run does."""
  config = {"name": "mine", "split": "train", "pp": pp, "num_threads": 0}
  data.peek(config, OneExample())
  for _ in data.eval_batches(config, batch_size=2, source=OneExample()):
    pass
  data.train_batches(config, batch_size=2, seed=0, source=OneExample()).close()


@pytest.mark.parametrize("kept", ["semantic", "depth", "boxes", "bbox"])
@pytest.mark.parametrize(
  "op",
  [
    "flip_lr",
    "inception_crop(32)",
    "random_crop(16)",
    "random_translate(4)",
    "random_affine(10)",
    "randaug",
  ],
)
def test_random_ops_leave_no_mask_behind(op, kept):
  pp = f"decode|{op}|keep('image','{kept}')"
  with pytest.raises(ValueError) as error:
    look(pp)
  for words in (
    "data.pp: ",
    f"{op.partition('(')[0]}",
    f"moves 'image' but not '{kept}'",
    "keep(...)",
  ):
    assert words in str(error.value)


@pytest.mark.parametrize(
  "pp, moved, other",
  [
    # Two draws are not one.
    ("flip_lr|flip_lr(key='semantic')", "image", "semantic"),
    ("flip_lr(key='semantic')|flip_lr", "image", "semantic"),
    # Copies are no way out.
    ("copy('semantic','target')|drop('semantic')|flip_lr", "image", "target"),
    ("flip_lr|copy('image','teacher')|drop('image')", "teacher", "semantic"),
    ("resize(32)|resize(32,'nearest',key='semantic')|flip_lr", "image", ""),
    # Without chance, too.
    ("central_crop(32)", "image", "semantic"),
    ("central_crop(32)|central_crop(40,key='semantic')", "image", "semantic"),
    ("central_crop(32,key='semantic')", "semantic", "image"),
    (
      "central_crop(32)|central_crop(40,key='classes')|keep('image','classes')",
      "image",
      "classes",
    ),
    ("temporal_crop(4)|keep('video','masks')", "video", "masks"),
    ("temporal_central_crop(4)|keep('video','masks')", "video", "masks"),
    (
      "temporal_central_crop(4)|temporal_central_crop(4,2,key='masks')"
      "|keep('video','masks')",
      "video",
      "masks",
    ),
    ("random_crop(8,key='video')|keep('video','masks')", "video", "masks"),
  ],
)
def test_what_no_longer_fits_is_refused(pp, moved, other):
  if "keep" not in pp:
    pp += "|drop('classes','depth','boxes','bbox','keypoints','video','masks')"
  with pytest.raises(ValueError, match=f"moves '{moved}' but not '{other}"):
    look(pp)


@pytest.mark.parametrize(
  "op, other, advice",
  [
    ("flip_lr", "semantic", r"flip_lr\(\.\.\., masks='semantic'\)"),
    ("flip_lr", "depth", r"flip_lr\(\.\.\., masks='depth'\)"),
    ("central_crop(32)", "boxes", r"central_crop\(\.\.\., boxes='boxes'\)"),
    ("pad_to(80)", "bbox", r"pad_to\(\.\.\., boxes='bbox'\)"),
    ("flip_lr", "keypoints", "No op moves both yet: take this op"),
    ("temporal_crop(4,key='video')", "masks", "No op moves both yet"),
    ("pad_to(80)|flip_lr", "valid", "Put pad_to behind it"),
  ],
)
def test_the_error_says_what_to_do(op, other, advice):
  moved = "video" if "video" in op else "image"
  with pytest.raises(ValueError, match=advice):
    look(f"{op}|keep('{moved}','{other}')")


@pytest.mark.parametrize(
  "pp",
  [
    "flip_lr(masks='semantic')|inception_crop(32,masks=('semantic',))"
    "|keep('image','semantic')",
    "random_affine(10,masks=('semantic','depth'),boxes='boxes')|randaug("
    "masks=('semantic','depth'),boxes='boxes')|drop('bbox','video','masks')"
    "|drop('keypoints','classes')",
    "central_crop(32,boxes='boxes')|random_crop(16,boxes='boxes')"
    "|keep('image','boxes','box_label')",
    "resize_keep(32,masks='semantic')|pad_to(32,masks='semantic')"
    "|keep('image','semantic','valid')",
    "flip_lr(key='video',masks='masks')|keep('video','masks')",
    "central_crop(32,masks='semantic')|central_crop(32,key='classes')"
    "|keep('image','semantic','classes')",
  ],
)
def test_one_draw_for_all_is_accepted(pp):
  look(pp)


@pytest.mark.parametrize(
  "pp",
  [
    "flip_lr|inception_crop(8)|keep('image','label','text','weights')",
    "resize(32)|resize(20,'nearest',key='semantic')|keep('image','semantic')",
    "resize_small(32)|central_crop(24)"
    "|resize_small(64,'nearest',key='semantic')|central_crop(48,key='semantic')"
    "|keep('image','semantic')",
    "flip_lr|inception_crop|copy('image','teacher')|resize(8)"
    "|resize(16,key='teacher')|keep('image','teacher','label')",
    "randaug|value_range|drop('semantic','classes','depth','boxes','bbox','masks')"
    "|keep('image','label')",
    "temporal_central_crop(4,2)|temporal_central_crop(4,2,key='masks')"
    "|keep('video','masks')",
    "copy('image','mirror')|keep('mirror','semantic')",
  ],
)
def test_what_fits_is_accepted(pp):
  look(pp)


@pytest.mark.parametrize(
  "decode, fits",
  [
    ("decode|decode_ids(key='semantic')", False),
    ("decode(masks='semantic')", True),
    ("decode|decode(1,key='semantic')", True),
    ("decode(exif=False)|decode_ids(key='semantic')", True),
  ],
)
def test_a_mask_is_turned_with_its_image(decode, fits, monkeypatch):
  """By the orientation that a photo may have; boxes are upright anyway."""
  _, file = cv2.imencode(".png", np.zeros((8, 8), np.uint8))
  stored = dict(image=file.tobytes(), semantic=file.tobytes())
  monkeypatch.setattr(
    OneExample,
    "__getitem__",
    lambda self, index: {**stored, "boxes": EXAMPLE["boxes"]},
  )
  pp = f"{decode}|keep('image','semantic','boxes')"
  if fits:
    look(pp)
    return
  with pytest.raises(ValueError, match=r"decode\(masks='semantic'\), or say"):
    look(pp)


def test_copies_that_part_are_told(caplog):
  pp = "copy('image','teacher')|flip_lr|keep('image','teacher')"
  look(pp)
  assert "flip_lr changes 'image' but not 'teacher', a copy" in caplog.text
  caplog.clear()
  look("flip_lr|copy('image','teacher')|keep('image','teacher')")
  assert not caplog.text


def test_ops_of_users_can_say_that_they_move():
  def upside_down(example, *, key: str = "image"):
    return {**example, key: example[key][::-1]}

  data.register_op(upside_down, moves=True)
  with pytest.raises(ValueError, match=r"Do the same to 'semantic', or leave"):
    look("upside_down|keep('image','semantic')")
  look("upside_down|upside_down(key='semantic')|keep('image','semantic')")
