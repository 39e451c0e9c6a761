"""The end of a preprocessing, done by the device: the same pixels."""

import itertools

import jax
import numpy as np
import pytest

from configs import flexivit_i1k_distill
from tokenlearner_flexivit import data

FAKE = {
  "name": "fake:8x8x3:5:23",
  "split": "train",
  "pp": None,
  "num_threads": 0,
}


def take(config, **options):
  batches = data.train_batches(config, seed=3, **options)
  result = list(itertools.islice(batches, 2))
  batches.close()
  return result


def assert_the_rest_is_for_the_device(config, *, entries, batch_size=8):
  """Compares a stream with one whose last ops are compiled by JAX."""
  finish = jax.jit(data.device_ops(config))
  for make in (
    lambda **options: take(config, batch_size=batch_size, **options),
    lambda **options: list(
      data.eval_batches(config, batch_size=batch_size, **options)
    ),
  ):
    expected, left = make(), make(skip_device_ops=True)
    assert len(left) == len(expected)
    for batch, whole in zip(left, expected, strict=True):
      assert batch.keys() == whole.keys()
      for key, value in finish(batch).items():
        real = whole.get("mask", np.ones(batch_size)) == 1
        value = np.asarray(value)
        assert value.dtype == whole[key].dtype
        np.testing.assert_allclose(
          value[real], whole[key][real], atol=1e-6, rtol=1e-6
        )
        kept = np.uint8 if key in entries else whole[key].dtype
        assert batch[key].dtype == kept, key
        if key in entries:
          assert 4 * batch[key].nbytes == whole[key].nbytes


@pytest.mark.parametrize(
  "pp, entries",
  [
    ("decode|value_range(-1,1)|keep('image','label')", ["image"]),
    ("value_range(0,1)|standardize((.5,.4,.3),(.2,.3,.1))", ["image"]),
    ("random_affine(10)|value_range(-1,1)|onehot(5)", ["image"]),
    ("value_range(1,-1)|value_range(-1,1,255,0)", ["image"]),
    (
      "flip_lr|copy('image','b')|value_range(-1,1)|resize(4,key='b')"
      "|value_range(0,1,key='b')|drop('id')",
      ["image", "b"],
    ),
    # What is not at the end stays.
    ("value_range(-1,1)|flip_lr", []),
    ("value_range(0,1)|flip_lr|standardize(.5,(.2,.3,.1))", []),
    ("value_range(-1,1)|copy('image','b')", []),
    ("value_range(-1,1)|resize(4)|standardize(.1,.5)", []),
    ("value_range(-1,1)|copy('image','b')|drop('image')", []),
  ],
)
def test_the_end_of_the_preprocessing_may_be_left_to_the_device(pp, entries):
  config = {**FAKE, "pp": pp}
  assert_the_rest_is_for_the_device(config, entries=entries)
  peeked = data.peek(config)
  assert all(peeked[key].dtype == np.float32 for key in entries)


def test_videos_leave_the_host_as_uint8():
  config = {
    **FAKE,
    "name": "fake:6x9x8x3:5:20",
    "pp": "decode_video|temporal_crop(4)|value_range(-1,1,key='video')"
    "|keep('video','label')",
  }
  assert_the_rest_is_for_the_device(config, entries=["video"])


def test_student_and_teacher_leave_the_host_as_uint8():
  config = flexivit_i1k_distill.get_config("runlocal").data
  assert_the_rest_is_for_the_device(
    config, entries=["image", "teacher"], batch_size=2
  )


def test_ops_of_users_run_on_the_host_unless_they_say_otherwise():
  def invert(example, *, key: str = "image"):
    return {**example, key: 255 - example[key]}

  def invert_all(example):
    return {**example, "image": 255 - example["image"]}

  for fn, options, on_device in (
    (invert, {}, False),
    (invert, {"on_device": True}, True),
    (invert_all, {}, False),
  ):
    data.register_op(fn, **options)
    _, device = data.parse(f"{fn.__name__}|value_range|keep('image')").split()
    assert "value_range" in [step.text for step in device.steps]
    assert (fn.__name__ in [step.text for step in device.steps]) == on_device
    _, device = data.parse(f"value_range|{fn.__name__}").split()
    assert len(device.steps) == (2 if on_device else 0)
