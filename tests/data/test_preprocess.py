"""The preprocessing string: what it means and what it refuses."""

import pickle

import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import preprocess


def test_ops_apply_from_left_to_right():
  pp = data.parse("copy('a', 'b')|onehot(3, key='b')|keep('b', 'a')")
  result = pp({"a": np.int32(1), "c": 5})
  assert list(result) == ["b", "a"]
  assert result["a"] == 1
  assert result["b"].tolist() == [0, 1, 0]


def test_literals_positional_and_keyword_arguments():
  pp = data.parse("  value_range(-1, vmax=1.5)|resize((2, 4), method='area') ")
  assert [step.args for step in pp.steps] == [(-1,), ((2, 4),)]
  assert [step.kwargs for step in pp.steps] == [
    {"vmax": 1.5},
    {"method": "area"},
  ]
  assert data.parse("copy('a|b', 'c')").steps[0].args == ("a|b", "c")
  lines = "\n  decode\n  |resize(4,\n    'area')|\n  flip_lr\n"
  assert [step.text for step in data.parse(lines).steps] == [
    "decode",
    "resize(4, 'area')",
    "flip_lr",
  ]


def test_random_ops_are_known_by_their_signature():
  assert data.parse("decode|flip_lr").is_random
  assert not data.parse("decode|resize(4)").is_random


def test_student_and_teacher_see_one_crop_at_two_resolutions():
  # One coordinate of the crop per channel, linear, so that a resize keeps it.
  rows, columns = np.mgrid[:90, :120].astype(np.float32)
  image = np.stack([rows, columns, rows + columns], -1)
  pp = data.parse(
    "inception_crop(area_min=30)|flip_lr|copy('image','teacher_image')"
    "|resize(24)|value_range(-1,1)"
    "|resize(48,key='teacher_image')|value_range(key='teacher_image')"
    "|keep('image','teacher_image')"
  )
  for seed in range(5):
    result = pp({"image": image, "label": 1}, np.random.default_rng(seed))
    assert list(result) == ["image", "teacher_image"]
    assert result["image"].shape == (24, 24, 3)
    assert result["teacher_image"].shape == (48, 48, 3)
    # The student's centres lie halfway between the teacher's.
    pairs = result["teacher_image"].reshape(24, 2, 24, 2, 3).mean((1, 3))
    np.testing.assert_allclose(result["image"], pairs, atol=0.01)
  assert image[5, 7].tolist() == [5, 7, 12]


def test_two_resolutions_without_chance():
  image = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
  pp = data.parse(
    "copy('image','teacher_image')|resize_small(6)|central_crop(6)"
    "|central_crop(8,key='teacher_image')"
  )
  result = pp({"image": image})
  assert result["image"].shape == (6, 6, 3)
  np.testing.assert_array_equal(result["teacher_image"], image[2:10, 4:12])


def test_none_is_a_size_where_the_op_takes_it():
  assert data.parse("inception_crop(None, 20)").steps[0].args == (None, 20)
  assert data.parse("inception_crop(240)").steps[0].args == (240,)
  with pytest.raises(ValueError, match="size cannot be None"):
    data.parse("random_crop(None)")


def test_is_pickled_with_its_functions():
  pp = pickle.loads(pickle.dumps(data.parse("keep('a')")))
  assert pp({"a": 1, "b": 2}) == {"a": 1}


@pytest.mark.parametrize(
  "op, message",
  [
    ("resize(-3)", "size must be"),
    ("resize((4, True))", "size must be"),
    ("resize(24,'lanczos')", "'lanczos'.*bilinear"),
    ("resize_small(0)", "size must be"),
    ("central_crop((1,2,3))", "size must be"),
    ("random_crop(0)", "size must be"),
    ("decode(4)", "channels must be 1 or 3"),
    ("decode(bits=7)", r"bits must be in \[8, 16\]"),
    ("decode_ids(2,key='a')", "rgb cannot be 2"),
    ("inception_crop(24,area_min=200)", "area_min <= area_max <= 100"),
    ("inception_crop(24,area_min=0)", "0 < area_min"),
    ("inception_crop(24,area_min=0.08,area_max=1)", "area_min=8 for a share"),
    ("inception_crop(method='cubic')", "'cubic'"),
    ("random_translate(-1)", "pixels must not be negative"),
    ("random_affine(scale=(0,1))", "scale must be"),
    ("random_affine(scale=('a',1))", "scale must be"),
    ("random_affine(-5)", "must not be negative"),
    ("random_affine(translate=2)", "translate at most 1"),
    ("random_affine(shear=90)", "shear below 90"),
    ("value_range(1,1)", "two different ends"),
    ("value_range(0,1,5,5)", "two different ends"),
    ("value_range(0,1e999)", "vmax cannot be inf"),
    ("standardize(0.5,0)", "std must be above 0"),
    ("standardize((0,0),(1,-1))", "std must be above 0"),
    ("standardize((0,0),(1,1,1))", "of 2 and 3 channels"),
    ("standardize((),1)", "mean must be"),
    ("standardize('a',1)", "mean cannot be 'a'"),
    ("standardize(('a',),1)", "mean must be"),
    ("onehot(0)", "num_classes must be at least 1"),
    ("onehot(3,on=0)", "on=0 must be above off=0.0"),
    ("keep()", "at least one entry"),
    ("drop()", "at least one entry"),
    ("randaug(0)", "num_layers"),
    ("randaug(2,31)", "magnitude"),
    ("decode_video(2)", "channels"),
    ("temporal_crop(0)", "num_frames and stride"),
    ("temporal_central_crop(8,0)", "num_frames and stride"),
    ("temporal_views(8,views=0)", "views must be"),
    ("spatial_views(0)", "size must be"),
    ("spatial_views(4,0)", "crops must be"),
    ("video_scale_jitter(2,1)", "lo <= hi"),
    ("video_scale_jitter(1,2,'x')", "'x'"),
    ("video_colour_jitter(1.5)", r"probability.*\[0, 1\]"),
    ("video_colour_jitter(hue=-1)", "hue"),
  ],
)
def test_impossible_arguments_are_found_before_any_data(op, message):
  with pytest.raises(ValueError, match=message) as error:
    data.parse(f"decode|{op}")
  for part in ("The op is ", repr(f"decode|{op}")):
    assert part in str(error.value)


def test_ops_of_users_may_check_their_arguments():
  def check(amount):
    if amount > 1:
      raise ValueError(f"amount {amount} is too much")

  @data.register_op(check=check)
  def fade_for_this_test(example, amount: float = 0.5, *, key: str = "image"):
    return {**example, key: example[key] * amount}

  assert data.parse("fade_for_this_test")({"image": 4}) == {"image": 2}
  with pytest.raises(ValueError, match="amount 2 is too much"):
    data.parse("fade_for_this_test(2)")


@pytest.mark.parametrize(
  "text, messages",
  [
    ("decode|resise(4)", ["'resise'", "mean 'resize'", "flip_lr", "decode|r"]),
    ("nothing_like_it", ["Unknown op", "value_range"]),
    ("decode|", ["Cannot be parsed", "decode|"]),
    ("", ["Cannot be parsed"]),
    ("decode||flip_lr", ["Cannot be parsed"]),
    ("resize(", ["Cannot be parsed", "never closed"]),
    ("resize(size=side)", ["literals", "resize"]),
    ("resize(*[3])", ["literals"]),
    ("resize(**{'size': 3})", ["literals"]),
    ("resize()", ["missing", "'size'", "resize(size:"]),
    ("resize(3, 'area', 5)", ["too many", "resize(size:"]),
    ("resize(3, side=2)", ["'side'", "resize(size:"]),
    ("resize('big')", ["size cannot be 'big'"]),
    ("resize(True)", ["size cannot be True"]),
    ("keep('a', 3)", ["keys cannot be 3"]),
    ("flip_lr(rng=None)", ["multiple values", "flip_lr"]),
    ("os.system('x')", ["is not an op"]),
    ("decode + flip_lr", ["is not an op"]),
    ("'decode'", ["is not an op"]),
  ],
)
def test_mistakes_are_found_before_any_data(text, messages):
  with pytest.raises(ValueError) as error:
    data.parse(text)
  for message in [*messages, repr(text)]:
    assert message in str(error.value)


def test_errors_while_running_name_the_op_and_the_string():
  pp = data.parse("keep('a')|drop('b')")
  with pytest.raises(ValueError, match=r"drop\('b'\).*keep\('a'\)\|drop"):
    pp({"a": 1})


def test_a_name_is_registered_once():
  def resize(example):
    return example

  with pytest.raises(ValueError, match="'resize' already"):
    data.register_op(resize)


def test_bound_values_come_from_outside_of_the_string(monkeypatch):
  monkeypatch.setattr(preprocess, "_OPS", dict(preprocess._OPS))

  @data.register_op(bound=("words",))
  def count(example, key: str = "n", *, words: tuple = ()):
    return {**example, key: len(words)}

  parsed = data.parse("count|count('m')|drop('x')")
  assert parsed({"x": 0}) == {"n": 0, "m": 0}
  bound = parsed.bound(words=("a", "b"), unused=3)
  assert bound({"x": 0}) == {"n": 2, "m": 2}
  assert bound.steps[1].arguments() == {"key": "m", "words": ("a", "b")}
  assert (parsed.text, parsed({"x": 0})["n"]) == (bound.text, 0)
  with pytest.raises(ValueError, match=r"'words'. The op is count\(key: str"):
    data.parse("count(words=('a',))")


def test_only_mirrors_say_that_they_mirror():
  steps = data.parse("decode|flip_lr|inception_crop(8)|randaug(2,10)").steps
  assert [step.mirrors for step in steps] == [False, True, False, False]
