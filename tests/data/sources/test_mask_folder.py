"""Images with masks in the layouts that people use, good and bad."""

import json
import pickle
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import splits_read
from tokenlearner_flexivit.data.sources.mask_folder import checks, layout
from tokenlearner_flexivit.data.sources.mask_folder import (
  source as mask_folder,
)

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TLFV_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


def write(path, pixels, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def image(height=4, width=6, value=9):
  return np.full((height, width, 3), value)


def mask(*ids, height=4, width=6):
  pixels = np.zeros((height, width))
  pixels.flat[: len(ids)] = ids
  return pixels


def fill(images, masks, count=4, ids=(0, 1, 2, 255), suffix=""):
  for i in range(count):
    write(images / f"{i}.jpg", image(value=10 * i))
    write(masks / f"{i}{suffix}.png", mask(*ids, i % 3))


def open_folder(root, split="train"):
  return data.open_source({"name": f"mask_folder:{root}", "split": split})


def pairs(source):
  """Returns the names of images with the ids in their masks."""
  pp = data.parse("decode_ids(key='semantic')")
  examples = [pp(source[i]) for i in range(len(source))]
  return {
    e["file_name"].decode(): np.unique(e["semantic"]).tolist() for e in examples
  }


@pytest.mark.parametrize(
  "images, masks",
  [
    ("images/train", "masks/train"),
    ("train/images", "train/masks"),
    ("Images/Training", "Annotations/training"),
    ("imgs", "Labels"),
    ("img_dir/train", "ann_dir/train"),
    ("JPEGImages", "SegmentationClass"),
    ("images/a/b", "masks/a/b"),
  ],
)
def test_layouts(tmp_path, images, masks):
  fill(tmp_path / images, tmp_path / masks)
  source = open_folder(tmp_path)
  assert len(source) == 4
  assert source.classes("semantic") == (3, None)
  assert source.classes("label") == (None, None)
  assert source.num_classes is None
  assert {tuple(ids) for ids in pairs(source).values()} == {(0, 1, 2, 255)}
  assert [source[i]["id"] for i in range(4)] == list(range(4))
  example = source[0]
  file = next(tmp_path.rglob(example["file_name"].decode()))
  assert example["image"] == file.read_bytes()
  assert example["semantic"][:4] == b"\x89PNG"


def test_splits_have_their_own_masks_and_slices_are_a_partition(tmp_path):
  for name, count in (("train", 10), ("Val", 3)):
    fill(tmp_path / "images" / name, tmp_path / "masks" / name, count)
  (tmp_path / "images" / "test").mkdir()
  write(tmp_path / "images" / "test" / "x.jpg", image())
  slices = ("train[:80%]", "train[80%:]")
  parts = [pairs(open_folder(tmp_path, part)) for part in slices]
  assert [len(part) for part in parts] == [8, 2]
  assert parts[0] | parts[1] == pairs(open_folder(tmp_path, "training"))
  assert len(open_folder(tmp_path, "train+dev")) == 13
  with pytest.raises(ValueError, match=r"'test' of .* no folder of masks"):
    open_folder(tmp_path, "test")
  with pytest.raises(ValueError, match="has no split 'extra'"):
    open_folder(tmp_path, "extra")
  with pytest.raises(ValueError, match="has no split 'extra'"):
    mask_folder.MaskFolderSource.check_split(f"mask_folder:{tmp_path}", "extra")
  assert mask_folder.choose_splits(tmp_path) == ("train", "validation")
  name = f"mask_folder:{tmp_path}"
  section = {"name": name, "split": "train"}
  (line,) = splits_read.describe({"data": section, "evals": {}})
  assert line == f"{name}: reading train. Not reading validation, test."


@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_masks_of_all_splits_may_lie_in_one_folder(tmp_path, suffix):
  for i, part in enumerate(("train", "train", "val")):
    write(tmp_path / "images" / part / f"{i}.jpg", image())
    write(tmp_path / "masks" / f"{i}{suffix}.png", mask(1))
  assert set(pairs(open_folder(tmp_path))) == {"0.jpg", "1.jpg"}
  assert set(pairs(open_folder(tmp_path, "val"))) == {"2.jpg"}


def test_a_mask_belongs_to_one_split(tmp_path):
  for part in ("train", "val"):
    write(tmp_path / "images" / part / "1.jpg", image())
  write(tmp_path / "masks" / "1.png", mask(1))
  with pytest.raises(ValueError, match=r"has 1 in train and in val, and .*one"):
    open_folder(tmp_path)
  write(tmp_path / "images" / "2.jpg", image())
  with pytest.raises(ValueError, match=r"images/2\.jpg lies beside .*in none"):
    open_folder(tmp_path)


def test_ade20k(tmp_path):
  for part in ("training", "validation"):
    fill(tmp_path / "images" / part, tmp_path / "annotations" / part)
  (tmp_path / "objectInfo150.txt").write_text(
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    "1\t0.1576\t11664\t1172\t1\twall\n"
    "2\t0.1072\t6046\t612\t1\tbuilding, edifice\n"
  )
  source = open_folder(tmp_path, "val")
  assert source.classes("semantic") == (
    3,
    ["none", "wall", "building, edifice"],
  )
  assert source.value_names["semantic"][1] == "wall"


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
  for city in ("aachen", "bonn"):
    name = f"{city}_000000_000019"
    write(
      tmp_path / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png",
      image(),
    )
    labels = tmp_path / "gtFine" / "train" / city
    write(labels / f"{name}_gtFine_{kind}.png", mask(7, 11))
    write(labels / f"{name}_gtFine_color.png", image())
    write(labels / f"{name}_gtFine_instanceIds.png", mask(99))
    (labels / f"{name}_gtFine_polygons.json").write_text("{}")
  source = open_folder(tmp_path)
  assert set(pairs(source)) == {
    f"{city}/{city}_000000_000019_leftImg8bit.png"
    for city in ("aachen", "bonn")
  }
  count, names = source.classes("semantic")
  known = {"labelIds": (34, "building", 11), "labelTrainIds": (19, "sky", 10)}
  expected, name, place = known[kind]
  assert count == expected and names[place] == name


def test_masks_beside_images_as_roboflow_exports_them(tmp_path):
  for part in ("train", "valid"):
    fill(tmp_path / part, tmp_path / part, suffix="_mask")
    (tmp_path / part / "_classes.csv").write_text(
      "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"
    )
  source = open_folder(tmp_path, "valid")
  assert set(pairs(source)) == {f"{i}.jpg" for i in range(4)}
  assert source.classes("semantic") == (3, ["background", "cat", "dog"])


@pytest.mark.parametrize(
  "name, text",
  [
    ("classes.txt", "sky\ntree\nroad\n"),
    ("Classes.TXT", "\ufeffsky\r\ntree\r\nroad"),
    ("labels.txt", "0: sky\n1: tree\n2: road"),
    ("classes.json", json.dumps(["sky", "tree", "road"])),
    ("classes.json", json.dumps({"0": "sky", "1": "tree", "2": "road"})),
    ("classes.json", json.dumps({"tree": 1, "sky": 0, "road": 2, "void": 255})),
    (
      "labels.json",
      json.dumps(
        [{"id": i, "name": n} for i, n in enumerate(("sky", "tree", "road"))]
      ),
    ),
  ],
)
def test_lists_of_classes(tmp_path, name, text):
  fill(tmp_path / "images", tmp_path / "masks")
  (tmp_path / name).write_text(text, encoding="utf-8")
  source = open_folder(tmp_path)
  assert source.classes("semantic") == (3, ["sky", "tree", "road"])
  assert "ids of 4 masks. There are 3 classes by " in source.notes[0]


@pytest.mark.parametrize(
  "name, text, message",
  [
    ("classes.txt", "sky\n\nroad\n", "line 2 is empty"),
    ("classes.txt", "", "lists no classes"),
    ("classes.json", "[1, 2]", "is no list of classes"),
    ("classes.json", '{"sky": "x"}', "is no list of classes"),
    ("classes.json", "[", "is no JSON"),
    ("classes.json", '{"sky": 0, "tree": 0}', "the id 0 twice"),
    ("classes.json", '{"sky": 0, "tree": 300}', "the ids 0 to 300"),
    (
      "classes.txt",
      "sky\ntree\n",
      r"0.png: has the ids 2, .* 0 to 1.* lack .* id 0",
    ),
    ("classes.json", '{"a": 0, "b": 2}', r"has the ids 1, .* not all of these"),
  ],
)
def test_bad_lists_of_classes(tmp_path, name, text, message):
  fill(tmp_path / "images", tmp_path / "masks")
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path)


def test_without_a_list_the_training_masks_number_the_classes(tmp_path):
  for part, ids in (("train", (0, 3, 255)), ("val", (0, 1))):
    fill(tmp_path / "images" / part, tmp_path / "masks" / part, 2, ids)
  with pytest.warns(
    UserWarning, match="give 4 classes, of which 2 do not occur"
  ):
    source = open_folder(tmp_path)
  assert source.classes("semantic") == (4, None)
  assert "by the ids in all masks of 'train'" in source.notes[0]
  with pytest.warns(UserWarning):  # Read once, not again.
    assert open_folder(tmp_path, "val").classes("semantic")[0] == 4
  write(tmp_path / "masks" / "val" / "1.png", mask(4))
  with (
    pytest.warns(UserWarning),
    pytest.raises(ValueError, match=r"val/1.png: has the ids 4, but .* 0 to 3"),
  ):
    open_folder(tmp_path, "val")


def test_masks_of_0_and_255_are_named(tmp_path):
  for i in range(2):
    write(tmp_path / "images" / f"{i}.jpg", image())
    write(tmp_path / "masks" / f"{i}.png", mask(255))
  with pytest.warns(UserWarning, match=r"only 0 and 255.*map_labels\("):
    assert open_folder(tmp_path).classes("semantic") == (1, None)


def break_size(root):
  write(root / "masks" / "1.png", mask(height=8, width=3))


def break_jpeg(root):
  (root / "masks" / "1.png").unlink()
  write(root / "masks" / "1.jpg", mask())


def break_colours(root):
  colours = image()
  colours[0, 0] = (200, 0, 0)
  write(root / "masks" / "1.png", colours)


def break_16_bits(root):
  ids = np.full((4, 6), 4000, np.uint16)
  assert cv2.imwrite(str(root / "masks" / "1.png"), ids)


@pytest.mark.parametrize(
  "change, message",
  [
    (break_size, r"images/1.jpg: has 6 x 4, its mask 1.png 3 x 8 pixels"),
    (break_jpeg, r"masks/1.jpg: is a JPEG, .* Export masks as PNG"),
    (break_colours, r"masks/1.png: has colours in place of"),
    (break_16_bits, r"masks/1.png: has the ids 4000 to 4000"),
    (
      lambda r: (r / "masks/1.png").unlink(),
      r"1.jpg: has no mask .*masks/1.png",
    ),
    (
      lambda r: write(r / "images/1.png", image()),
      r"images/1.(png|jpg): 1.(png|jpg) has the same name",
    ),
    (
      lambda r: write(r / "masks/1_mask.png", mask()),
      r"masks/1_mask.png: 1.jpg has another mask",
    ),
    (lambda r: (r / "masks/1.png").write_bytes(b""), "masks/1.png: is empty"),
    (
      lambda r: (r / "images/1.jpg").write_bytes(b"\xff\xd8\xff\xe0"),
      "images/1.jpg: is a JPEG that ends before",
    ),
    (
      lambda r: (r / "masks/1.png").write_bytes(
        (r / "masks/1.png").read_bytes()[:45]
      ),
      "masks/1.png: the map is damaged",
    ),
  ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
  fill(tmp_path / "images", tmp_path / "masks")
  change(tmp_path)
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path)


def test_a_path_may_be_relative(tmp_path, monkeypatch):
  fill(tmp_path / "mine" / "images", tmp_path / "mine" / "masks")
  monkeypatch.chdir(tmp_path)
  assert len(open_folder("mine")) == 4
  monkeypatch.chdir(tmp_path / "mine")
  assert len(open_folder(".")) == 4


def test_links_to_a_folder_above_are_passed_over(tmp_path):
  """Two of them would be followed 2^40 times."""
  fill(tmp_path / "images", tmp_path / "masks")
  for name in ("one", "two"):
    (tmp_path / "images" / name).symlink_to(tmp_path / "images")
    (tmp_path / "masks" / name).symlink_to(tmp_path / "masks")
  (tmp_path / "more").mkdir()
  write(tmp_path / "more" / "z.jpg", image())
  write(tmp_path / "masks" / "linked" / "z.png", mask(0))
  (tmp_path / "images" / "linked").symlink_to(tmp_path / "more")
  assert len(open_folder(tmp_path)) == 5


@pytest.mark.parametrize("name", ["A.png", "e\u0301.png"])
def test_masks_whose_names_are_spelt_otherwise_are_told(tmp_path, name):
  fill(tmp_path / "images", tmp_path / "masks")
  other = unicodedata.normalize("NFC", name).replace("A", "a")
  write(tmp_path / "images" / other, image())
  write(tmp_path / "masks" / name, mask())
  with pytest.raises(ValueError, match=f"has no mask .*masks/{name} differs"):
    open_folder(tmp_path)


def test_classes_of_the_same_name_are_warned_of(tmp_path):
  fill(tmp_path / "images", tmp_path / "masks")
  (tmp_path / "classes.txt").write_text("ground\nsky\nSky\n")
  with pytest.warns(UserWarning, match="'sky', 'Sky'.* join them"):
    open_folder(tmp_path)


def test_the_ids_of_many_masks_are_sampled(tmp_path, monkeypatch, capsys):
  fill(tmp_path / "images", tmp_path / "masks", 9)
  monkeypatch.setattr(mask_folder, "_MANY", 8)
  assert "ids of 9 masks" in open_folder(tmp_path).notes[0]
  assert "reading the ids of 9 masks, once" in capsys.readouterr().out
  (tmp_path / "classes.txt").write_text("a\nb\nc\n")
  for limits, number in (({"_MOST_MASKS": 4}, 4), ({"_MOST_PIXELS": 60}, 2)):
    for name, value in limits.items():
      monkeypatch.setattr(checks, name, value)
    assert f"ids of {number} masks" in open_folder(tmp_path).notes[0]


def test_masks_without_an_image_are_warned_of(tmp_path):
  fill(tmp_path / "images", tmp_path / "masks")
  write(tmp_path / "masks" / "lost.png", mask())
  with pytest.warns(UserWarning, match=r"1 mask in .* without .*\n.*lost.png"):
    assert len(open_folder(tmp_path)) == 4


def test_files_of_operating_systems_are_ignored(tmp_path):
  fill(tmp_path / "images", tmp_path / "masks")
  for folder in ("images", "masks", "__MACOSX/images", "."):
    for name in ("Thumbs.db", ".DS_Store", "._0.jpg"):
      (tmp_path / folder).mkdir(parents=True, exist_ok=True)
      (tmp_path / folder / name).write_bytes(b"x")
  (tmp_path / "masks" / "README.txt").write_text("masks")
  assert len(open_folder(tmp_path)) == 4


def test_palettes_count_by_their_positions(tmp_path):
  fill(tmp_path / "images", tmp_path / "masks", 1)
  picture = Image.fromarray(np.asarray(mask(1, 2), np.uint8), "P")
  picture.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
  picture.save(tmp_path / "masks" / "0.png")
  assert pairs(open_folder(tmp_path)) == {"0.jpg": [0, 1, 2]}


def test_images_that_exif_turns(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  for i, side in enumerate((6, 4)):
    write(tmp_path / "images" / f"{i}.jpg", image(4, side), exif=exif)
    write(tmp_path / "masks" / f"{i}.png", mask(1, height=4, width=side))
  # A square mask may be turned or not.
  with pytest.warns(UserWarning, match=r"turn 1 image.*\n.*images/1.jpg"):
    source = open_folder(tmp_path)
  assert len(source) == 2
  write(tmp_path / "masks" / "0.png", mask(1, height=6, width=4))
  with pytest.warns(UserWarning):
    assert len(open_folder(tmp_path)) == 2


@pytest.mark.parametrize(
  "files, message",
  [
    ((), "is no folder of images and masks"),
    (("images/1.jpg",), "Images are there, but no folder called masks"),
    (("a/images/1.jpg",), "a has images, but no folder of masks"),
    (("cat/1.jpg", "dog/1.jpg"), "expected PATH/images and PATH/masks"),
  ],
)
def test_other_folders_are_refused(tmp_path, files, message):
  for file in files:
    write(tmp_path / file, image())
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path)
  if files and "images" in files[0]:
    folder = (tmp_path / files[0]).parent
    with pytest.raises(ValueError, match=f"Did you mean {folder.parent}"):
      open_folder(folder)


def test_a_folder_that_is_not_there():
  with pytest.raises(
    ValueError, match="mask_folder:/nowhere: there is no such"
  ):
    open_folder("/nowhere")
  assert mask_folder.choose_splits("/nowhere") == ("train[:90%]", "train[90%:]")


def test_the_digest_is_that_of_the_content_and_sources_are_pickled(tmp_path):
  fill(tmp_path / "a" / "images", tmp_path / "a" / "masks")
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  first, second = (open_folder(tmp_path / name) for name in "ab")
  assert first.digest() == second.digest()
  assert first.digest() != open_folder(tmp_path / "a", "train[:50%]").digest()
  copy = pickle.loads(pickle.dumps(first))
  assert copy[1] == first[1]
  assert "images/" in copy.describe(1) and "masks/" in copy.describe(1)
  assert [part.size for part in first.parts] == [4]
  assert list(layout.find_places(tmp_path / "a")) == ["train"]


def test_masks_and_images_make_batches(tmp_path):
  fill(tmp_path / "images", tmp_path / "masks", ids=(0, 1, 2, 255))
  config = {
    "name": f"mask_folder:{tmp_path}",
    "split": "train",
    "pp": "decode(masks='semantic')|map_labels({0: 255, 1: 0, 2: 1, 255: 255})"
    "|resize(8, masks='semantic')|value_range(-1,1)|keep('image','semantic')",
  }
  (batch,) = data.eval_batches(config, batch_size=4)
  assert batch["image"].shape == (4, 8, 8, 3)
  assert batch["semantic"].shape == (4, 8, 8)
  assert set(np.unique(batch["semantic"])) == {0, 1, 255}
  source = data.open_source({k: config[k] for k in ("name", "split")})
  assert data.classes(config, source, key="semantic") == (2, None)


def voc(root, **lists):
  """Writes the folders of Pascal VOC, as CVAT exports them."""
  fill(root / "JPEGImages", root / "SegmentationClass")
  write(root / "JPEGImages" / "without_a_mask.jpg", image())
  for name, stems in lists.items():
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def test_a_tiff_is_always_turned(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  for i in range(4):
    write(tmp_path / "images" / f"{i}.tif", image(), exif=exif)
    write(tmp_path / "masks" / f"{i}.png", mask(0, 1, 2))
  with pytest.raises(ValueError, match=r"has 4 x 6, its mask .* 6 x 4 pixels"):
    open_folder(tmp_path)
  for i in range(4):
    write(tmp_path / "masks" / f"{i}.png", mask(0, 1, 2, height=6, width=4))
  example = open_folder(tmp_path)[0]
  decoded = data.parse("decode(masks='semantic')")(example)
  assert decoded["image"].shape == (*decoded["semantic"].shape, 3) == (6, 4, 3)


def test_masks_too_large_for_pillow_are_named(tmp_path, monkeypatch):
  fill(tmp_path / "images", tmp_path / "masks")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
  with pytest.raises(ValueError, match=r"masks/0\.png: the map is too large"):
    open_folder(tmp_path)


def test_lists_of_splits(tmp_path):
  voc(tmp_path, train="01", val="2", trainval="012")
  assert set(pairs(open_folder(tmp_path))) == {"0.jpg", "1.jpg"}
  assert set(pairs(open_folder(tmp_path, "val"))) == {"2.jpg"}
  assert len(open_folder(tmp_path, "trainval")) == 3
  assert len(open_folder(tmp_path, "train+val")) == 3
  with pytest.raises(ValueError, match=r"2 images twice, .*0\.jpg: train and"):
    open_folder(tmp_path, "train+trainval")
  assert mask_folder.choose_splits(tmp_path) == ("train", "validation")
  voc(tmp_path, train="019")
  with pytest.raises(ValueError, match="JPEGImages/9: is listed, but there"):
    open_folder(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_editors_write_them(tmp_path, encoding):
  voc(tmp_path, train="", val="2")
  lists = {
    tmp_path / "ImageSets" / "Segmentation" / "train.txt": "0\r\n1\r\n",
    tmp_path / "classes.txt": "sky\r\ncaf\u00e9\r\nroad\r\n",
  }
  for path, text in lists.items():
    path.write_bytes(text.encode(encoding))
  source = open_folder(tmp_path)
  assert set(pairs(source)) == {"0.jpg", "1.jpg"}
  assert source.classes("semantic") == (3, ["sky", "caf\u00e9", "road"])
  for path in lists:
    good = path.read_bytes()
    path.write_bytes("0\r\ncaf\u00e9\r\n".encode("latin1"))
    words = rf"{path.name} is not UTF-8: line 2 has the byte 0xe9\. Save it as"
    with pytest.raises(ValueError, match=words):
      open_folder(tmp_path)
    path.write_bytes(good)


LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
cat:250,50,83::
dog:1,2,3::
"""


def test_colours_of_a_legend_are_classes(tmp_path):
  voc(tmp_path, default="0123")
  for i in range(4):
    pixels = image(value=0)
    pixels[0, :3] = (250, 50, 83), (1, 2, 3), (224, 224, 192)
    write(tmp_path / "SegmentationClass" / f"{i}.png", pixels)
  with pytest.raises(ValueError, match=r"has colours .* no labelmap.txt"):
    open_folder(tmp_path)
  (tmp_path / "labelmap.txt").write_text(LABELMAP)
  source = open_folder(tmp_path)
  assert source.classes("semantic") == (3, ["background", "cat", "dog"])
  config = {"pp": "decode(masks='semantic')"}
  mask = data.parse(config["pp"])(source[0])["semantic"]
  assert mask[0].tolist() == [1, 2, 255, 0, 0, 0] and not mask[1:].any()
  write(tmp_path / "SegmentationClass" / "2.png", image(value=77))
  with pytest.raises(ValueError, match=r"2.png: has the colour \(77, 77, 77\)"):
    open_folder(tmp_path)


@pytest.mark.parametrize(
  "text, message",
  [
    ("cat\n", "cannot read 'cat'"),
    ("cat:1,2,3::\ndog:1,2,3::\n", "several classes of the same colour"),
    ("# nothing", "lists no classes"),
  ],
)
def test_bad_legends(tmp_path, text, message):
  fill(tmp_path / "images", tmp_path / "masks")
  (tmp_path / "labelmap.txt").write_text(text)
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path)
