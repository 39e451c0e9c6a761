"""The panoptic configs on COCO's own files."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import uvim, uvim_code
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.train import setup

# With gaps between the ids, and stuff beside things, as COCO has them.
CATEGORIES = [
  {"id": 1, "name": "person", "isthing": 1},
  {"id": 17, "name": "cat", "isthing": 1},
  {"id": 187, "name": "sky-other-merged", "isthing": 0},
  {"id": 193, "name": "grass-merged", "isthing": 0},
]
SKY, GRASS, CROWD, CAT, PERSON = 16_000_000, 70_000, 300, 256, 7
PANOPTIC = "annotations/panoptic_{}"


def photo(height, width):
  """Returns ids of segments: sky over grass, and what stands on it."""
  ids = np.full((height, width), GRASS, np.int64)
  ids[: height // 2] = SKY
  ids[-8:, :10] = CROWD
  ids[2:12, 12:20] = CAT
  ids[4:10, 24:30] = PERSON
  ids[:, -3:] = 0  # Void.
  return ids


def write_coco(root):
  """Writes photos, upright, wide and grey, and their labels."""
  kinds = {SKY: 187, GRASS: 193, CROWD: 1, CAT: 17, PERSON: 1}
  for split, sizes in (
    ("train2017", [(40, 64)] * 10),
    ("val2017", [(60, 34), (40, 64)]),
  ):
    folders = root / split, root / PANOPTIC.format(split)
    for folder in folders:
      folder.mkdir(parents=True)
    images, annotations = [], []
    for number, size in enumerate(sizes, start=139):
      ids, name = photo(*size), f"{number:012d}"
      colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1)
      colours = Image.fromarray(colours.astype(np.uint8))
      colours.save(folders[1] / f"{name}.png")
      grey = Image.fromarray((ids % 251).astype(np.uint8))
      mode = "L" if number == 140 else "RGB"  # COCO has both.
      grey.convert(mode).save(folders[0] / f"{name}.jpg")
      about = {"id": number, "height": size[0], "width": size[1]}
      images.append({**about, "file_name": f"{name}.jpg"})
      segments = []
      for key, category in kinds.items():
        y, x = np.nonzero(ids == key)
        box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        segments.append(
          {
            "id": key,
            "category_id": category,
            "bbox": np.array(box).tolist(),
            "area": len(y),
            "iscrowd": int(key == CROWD),
          }
        )
      annotations.append(
        {
          "image_id": number,
          "file_name": f"{name}.png",
          "segments_info": segments,
        }
      )
    content = dict(
      images=images, annotations=annotations, categories=CATEGORIES
    )
    file = root / f"{PANOPTIC.format(split)}.json"
    file.write_text(json.dumps(content))
    # Boxes of other categories lie beside, which are not read.
    (root / f"annotations/instances_{split}.json").write_text("broken")
  return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.mark.parametrize(
  "module, arg", [(uvim_code, ""), (uvim, "coder=none,init=none,")]
)
def test_both_stages_read_cocos_own_files(module, arg, folder):
  config = module.get_config(f"{arg}data=coco:{folder},holdout=2")
  config.batch_size, config.total_epochs = 8, 2
  experiment = setup.Experiment(config)
  task = experiment.task
  assert task.class_names == [category["name"] for category in CATEGORIES]
  assert task.stuff == {2, 3} and task.coder.num_labels == 5
  assert set(experiment.evaluators) == {"val", "holdout"}
  val = experiment.evaluators["val"]
  assert ("ceiling" in val.metrics) == (module is uvim)
  assert val.image_shape == experiment.image_shape == (512, 512, 3)


def test_crowds_and_void_count_at_the_original_size(folder):
  """They are void in training, and crowds in the truth."""
  sections = uvim_code.evaluations(f"coco:{folder}", 0)
  assert list(sections) == ["val"]
  section = sections["val"]
  source = data_lib.open_source(section["data"])
  names = list(map(source.describe, range(len(source))))
  (index,) = (i for i, name in enumerate(names) if "000000000139" in name)
  prepared = data_lib.parse(section["data"]["pp"])(source[index])
  assert prepared["image"].shape == (512, 512, 3)
  ids = photo(60, 34)
  grid = [(np.arange(512) + 0.5) * n / 512 for n in ids.shape]
  resized = ids[np.ix_(*(places.astype(int) for places in grid))]
  labels = {CAT: 1, PERSON: 0, SKY: 2, GRASS: 3, 0: 255, CROWD: 255}
  heights = {key: np.nonzero(resized == key)[0].mean() for key in labels}
  order = sorted((CAT, PERSON, SKY, GRASS), key=heights.get)
  numbers = {0: 0, CROWD: 0} | {key: i for i, key in enumerate(order, 1)}
  for key, expected in (("instances", numbers), ("semantic", labels)):
    np.testing.assert_array_equal(
      prepared[key], np.vectorize(expected.get)(resized)
    )
  truth = data_lib.parse(section["truth"])(source[index])
  assert truth["semantic"].shape == (640, 640)
  np.testing.assert_allclose(truth.pop("valid") * 640, ids.shape)
  shown = {key: value[:60, :34] for key, value in truth.items()}
  np.testing.assert_array_equal(shown["crowd"], ids == CROWD)
  np.testing.assert_array_equal(
    shown["semantic"], np.vectorize({**labels, CROWD: 0}.get)(ids)
  )
  assert len(np.unique(shown["instances"])) == 6
  assert (truth["semantic"][60:] == 255).all()


def test_images_are_held_out_once():
  section = uvim_code.get_config()
  assert section.data.split == "train[4096:]"
  assert section.evals.holdout.data.split == "train[:4096]"
  section = uvim.get_config("coder=none,init=none,holdout=0")
  assert section.data.split == "train" and "holdout" not in section.evals
  with pytest.raises(ValueError, match="holdout=-1 must be"):
    uvim_code.get_config("holdout=-1")
