"""Images in class folders, good and bad."""

import os
import pickle
import time

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.sources import folder, image_listing


def write(path, value, extension=".png"):
  """Writes a small image of one grey value."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = np.full((4, 5, 3), value, np.uint8)
  path.write_bytes(cv2.imencode(extension, image)[1].tobytes())


def fill(root, classes=("cat", "dog"), count=10):
  for label, name in enumerate(classes):
    for i in range(count):
      write(root / name / f"{i}.png", 100 * label + i)


def open_folder(root, split="train"):
  return data.open_source({"name": f"folder:{root}", "split": split})


def labels_and_values(source):
  pp = data.parse("decode")
  examples = [pp(source[i]) for i in range(len(source))]
  return [(int(e["label"]), int(e["image"][0, 0, 0])) for e in examples]


def test_classes_are_numbered_in_alphabetical_order(tmp_path):
  fill(tmp_path)
  source = open_folder(tmp_path)
  assert source.class_names == ["cat", "dog"] and source.num_classes == 2
  assert sorted(labels_and_values(source)) == [
    (label, 100 * label + i) for label in (0, 1) for i in range(10)
  ]
  assert [source[i]["id"] for i in range(20)] == list(range(20))


@pytest.mark.parametrize(
  "extension", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".gif"]
)
def test_formats(tmp_path, extension):
  write(tmp_path / "a" / f"x{extension}", 77, extension)
  write(tmp_path / "b" / f"x{extension}", 99, extension)
  pairs = sorted(labels_and_values(open_folder(tmp_path)))
  assert [label for label, _ in pairs] == [0, 1]
  assert abs(pairs[0][1] - 77) < 10 and abs(pairs[1][1] - 99) < 10


def test_slices_are_a_partition_and_mix_the_classes(tmp_path):
  fill(tmp_path, count=50)
  parts = [
    labels_and_values(open_folder(tmp_path, split))
    for split in ("train[:80%]", "train[80%:]")
  ]
  assert [len(part) for part in parts] == [80, 20]
  everything = labels_and_values(open_folder(tmp_path, "all"))
  assert parts[0] + parts[1] == everything
  assert len(set(everything)) == 100
  assert {label for label, _ in parts[1]} == {0, 1}
  # The order does not depend on where the folder is.
  fill(tmp_path / "elsewhere", count=50)
  assert labels_and_values(open_folder(tmp_path / "elsewhere")) == everything


def test_too_few_images_for_a_tenth(tmp_path):
  fill(tmp_path, count=2)
  _, test = folder.choose_splits(tmp_path)
  # No warning of classes without an image precedes it.
  with pytest.raises(ValueError) as error:
    open_folder(tmp_path, test)
  for words in (
    "train[90%:] of folder:",
    f"There are 4 examples in {tmp_path}",
    "at least 5 are needed",
    "train=train[:3],test=train[3:]",
  ):
    assert words in str(error.value)


def test_split_folders(tmp_path):
  fill(tmp_path / "train", ("cat", "dog", "emu"), 4)
  fill(tmp_path / "val", ("dog",), 3)
  assert len(open_folder(tmp_path)) == 12
  assert len(open_folder(tmp_path, "train[:25%]")) == 3
  with pytest.warns(UserWarning, match="no image of 2 of the 3 .*'cat', 'emu'"):
    val = open_folder(tmp_path, "validation")
  # Labels mean the same in all splits.
  assert val.class_names == ["cat", "dog", "emu"]
  assert {val[i]["label"].item() for i in range(3)} == {1}
  assert len(open_folder(tmp_path / "train")) == 12


@pytest.mark.parametrize(
  "train, val",
  [("training", "validation"), ("Train", "dev"), ("train", "val")],
)
def test_the_training_folder_numbers_the_classes_of_all(tmp_path, train, val):
  fill(tmp_path / train, ("ant", "bee", "cat"), 2)
  fill(tmp_path / val, ("bee", "cat"), 2)
  fill(tmp_path / "extra", ("cat",), 2)
  for split in ("train", train, f"{train}[:50%]"):
    assert open_folder(tmp_path, split).class_names == ["ant", "bee", "cat"]
  for split in ("validation", "val", val, "val[:100%]", "extra"):
    with pytest.warns(UserWarning, match="no image of"):
      source = open_folder(tmp_path, split)
    assert source.class_names == ["ant", "bee", "cat"]
    assert source.labels().max() == 2 and source.labels().min() > 0
  both = open_folder(tmp_path, "train[:50%]+val")
  assert both.labels().tolist() == [
    *open_folder(tmp_path, "train").labels()[:3],
    *open_folder(tmp_path, "train+val").labels()[6:],
  ]
  assert len(open_folder(tmp_path, "all")) == 10


def test_without_a_training_folder_all_splits_have_the_same_classes(tmp_path):
  fill(tmp_path / "val", ("ant", "bee"), 1)
  fill(tmp_path / "test", ("bee", "cat"), 1)
  for split in ("val", "test"):
    with pytest.warns(UserWarning, match="no image of 1 of the 3"):
      source = open_folder(tmp_path, split)
    assert source.class_names == ["ant", "bee", "cat"]
  # Folders that are no splits have nothing to do with one another.
  fill(tmp_path / "other" / "animals", ("ant", "bee"), 1)
  fill(tmp_path / "other" / "vehicles", ("bus", "car"), 1)
  source = open_folder(tmp_path / "other", "vehicles")
  assert source.class_names == ["bus", "car"]


@pytest.mark.parametrize("name", ["train", "test", "Validation"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
  fill(tmp_path, ("bus", "car", name), 2)
  source = open_folder(tmp_path, "train[:100%]")
  assert source.class_names == sorted(["bus", "car", name])
  assert len(source) == 6


def test_every_slice_has_the_classes_in_proportion(tmp_path):
  sizes = {"a": 40, "b": 20, "c": 10, "rare": 3, "single": 1}
  for name, size in sizes.items():
    fill(tmp_path, (name,), size)
  for start in range(0, 100, 10):
    with pytest.warns(UserWarning, match="no image of"):
      part = open_folder(tmp_path, f"all[{start}%:{start + 10}%]")
    counts = np.bincount(part.labels(), minlength=5)
    for count, size in zip(counts, sizes.values(), strict=True):
      assert abs(count - size / 10) <= 1
  # What is rare is trained rather than tested.
  train = open_folder(tmp_path, "train[:90%]")
  assert set(train.labels()) == set(range(5))
  with pytest.warns(UserWarning, match="no image of 2 of the 5 .*'single'"):
    open_folder(tmp_path, "train[90%:]")


def test_classes_that_only_the_held_out_part_has_are_named(tmp_path):
  for i in range(20):
    write(tmp_path / f"person{i:02}" / "0.png", i)
  with pytest.warns(UserWarning, match="no image of 2 of the 20 .*'person"):
    open_folder(tmp_path, "train[:90%]")


def test_a_single_class_is_warned_of(tmp_path):
  fill(tmp_path, ("flowers",))
  with pytest.warns(UserWarning, match="a single class, 'flowers'.*level off"):
    open_folder(tmp_path)


def test_a_folder_is_listed_once_as_long_as_it_does_not_change(
  tmp_path, monkeypatch
):
  fill(tmp_path)
  old = time.time() - 60
  for path in (tmp_path, tmp_path / "cat", tmp_path / "dog"):
    os.utime(path, (old, old))
  source = open_folder(tmp_path, "train[:90%]")
  listed = []
  original = image_listing._list
  monkeypatch.setattr(
    image_listing,
    "_list",
    lambda root, stamp: listed.append(root) or original(root, stamp),
  )
  parts = [open_folder(tmp_path, s) for s in ("train[90%:]", "all")]
  assert not listed
  assert len(source) + len(parts[0]) == len(parts[1]) == 20
  write(tmp_path / "cat" / "new.png", 1)
  assert len(open_folder(tmp_path)) == 21 and len(listed) == 1
  # Changed just now, so it may be changing still.
  assert len(open_folder(tmp_path)) == 21 and len(listed) == 2
  (tmp_path / "dog").rename(tmp_path / "emu")
  assert open_folder(tmp_path).class_names == ["cat", "emu"]


def test_images_are_told_by_their_content(tmp_path):
  """Names say nothing of formats; files with strange names are looked at."""
  fill(tmp_path, ("cat", "dog"), 2)
  gif = cv2.imencode(".gif", np.full((4, 5, 3), 200, np.uint8))[1].tobytes()
  (tmp_path / "cat" / "a_gif.jpg").write_bytes(gif)
  for name in ("cat/n01", "dog/x.image"):
    (tmp_path / name).write_bytes((tmp_path / "cat" / "0.png").read_bytes())
  source = open_folder(tmp_path)
  values = [value for _, value in labels_and_values(source)]
  assert len(values) == 7 and max(values) > 150


def test_heic_is_read_where_there_is_a_decoder(tmp_path, monkeypatch):
  fill(tmp_path, ("cat", "dog"), 2)
  (tmp_path / "cat" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
  monkeypatch.setattr(
    image_listing.importlib.util, "find_spec", lambda name: name
  )
  assert len(open_folder(tmp_path)) == 5


def test_links(tmp_path):
  fill(tmp_path / "all", ("cat", "dog"), 2)
  for name in ("cat", "dog"):
    (tmp_path / "some" / name).mkdir(parents=True)
    (tmp_path / "some" / name / "1.png").symlink_to(
      tmp_path / "all" / name / "1.png"
    )
  assert len(open_folder(tmp_path / "some")) == 2
  (tmp_path / "all" / "dog" / "1.png").unlink()
  with pytest.raises(ValueError, match=r"dog/1\.png: is a link to nothing"):
    open_folder(tmp_path / "some")


@pytest.mark.parametrize(
  ("target", "reason"),
  [
    ("nowhere", "is a link to nothing"),
    ("link", "is a link that cannot be followed .*Too many levels"),
  ],
)
def test_links_that_lead_nowhere(tmp_path, target, reason):
  for place in ("link", "train/link", "train/cat/link", "test/link"):
    root = tmp_path / place.replace("/", "_")
    fill(root / "train", ("cat", "dog"), 2)
    fill(root / "test", ("cat", "dog"), 2)
    (root / place).symlink_to(target)
    with pytest.raises(ValueError, match=f"{place}:? {reason}"):
      open_folder(root, "all")


def test_a_file_that_is_no_image_is_a_corrupt_example(tmp_path):
  fill(tmp_path, ("cat", "dog"), 2)
  (tmp_path / "cat" / "page.jpg").write_bytes(b"<html>")
  config = {"name": f"folder:{tmp_path}", "split": "all", "pp": "decode"}
  with pytest.raises(data.ExampleError, match=r"page\.jpg of .*<html>"):
    next(data.train_batches(config, batch_size=5, seed=0))


def test_sources_are_sent_to_processes_in_few_bytes(tmp_path):
  fill(tmp_path, count=100)
  source = open_folder(tmp_path, "train[:50%]")
  text = pickle.dumps(source)
  # A name has six letters, and beside it there are a label and a length.
  assert len(text) < 200 * 32 + 2000
  again = pickle.loads(text)
  for i in (0, 57, 99):
    assert again.describe(i) == source.describe(i)
    assert again[i]["image"] == source[i]["image"]


def test_labels_and_digest(tmp_path):
  fill(tmp_path / "a")
  source = open_folder(tmp_path / "a")
  expected = [int(source[i]["label"]) for i in range(len(source))]
  assert source.labels().tolist() == expected
  with pytest.raises(ValueError, match=r"'id' is no entry .*: label"):
    source.labels("id")
  # Of names and classes, wherever they are.
  fill(tmp_path / "b")
  assert open_folder(tmp_path / "b").digest() == source.digest()
  write(tmp_path / "b" / "dog" / "more.png", 1)
  assert open_folder(tmp_path / "b").digest() != source.digest()
  (tmp_path / "a" / "dog").rename(tmp_path / "a" / "emu")
  assert open_folder(tmp_path / "a").digest() != source.digest()


def test_what_nobody_put_there_is_ignored(tmp_path):
  fill(tmp_path)
  for name in (".DS_Store", "Thumbs.db", "desktop.ini", "THUMBS.DB"):
    (tmp_path / "cat" / name).write_bytes(b"x")
  for name in (".cache", "__MACOSX", "@eaDir", "lost+found"):
    write(tmp_path / name / "cat" / "1.png", 1)
    write(tmp_path / "dog" / name / "1.png", 1)
  (tmp_path / "README.md").write_text("x")
  assert len(open_folder(tmp_path)) == 20


def test_batches(tmp_path):
  fill(tmp_path)
  config = {
    "name": f"folder:{tmp_path}",
    "split": "train",
    "pp": "decode|resize(8)|value_range|keep('image','label')",
    "num_threads": 2,
  }
  batch = next(data.train_batches(config, batch_size=6, seed=0))
  assert batch["image"].shape == (6, 8, 8, 3)
  assert batch["label"].shape == (6,)


@pytest.mark.parametrize(
  "name", ["a:b", "a,b", "my split", "caf\u00e9", "cafe\u0301", "a=b", "#%?&"]
)
def test_folders_may_have_odd_names(tmp_path, name):
  fill(tmp_path / name, count=4)
  assert len(open_folder(tmp_path, f"{name}[:50%] + {name}[75%:]")) == 6
  assert folder.choose_splits(tmp_path, f"{name}[:50%]", f"{name}[50%:]")
  for path in (name, "train+val", "x[1]", " "):
    fill(tmp_path / "paths" / path / "train", count=4)
    assert len(open_folder(tmp_path / "paths" / path, "train[:50%]")) == 4


def test_tables_beside_folders_without_classes_are_no_splits(tmp_path):
  """As competitions hand images out: the folders are no classes."""
  write(tmp_path / "train" / "1.png", 1)
  write(tmp_path / "test" / "1.png", 1)
  for name in ("train.csv", "test.csv"):
    (tmp_path / name).write_text("file,label")
  with pytest.raises(ValueError, match="read as having the splits test, train"):
    open_folder(tmp_path)
  fill(tmp_path / "train", count=1)
  (tmp_path / "train" / "1.png").unlink()
  assert folder.choose_splits(tmp_path) == ("train[:90%]", "train[90%:]")


@pytest.mark.parametrize("other", ["Cat", "cat ", "\uff43at"])
def test_classes_of_nearly_the_same_name(tmp_path, other):
  fill(tmp_path / "train", ("cat", "dog"), 1)
  fill(tmp_path / "val", (other, "dog"), 1)
  with pytest.raises(ValueError, match=f"lacks: '{other}'.* in case, in blank"):
    open_folder(tmp_path, "val")
  fill(tmp_path / "train", (other,), 1)
  with pytest.warns(UserWarning, match="only in case.*'cat'.* join them"):
    assert open_folder(tmp_path).num_classes == 3
