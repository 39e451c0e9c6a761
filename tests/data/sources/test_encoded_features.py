"""Videos of TFDS are read as they are stored, without TensorFlow."""

import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data

FRAMES = [
  cv2.imencode(".jpg", np.full((16, 16, 3), 40 * i, np.uint8))[1].tobytes()
  for i in range(5)
]


class TinyVideos(tfds.core.GeneratorBasedBuilder):
  """Builds a dataset of one video."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = None

  def _info(self):
    frame = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    features = {"video": tfds.features.Sequence(frame)}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": iter([(0, {"video": FRAMES})])}

  def _generate_examples(self):
    raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A dataset that is known by its files alone, as `own_videos`."""
  folder = tmp_path_factory.mktemp("tfds")
  builder = TinyVideos(data_dir=folder, file_format="array_record")
  builder.download_and_prepare()
  (folder / "tiny_videos").rename(folder / "own_videos")
  return folder


@pytest.mark.parametrize(
  "shape",
  [None, ["-1", "-1", "-1", "3"], ["-1", "16", "16", "3"]],
)
def test_frames_stay_encoded(folder, shape):
  path = folder / "own_videos" / "1.0.0" / "features.json"
  description = json.loads(path.read_text())
  if shape:
    # As TFDS's own feature, whose class needs TensorFlow.
    description["featuresDict"]["features"]["video"] = {
      "pythonClassName": f"{tfds.features.Video.__module__}.Video",
      "video": {
        "shape": {"dimensions": shape},
        "dtype": "uint8",
        "encodingFormat": "jpeg",
      },
    }
  path.write_text(json.dumps(description))
  section = {"name": "own_videos", "split": "train", "data_dir": str(folder)}
  assert list(data.open_source(section)[0]["video"]) == FRAMES
  pp = "decode_video|temporal_crop(2,2)|keep('video')"
  (video,) = data.peek(section | {"pp": pp}).values()
  assert video.shape == (2, 16, 16, 3)
