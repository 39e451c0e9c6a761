"""Maps of videos: which clip is drawn, and files that are given."""

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from tests.data.sources.video_folder.test_video_file import (
  frame_numbers,
  write_video,
)
from tests.train.test_video_runs import make_config
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import models
from tokenlearner_flexivit.analysis import video_maps


def test_of_several_views_the_middle_one_is_drawn():
  """The middle crop of the third of four clips; of even numbers the later."""
  pp = "decode_video|temporal_views(2,1,4)|{}value_range(-1,1,key='video')"
  section = dict(name="fake:8x12x20x3:5:3", split="test")
  example = data_lib.open_source(section)[0]
  for crops, middle in (
    ("", 2),
    ("spatial_views(8,3)|", 3 * 2 + 1),
    ("spatial_views(8)|", 3 * 2 + 1),
    ("spatial_views((8,9),crops=1)|", 2),
  ):
    section["pp"] = pp.format(crops)
    (found,) = video_maps.read_examples(section, 1)
    expected = data_lib.parse(section["pp"])(example)["video"][middle]
    np.testing.assert_array_equal(found, expected)


def test_videos_without_a_class_have_no_words():
  """Such as those of a distillation, or with lists of several classes."""
  weights = np.eye(3, dtype=np.float32)
  one_class = [{"label": np.int32(2)}, {"label": 1}]
  assert video_maps.labels(one_class)["label"].tolist() == [2, 1]
  several = [{"label": x} for x in weights]
  np.testing.assert_array_equal(video_maps.labels(several)["label"], weights)
  for examples in (
    [{"video": 0}, {"video": 0}],
    [{"label": [0, 1]}, {"label": [2]}],
    [{"label": [0, 1]}, {"label": [1, 2]}],
    [{"label": []}],
  ):
    assert video_maps.labels(examples) == {}


def test_files_are_read_at_the_rate_and_size_of_the_run(tmp_path):
  path = tmp_path / "mine.mp4"
  write_video(path, 25)
  section = dict(
    name="video_folder/clips-5fps-16px-0a1b", pp="decode_video|keep('video')"
  )
  (video,) = video_maps.read_files([path], section)
  assert video.shape == (5, 16, 16, 3)
  encoded = [cv2.imencode(".png", frame)[1] for frame in video]
  assert frame_numbers(encoded) == [0, 5, 10, 15, 20]
  other = tmp_path / "other.mp4"
  write_video(other, 25, side=(32, 64))
  with pytest.raises(
    ValueError, match=r"several sizes: \[\(5, 16, 16, 3\), \(5, 16, 32, 3\)\]"
  ):
    video_maps.read_files([path, other], section)


def test_all_of_many_averages_are_drawn(tmp_path):
  """They have no order in which the first could be taken."""
  arguments = make_config().model.to_dict()
  arguments["token_learner"] = dict(layer=0, num_tokens=9, version="average")
  model = models.create(**arguments, num_classes=5)
  clips = np.zeros((1, 4, 12, 12, 3), "f4")
  shapes = jax.eval_shape(model.init, jax.random.key(0), clips)["params"]
  params = jax.tree.map(lambda x: np.zeros(x.shape, "f4"), shapes)
  video_maps.draw(tmp_path / "maps.png", model, params, clips)
  with Image.open(tmp_path / "maps.gif") as moving:
    assert moving.size[0] == 10 * (108 + 4) - 4
