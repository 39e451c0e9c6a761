"""Annotations in COCO's form with odd or missing values."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import lit
from tokenlearner_flexivit.data.sources.coco import source as coco


def content(**changes):
  """Returns annotations of two images; lists are those of their objects."""
  return {
    "images": [{"id": i, "file_name": f"{i}.png"} for i in range(2)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
      {"id": i, "image_id": i, "category_id": 1 + i, "bbox": [1, 2, 4, 2]}
      for i in range(2)
    ],
  } | changes


def opened(root, written, name="result.json"):
  (root / "images").mkdir()
  for i in range(2):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(
      root / "images" / f"{i}.png"
    )
  (root / name).write_text(json.dumps(written))
  source = coco.CocoSource(f"coco:{root}", "train")
  return sorted(
    (source[i] for i in range(len(source))), key=lambda x: x["image/id"]
  )


def as_floats(value):
  if isinstance(value, dict):
    return {key: as_floats(x) for key, x in value.items()}
  if isinstance(value, list):
    return [as_floats(x) for x in value]
  return float(value) if isinstance(value, int) else value


def test_whole_numbers_may_be_written_as_floats(tmp_path):
  first, second = opened(tmp_path, as_floats(content()))
  assert (first["image/id"], second["image/id"]) == (0, 1)
  assert first["objects"]["label"].tolist() == [0]
  assert second["objects"]["label"].tolist() == [1]
  np.testing.assert_allclose(
    second["objects"]["bbox"], [[0.2, 0.05, 0.4, 0.25]], rtol=1e-6
  )


def set_in(key, **values):
  def change(written):
    written[key][1].update(values)

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (set_in("categories", id=1), "2 categories have the id 1"),
    (set_in("categories", id="2"), "categories have the id '2', and ids are"),
    (set_in("images", id="b"), "images have the id 'b', and ids are whole"),
    (set_in("images", id=0.5), "images have the id 0.5, and ids are whole"),
    (set_in("images", id=2**63), "images have the id 9223372036854775808, and"),
    (set_in("annotations", id="b"), "annotations have the id 'b', and ids"),
    (set_in("annotations", iscrowd="0"), "annotation 1 has iscrowd='0', which"),
    (
      set_in("annotations", bbox=[], segmentation=[[1, 2, 3]]),
      "annotation 1 has no bbox of four",
    ),
  ],
)
def test_values_that_mean_nothing_are_named(tmp_path, change, message):
  written = content()
  change(written)
  with pytest.raises(ValueError, match=f"result.json: .*{message}"):
    opened(tmp_path, written)


def test_captions_without_a_word_are_left_out(tmp_path):
  texts = [(0, " A cat. "), (0, ""), (1, None), (1, "Two"), (1, "-")]
  notes = [
    {"id": i, "image_id": image, "caption": text}
    for i, (image, text) in enumerate(texts)
  ]
  with pytest.warns(UserWarning, match="has 3 captions without a word") as told:
    first, second = opened(
      tmp_path, content(annotations=notes), "captions_train.json"
    )
  assert "the annotation 2: None" in str(told[0].message)
  assert (first["captions"], second["captions"]) == (["A cat."], ["Two"])
  assert coco.most_captions(tmp_path) == 1


def test_images_without_a_caption_are_left_out(tmp_path):
  notes = [{"id": i, "image_id": 1, "caption": f"Cat {i}"} for i in range(9)]
  written = content(annotations=notes)
  with pytest.warns(match=r"1 image .* no caption and are left out:\s*0\.png"):
    (only,) = opened(tmp_path, written, "captions_train.json")
  assert (only["image/id"], len(only["captions"])) == (1, 9)
  assert coco.most_captions(tmp_path) == 9
  training, evaluation = lit.pairs(
    f"coco:{tmp_path}", "train", "train", 8, "words", 4
  )
  assert training["features"] == ("image", "captions")
  assert "tokenize_all(4,'words',9,'captions')" in evaluation["data"]["pp"]


def test_an_image_under_two_ids_is_told(tmp_path):
  written = content()
  written["images"][1]["file_name"] = "0.png"
  with pytest.warns(
    UserWarning, match="lists 1 image under several ids(.|\n)*0.png"
  ):
    opened(tmp_path, written)


def test_an_image_has_one_panoptic_png(tmp_path):
  notes = [
    {"image_id": 0, "file_name": "0.png", "segments_info": []} for _ in range(2)
  ]
  with pytest.raises(ValueError, match="the image 0 has 2 panoptic PNGs"):
    opened(tmp_path, content(annotations=notes), "panoptic_train.json")
