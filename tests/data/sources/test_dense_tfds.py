"""Masks, boxes and their classes in datasets that TFDS has prepared."""

import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data

features = tfds.features
MASK = features.Image(shape=(None, None, 1), encoding_format="png")
# Features as TFDS's own builders have them.
DENSE = {
  "cityscapes": {"segmentation_label": MASK},
  "oxford_iiit_pet": {"segmentation_mask": MASK},
  "scene_parse150": {"annotation": features.Image(encoding_format="png")},
  "panoptic": {
    "panoptic_image": features.Image(encoding_format="png"),
    "panoptic_objects": features.Sequence(
      {
        "bbox": features.BBoxFeature(),
        "label": features.ClassLabel(names=["person", "sky"]),
      }
    ),
  },
  "lvis": {
    "objects": features.Sequence(
      {"label": features.ClassLabel(num_classes=3), "segmentation": MASK}
    )
  },
  "own": {
    "layers": {
      "semantic": features.LabeledImage(
        labels=["soil", "leaf"], encoding_format="png"
      )
    }
  },
}


def png(value, channels=1):
  pixels = np.full((4, 5, channels), value, np.uint8)
  return cv2.imencode(".png", pixels)[1].tobytes()


EXAMPLES = {
  "cityscapes": {"segmentation_label": png(7)},
  "oxford_iiit_pet": {"segmentation_mask": png(3)},
  "scene_parse150": {"annotation": png(1, 3)},
  "panoptic": {
    "panoptic_image": png(1, 3),
    "panoptic_objects": [
      {"bbox": features.BBox(0.0, 0.0, 0.5, 1.0), "label": "sky"},
    ],
  },
  "lvis": {"objects": [{"label": i, "segmentation": png(i)} for i in range(2)]},
  "own": {"layers": {"semantic": png(1)}},
}


class Dense(tfds.core.GeneratorBasedBuilder):
  """Builds a dataset of one example; the config tells its features."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in DENSE]  # noqa: RUF012
  url_infos = None

  def _info(self):
    image = features.Image(shape=(None, None, 3), encoding_format="png")
    own = DENSE[self.builder_config.name]
    return tfds.core.DatasetInfo(
      builder=self, features=features.FeaturesDict({"image": image, **own})
    )

  def _split_generators(self, dl_manager):
    example = {"image": png(9, 3), **EXAMPLES[self.builder_config.name]}
    return {"train": iter([(0, example)])}

  def _generate_examples(self):
    raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Datasets that are known by their files alone, under TFDS's names."""
  folder = tmp_path_factory.mktemp("tfds")
  for name in DENSE:
    builder = Dense(data_dir=folder, config=name, file_format="array_record")
    builder.download_and_prepare()
    (folder / "dense" / name).rename(folder / name)
    path = folder / name / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    del info["configName"]
    path.write_text(json.dumps(info | {"name": name}))
    (record,) = path.parent.glob("*.array_record*")
    record.rename(record.with_name(record.name.replace("dense-", f"{name}-")))
  return folder


def open_tfds(folder, name):
  section = {"name": f"{name}:1.0.0", "split": "train"}
  return data.open_source(section | {"data_dir": str(folder)})


@pytest.mark.parametrize("name", DENSE)
def test_masks_stay_encoded_wherever_they_are(folder, name):
  example = open_tfds(folder, name)[0]
  own = EXAMPLES[name]
  for key in ("segmentation_label", "segmentation_mask", "annotation"):
    assert example.get(key) == own.get(key)
  if name == "lvis":
    masks = example["objects"]["segmentation"]
    assert list(masks) == [png(0), png(1)]
  if name == "own":
    assert example["layers"]["semantic"] == png(1)
  if name == "panoptic":
    assert example["panoptic_image"] == png(1, 3)
    boxes = np.array(example["panoptic_objects"]["bbox"])
    assert boxes.tolist() == [[0, 0, 0.5, 1]]


@pytest.mark.parametrize(
  "name, key, count, names",
  [
    ("cityscapes", "segmentation_label", 34, {7: "road", 33: "bicycle"}),
    ("oxford_iiit_pet", "segmentation_mask", 4, {1: "pet", 3: "border"}),
    ("panoptic", "panoptic_objects/label", 2, {1: "sky"}),
    ("lvis", "objects/label", 3, None),
    ("own", "layers/semantic", 2, {1: "leaf"}),
    ("own", "semantic", None, None),
  ],
)
def test_classes(folder, name, key, count, names):
  found, called = open_tfds(folder, name).classes(key)
  assert found == count
  assert (called is None) == (names is None)
  assert all(called[number] == name for number, name in (names or {}).items())


def test_instances_are_no_classes(folder):
  with pytest.raises(ValueError, match=r"150 classes.*'mask_folder:/path/ADE"):
    open_tfds(folder, "scene_parse150").classes("annotation")
