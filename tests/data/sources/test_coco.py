"""Folders with COCO annotations, as COCO and tools lay them out."""

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import splits_read
from tokenlearner_flexivit.data.ops import exif as exif_lib
from tokenlearner_flexivit.data.sources.coco import source as coco

# Category ids with a gap, and not in order.
CATEGORIES = [
  {"id": 7, "name": "dog", "supercategory": "animal"},
  {"id": 3, "name": "cat", "supercategory": "animal"},
]


def write_images(folder, names=("a.jpg", "b.jpg", "c.jpg"), **options):
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(names):
    pixels = np.full((10, 20, 3), 20 * i, np.uint8)
    Image.fromarray(pixels).save(folder / name, **options)


def boxes(names=("a.jpg", "b.jpg", "c.jpg")):
  """Returns annotations: two objects in the first image, one in the second."""
  return {
    "images": [
      {"id": 10 + i, "file_name": name, "height": 10, "width": 20}
      for i, name in enumerate(names)
    ],
    "categories": CATEGORIES,
    "annotations": [
      {"id": 5, "image_id": 11, "category_id": 3, "bbox": [0, 0, 20, 10]},
      {
        "id": 1,
        "image_id": 10,
        "category_id": 7,
        "bbox": [5, 1, 10, 4],
        "area": 31.5,
        "iscrowd": 1,
        "segmentation": {"counts": "abc", "size": [10, 20]},
      },
      {
        "id": 2,
        "image_id": 10,
        "category_id": 3,
        "segmentation": [[2, 1, 6, 1, 6, 4]],
      },
    ],
  }


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def open_coco(root, split="train", **options):
  return data.open_source({"name": f"coco:{root}", "split": split, **options})


def by_name(source):
  examples = [source[i] for i in range(len(source))]
  return {e["image/filename"].decode(): e for e in examples}


LAYOUTS = {
  "coco": ("annotations/instances_train2017.json", "train2017", ""),
  "coco images": (
    "annotations/instances_train2017.json",
    "images/train2017",
    "",
  ),
  "cvat": ("annotations/instances_default.json", "images/default", ""),
  "cvat subset": ("annotations/instances_Train.json", "images/Train", ""),
  "roboflow": ("train/_annotations.coco.json", "train", ""),
  "label studio": ("result.json", "images", "images/"),
  "windows": ("result.json", "images", "images\\"),
  "another machine": ("result.json", "images", "../../upload/7/"),
  "by hand": ("train_annotations.json", "training", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
  file, images, prefix = LAYOUTS[layout]
  write_images(tmp_path / images)
  content = boxes([f"{prefix}{n}.jpg" for n in "abc"])
  write(tmp_path / file, content)
  # Not annotations.
  write(tmp_path / "notes.json", {"categories": []})
  write(tmp_path / "annotations" / "image_info_test2017.json", {"images": []})
  source = open_coco(tmp_path)
  assert source.classes("objects/label") == (2, ["cat", "dog"])
  assert source.num_classes is None
  examples = {n.rpartition("/")[2]: e for n, e in by_name(source).items()}
  first = examples["a.jpg"]
  assert first["image"] == (tmp_path / images / "a.jpg").read_bytes()
  assert first["image/id"] == 10
  objects = first["objects"]
  # As TFDS has them: ymin, xmin, ymax, xmax; without a box, the polygon's.
  np.testing.assert_allclose(
    objects["bbox"], [[0.1, 0.25, 0.5, 0.75], [0.1, 0.1, 0.4, 0.3]], rtol=1e-6
  )
  assert objects["bbox"].dtype == np.float32
  assert objects["label"].tolist() == [1, 0]
  assert objects["area"].tolist() == [31.5, 12]
  assert objects["is_crowd"].tolist() == [True, False]
  assert objects["id"].tolist() == [1, 2]
  assert examples["b.jpg"]["objects"]["bbox"].tolist() == [[0, 0, 1, 1]]
  assert examples["c.jpg"]["objects"]["bbox"].shape == (0, 4)
  assert sorted(source.labels("image/id")) == [10, 11, 12]


def test_splits_are_numbered_by_the_training_classes(tmp_path):
  for part in ("train", "valid", "test"):
    write_images(tmp_path / part)
    content = boxes()
    if part == "valid":  # Exported with other ids.
      content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "x"}]
      content["annotations"] = content["annotations"][1:2]
      content["annotations"][0]["category_id"] = 1
    write(tmp_path / part / "_annotations.coco.json", content)
  with pytest.warns(UserWarning, match="no object of 1 of the 2 .*'cat'"):
    source = open_coco(tmp_path, "val")
  assert by_name(source)["a.jpg"]["objects"]["label"].tolist() == [1]
  assert source.classes("objects/label") == (2, ["cat", "dog"])
  assert len(open_coco(tmp_path, "train+test[:1]")) == 4
  assert coco.choose_splits(tmp_path) == ("train", "validation")
  with pytest.raises(ValueError, match="has no split 'extra'"):
    coco.CocoSource.check_split(f"coco:{tmp_path}", "extra")
  name = f"coco:{tmp_path}"
  section = {"name": name, "split": "train"}
  (line,) = splits_read.describe({"data": section, "evals": {}})
  assert line == f"{name}: reading train. Not reading validation, test."


def test_years_are_no_part_of_a_split_unless_they_must_be(tmp_path):
  for part in ("train2017", "val2017"):
    write_images(tmp_path / part)
    write(tmp_path / "annotations" / f"instances_{part}.json", boxes())
  for split in ("val", "validation", "val2017"):
    assert len(open_coco(tmp_path, split)) == 3
  write_images(tmp_path / "train2014")
  write(tmp_path / "annotations" / "instances_train2014.json", boxes())
  assert len(open_coco(tmp_path, "train2014")) == 3
  with pytest.raises(ValueError, match=r"no split 'train'. .*train2014"):
    open_coco(tmp_path, "train")


def test_the_group_of_all_classes_is_no_class(tmp_path):
  """Roboflow lists it as the category 0."""
  write_images(tmp_path / "train")
  content = boxes()
  content["categories"] = [
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 3, "name": "cat", "supercategory": "pets"},
    {"id": 7, "name": "dog", "supercategory": "pets"},
  ]
  write(tmp_path / "train" / "_annotations.coco.json", content)
  source = open_coco(tmp_path)
  assert source.classes("objects/label") == (2, ["cat", "dog"])


def test_images_of_lvis_are_named_by_their_addresses(tmp_path):
  content = boxes()
  for image, part in zip(
    content["images"], ("train", "val", "val"), strict=True
  ):
    name = image.pop("file_name")
    write_images(tmp_path / f"{part}2017", (name,))
    image["coco_url"] = f"http://images.cocodataset.org/{part}2017/{name}"
  write(tmp_path / "annotations" / "lvis_v1_val.json", content)
  source = open_coco(tmp_path, "val")
  assert set(by_name(source)) == {
    "train2017/a.jpg",
    "val2017/b.jpg",
    "val2017/c.jpg",
  }
  assert source.classes("objects/label") == (2, ["cat", "dog"])


def panoptic(root):
  """Writes images with panoptic annotations, and boxes and captions beside."""
  notes = root / "annotations"
  write_images(root / "val2017", ("a.jpg", "b.jpg"))
  (notes / "panoptic_val2017").mkdir(parents=True)
  content = boxes(("a.jpg", "b.jpg"))
  content["annotations"] = []
  for i, name in enumerate("ab"):
    colours = np.zeros((10, 20, 3), np.uint8)
    colours[:, 10:] = (1, 2, i)
    Image.fromarray(colours).save(notes / "panoptic_val2017" / f"{name}.png")
    segment = {
      "id": 1 + 2 * 256 + i * 256**2,
      "category_id": 7,
      "area": 100,
      "bbox": [10, 0, 10, 10],
      "iscrowd": 0,
    }
    content["annotations"].append(
      {
        "image_id": 10 + i,
        "file_name": f"{name}.png",
        "segments_info": [segment],
      }
    )
  write(notes / "panoptic_val2017.json", content)
  write(notes / "instances_val2017.json", boxes(("a.jpg", "b.jpg")))
  captions = boxes(("a.jpg", "b.jpg"))
  captions["annotations"] = [
    {"id": i, "image_id": 10, "caption": text}
    for i, text in enumerate(("A cat. ", "Two pets"))
  ]
  write(notes / "captions_val2017.json", captions)
  return content


@pytest.mark.filterwarnings("ignore:.* has no object of")
def test_boxes_panoptic_and_captions_of_one_split(tmp_path):
  panoptic(tmp_path)
  source = open_coco(tmp_path, "val")
  first, second = (by_name(source)[f"{n}.jpg"] for n in "ab")
  assert first["captions"] == ["A cat.", "Two pets"]
  assert second["captions"] == []
  assert len(first["objects"]["label"]) == 2
  assert second["panoptic_objects"]["label"].tolist() == [1]
  np.testing.assert_allclose(
    second["panoptic_objects"]["bbox"], [[0, 0.5, 1, 1]]
  )
  decoded = data.parse("decode_ids(rgb=True, key='panoptic_image')")(second)
  ids = np.unique(decoded["panoptic_image"]).tolist()
  assert ids == [0, *second["panoptic_objects"]["id"]]
  # Only what is asked for is read.
  (tmp_path / "annotations" / "panoptic_val2017.json").write_text("broken")
  with pytest.warns(UserWarning, match="1 image .* have no caption"):
    source = open_coco(tmp_path, "val", features=("image", "captions"))
  assert sorted(source[0]) == ["captions", "id", "image"]
  assert source.value_names == {}
  with pytest.raises(ValueError, match="features has 'masks', but those of"):
    open_coco(tmp_path, "val", features=("masks",))


def lacks_png(root, content):
  (root / "annotations" / "panoptic_val2017" / "b.png").unlink()


def unknown_segment(root, content):
  content["annotations"][1]["segments_info"][0]["id"] = 9


def other_size(root, content):
  path = root / "annotations" / "panoptic_val2017" / "b.png"
  Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)


def no_segments(root, content):
  content["annotations"].pop()


@pytest.mark.parametrize(
  "change, message",
  [
    (lacks_png, r"b.png: cannot be read \(No such file"),
    (unknown_segment, "b.png: has the id 66049, which is no segment"),
    (other_size, r"b.png: has 5 x 5 pixels .* its image 20 x 10"),
    (no_segments, "b.jpg: has no segments"),
  ],
)
def test_panoptic_annotations_that_do_not_fit(tmp_path, change, message):
  content = panoptic(tmp_path)
  change(tmp_path, content)
  write(tmp_path / "annotations" / "panoptic_val2017.json", content)
  with pytest.raises(ValueError, match=message):
    open_coco(tmp_path, "val", features=("panoptic_objects",))


def change_box(box, number=0):
  def change(content):
    content["annotations"][number]["bbox"] = box

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: c["images"][1].update(id=10), "2 images have the id 10"),
    (lambda c: c["annotations"][0].update(id=1), "2 annotations have the id 1"),
    (
      lambda c: c["annotations"][0].update(category_id=4),
      "annotation 5 has the category 4, which is not listed",
    ),
    (
      lambda c: c["annotations"][0].update(image_id=99),
      "annotation 5 is of the image 99, which is not listed",
    ),
    (
      lambda c: c["images"][0].update(file_name="z.jpg"),
      "z.jpg: cannot be rea",
    ),
    (
      lambda c: c["images"][0].update(width=10, height=20),
      r"a.jpg: has 20 x 10 pixels .* the annotations say 10 x 20",
    ),
    (change_box([21, 0, 5, 5]), r"box \[21.*annotation 5 in b.jpg.*outside"),
    (change_box([5, 5, -1, 2]), r"box \[5.*outside of the image"),
    (change_box([5, 5, 1]), "annotation 5 has no bbox of four numbers"),
    (change_box([5, None, 1, 1]), "annotation 5 has no bbox of four"),
    (lambda c: c["images"][0].pop("file_name"), "'file_name' is missing"),
    (lambda c: c["categories"].clear(), "has the category 3, which is not"),
    (lambda c: c["categories"][0].update(name=None), "has no name, but None"),
    (lambda c: c["categories"][0].update(name=" "), "has no name, but ' '"),
    (
      lambda c: c["images"][0].update(file_name="A.jpg"),
      "A.jpg: cannot be read .*; 'a.jpg' is there",
    ),
    (
      lambda c: c["images"][0].update(file_name="a\0.jpg"),
      "has the name 'a.x00.jpg', which no file can have",
    ),
    (lambda c: c["images"][0].update(width=2**40), "out of bounds for int32"),
    (
      lambda c: c["categories"][0].update(name="cat"),
      "several categories with the same name: 'cat'",
    ),
  ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
  write_images(tmp_path / "images")
  content = copy.deepcopy(boxes())
  change(content)
  write(tmp_path / "result.json", content)
  with pytest.raises(ValueError, match=message):
    open_coco(tmp_path)


def test_boxes_are_cut_at_the_edges_and_dropped_without_an_area(tmp_path):
  write_images(tmp_path / "images")
  content = boxes()
  change_box([15.5, -0.5, 5, 5])(content)  # Rounded.
  change_box([15, 4, 10, 4], 1)(content)
  change_box([3, 3, 4, 0], 2)(content)
  write(tmp_path / "result.json", content)
  with pytest.warns(UserWarning) as caught:
    examples = by_name(open_coco(tmp_path))
  texts = [str(warning.message) for warning in caught]
  cut, flat = texts
  assert "1 annotation whose boxes are cut" in cut and "annotation 1 in" in cut
  assert "no area" in flat and flat.endswith("the annotation 2")
  objects = examples["a.jpg"]["objects"]
  np.testing.assert_allclose(objects["bbox"], [[0.4, 0.75, 0.8, 1]], rtol=1e-6)
  assert objects["id"].tolist() == [1]
  np.testing.assert_allclose(
    examples["b.jpg"]["objects"]["bbox"], [[0, 0.775, 0.45, 1]], rtol=1e-6
  )


def test_images_are_read_as_they_were_annotated(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  write_images(tmp_path / "images", exif=exif)
  content = boxes()
  content["images"][2].update(width=10, height=20)
  write(tmp_path / "result.json", content)
  with pytest.warns(UserWarning, match="EXIF data turn 2 images"):
    examples = by_name(open_coco(tmp_path))
  decode = data.parse("decode")
  assert decode(examples["a.jpg"])["image"].shape == (10, 20, 3)
  assert decode(examples["c.jpg"])["image"].shape == (20, 10, 3)


def test_all_images_may_be_annotated_as_stored(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  write_images(tmp_path / "images", exif=exif)
  write(tmp_path / "result.json", boxes())
  with pytest.warns(UserWarning, match="EXIF data turn 3 images whose"):
    example = by_name(open_coco(tmp_path))["b.jpg"]
  assert data.parse("decode")(example)["image"].shape == (10, 20, 3)
  assert example["objects"]["bbox"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("has_others", [True, False])
def test_square_images_are_read_as_the_others_were_annotated(
  has_others, tmp_path
):
  """Their sizes do not tell; upside down, a box would be elsewhere."""
  exif = Image.Exif()
  exif[0x0112] = 3
  write_images(tmp_path / "images", exif=exif)
  if has_others:
    exif[0x0112] = 6
    write_images(tmp_path / "images", ["a.jpg"], exif=exif)
  write(tmp_path / "result.json", boxes())
  says = "turn 3 images whose" if has_others else "turn 3 images, and the sizes"
  with pytest.warns(UserWarning, match=says):
    (_, example, _) = by_name(open_coco(tmp_path)).values()
  as_stored = exif_lib.as_stored(example["image"]) == example["image"]
  assert as_stored == has_others


@pytest.mark.parametrize("has_others", [True, False])
def test_turned_images_without_sizes_are_read_as_the_others(
  has_others, tmp_path
):
  exif = Image.Exif()
  exif[0x0112] = 6
  write_images(tmp_path / "images", exif=exif)
  content = boxes()
  change_box([0, 0, 5, 10])(content)
  change_box([1, 1, 4, 4], 1)(content)
  for image in content["images"][has_others:]:
    del image["width"], image["height"]
  write(tmp_path / "result.json", content)
  says = "turn 3 images whose" if has_others else "turn 3 images, and the sizes"
  with pytest.warns(UserWarning, match=says):
    examples = by_name(open_coco(tmp_path))
  box = examples["b.jpg"]["objects"]["bbox"].tolist()
  # Of 20 x 10 pixels, where the turned image has 10 x 20.
  assert box == [[0, 0, 1, 0.25] if has_others else [0, 0, 0.5, 0.5]]


def test_what_to_do_about_turned_images_depends_on_their_sides(tmp_path):
  """Boxes are divided by the sides of the turned image."""
  exif = Image.Exif()
  for number, advice in ((6, "its height and width"), (3, "exif=False")):
    exif[0x0112] = number
    write_images(tmp_path / "images", exif=exif)
    content = boxes()
    change_box([0, 0, 5, 10])(content)
    change_box([1, 1, 4, 4], 1)(content)
    for image in content["images"]:
      del image["width"], image["height"]
    write(tmp_path / "result.json", content)
    with pytest.warns(UserWarning, match=f"stored, .*{advice}"):
      open_coco(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "avif"])
def test_images_that_are_always_turned(suffix, tmp_path):
  names = [f"{n}.{suffix}" for n in "abc"]
  for name in names:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_images(tmp_path / "images", [name], exif=exif)
  content = boxes(names)
  write(tmp_path / "result.json", content)
  with pytest.raises(ValueError, match=rf"a\.{suffix}: its orientation always"):
    open_coco(tmp_path)
  change_box([0, 0, 10, 20])(content)
  change_box([1, 1, 4, 4], 1)(content)
  for image in content["images"]:
    image.update(width=10, height=20)
  write(tmp_path / "result.json", content)
  example = by_name(open_coco(tmp_path))[f"b.{suffix}"]
  assert example["objects"]["bbox"].tolist() == [[0, 0, 1, 1]]
  assert data.parse("decode")(example)["image"].shape == (20, 10, 3)


def test_two_names_of_a_file_are_refused(tmp_path):
  """Folders of another machine told them apart."""
  write_images(tmp_path / "images")
  names = ["/home/me/1/a.jpg", "/home/me/2/a.jpg", "/home/me/1/b.jpg"]
  write(tmp_path / "result.json", boxes(names))
  with pytest.raises(ValueError, match=r"/[12]/a.jpg are both .*images/a\.jpg"):
    open_coco(tmp_path)
  for name in names:
    write_images(tmp_path / "images" / name[9:10], [name[11:]])
  names = [name[9:] for name in names]
  write(tmp_path / "result.json", boxes(names))
  assert set(by_name(open_coco(tmp_path))) == set(names)


def test_sizes_of_several_files_must_agree(tmp_path):
  write_images(tmp_path / "train2017")
  content, words = boxes(), boxes()
  words["annotations"] = [
    {"id": i, "image_id": 10 + i, "caption": "a cat"} for i in range(3)
  ]
  words["images"][1].update(width=10, height=20)
  write(tmp_path / "annotations" / "captions_train2017.json", words)
  write(tmp_path / "annotations" / "instances_train2017.json", content)
  with pytest.raises(ValueError, match=r"b\.jpg: .* say 20 x 10 and 10 x 20"):
    open_coco(tmp_path)


def test_sizes_that_annotations_lack_are_those_of_the_images(tmp_path):
  write_images(tmp_path / "images")
  content = boxes()
  for image in content["images"]:
    del image["width"], image["height"]
  write(tmp_path / "result.json", content)
  examples = by_name(open_coco(tmp_path))
  assert examples["b.jpg"]["objects"]["bbox"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
  "files, message",
  [
    ((), "has no annotations in COCO's form"),
    (("a.json", "b.json"), r"a.json and .*b.json both hold boxes"),
    (("a.json", "val.json"), r"a.json names no split, but other"),
  ],
)
def test_folders_that_cannot_be_read(tmp_path, files, message):
  for file in files:
    write(tmp_path / file, boxes())
  with pytest.raises(ValueError, match=message):
    open_coco(tmp_path)


@pytest.mark.parametrize(
  "file, form",
  [
    ("labels/train/a.txt", "YOLO"),
    ("train/labels/a.txt", "YOLO"),
    ("Annotations/a.xml", "Pascal VOC"),
    ("train/a.xml", "Pascal VOC"),
  ],
)
def test_other_forms_of_boxes_are_told(tmp_path, file, form):
  write_images(tmp_path / "train" / "images")
  write(tmp_path / file, {})
  with pytest.raises(ValueError, match=rf"{file} seems .* {form}.* export"):
    open_coco(tmp_path)


def test_a_folder_that_is_not_there():
  with pytest.raises(ValueError, match="coco:/nowhere: there is no such"):
    open_coco("/nowhere")
  assert coco.choose_splits("/nowhere") == ("train[:90%]", "train[90%:]")


@pytest.mark.filterwarnings("ignore:.* has no object of")
def test_slices_are_a_partition_and_the_digest_is_that_of_the_content(tmp_path):
  names = [f"{i}.jpg" for i in range(10)]
  for folder in "ab":
    write_images(tmp_path / folder / "images", names)
    write(tmp_path / folder / "result.json", boxes(names))
  whole = open_coco(tmp_path / "a")
  parts = [
    list(by_name(open_coco(tmp_path / "a", part, features=("image/filename",))))
    for part in ("train[:70%]", "train[70%:]")
  ]
  assert [len(part) for part in parts] == [7, 3]
  assert parts[0] + parts[1] == list(by_name(whole))
  assert whole.digest() == open_coco(tmp_path / "b").digest()
  content = boxes(names)
  content["annotations"][0]["bbox"] = [0, 0, 20, 9]
  write(tmp_path / "b" / "result.json", content)
  assert whole.digest() != open_coco(tmp_path / "b").digest()
  copied = pickle.loads(pickle.dumps(whole))
  assert copied[3]["image"] == whole[3]["image"]
  assert copied.describe(3).startswith("example 3, ")


def test_too_few_images_for_a_tenth(tmp_path):
  write_images(tmp_path / "images")
  write(tmp_path / "result.json", boxes())
  # No warning of classes without an object precedes it.
  with pytest.raises(ValueError, match=r"There are 3 examples.*at least 5"):
    open_coco(tmp_path, "train[90%:]")


def test_boxes_and_images_make_batches(tmp_path):
  write_images(tmp_path / "images")
  write(tmp_path / "result.json", boxes())
  config = {
    "name": f"coco:{tmp_path}",
    "split": "train",
    "pp": "decode|objects(4,crowds=True)|resize(8)|value_range(-1,1)"
    "|keep('image','boxes','box_label','image/id')",
  }
  (batch,) = data.eval_batches(config, batch_size=3)
  first = batch["image/id"].tolist().index(10)
  assert batch["box_label"][first].tolist() == [1, 0, -1, -1]
  np.testing.assert_allclose(batch["boxes"][first, 0], [0.1, 0.25, 0.5, 0.75])
  source = data.open_source({k: config[k] for k in ("name", "split")})
  known = data.classes(config, source, key="box_label")
  assert known == (2, ["cat", "dog"])
