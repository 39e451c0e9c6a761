"""Images in class folders, good and bad."""

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data


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
  "extension", [".jpg", ".JPEG", ".png", ".webp", ".bmp"]
)
def test_formats(tmp_path, extension):
  write(tmp_path / "a" / f"x{extension}", 77, extension)
  ((label, value),) = labels_and_values(open_folder(tmp_path))
  assert label == 0 and abs(value - 77) < 3


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


def test_split_folders(tmp_path):
  fill(tmp_path / "train", ("cat", "dog", "emu"), 4)
  fill(tmp_path / "val", ("dog",), 3)
  assert len(open_folder(tmp_path)) == 12
  assert len(open_folder(tmp_path, "train[:25%]")) == 3
  val = open_folder(tmp_path, "val")
  # Labels mean the same in all splits.
  assert val.class_names == ["cat", "dog", "emu"]
  assert {val[i]["label"].item() for i in range(3)} == {1}
  assert len(open_folder(tmp_path / "train")) == 12


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


def test_hidden_files_and_a_readme_are_ignored(tmp_path):
  fill(tmp_path)
  (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
  (tmp_path / ".cache").mkdir()
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
  "files, split, messages",
  [
    ([], "train", ["no class folders", ".jpeg"]),
    (["x.png"], "train", ["no class folders"]),
    (["cat/"], "train", ["cat: has no images"]),
    (["cat/x.png"], "test", ["no split 'test'", "'cat'", "train[:90%]"]),
    (["val/a/x.png"], "train", ["val/a: is a folder inside a class folder"]),
    (["train/a/x.png", "val/b/x.png"], "val", ["lacks: 'b'"]),
    (["a/x.png", "stray.png"], "train", ["stray.png: lies outside"]),
    (["a/x.png"], "train+test", ["Cannot read the split"]),
    (["a/x.png"], "train[:0]", ["empty"]),
  ],
)
def test_bad_folders(tmp_path, files, split, messages):
  for name in files:
    if name.endswith("/"):
      (tmp_path / name).mkdir()
    else:
      write(tmp_path / name, 1)
  with pytest.raises(ValueError) as error:
    open_folder(tmp_path, split)
  for message in [*messages, str(tmp_path) if "+" not in split else split]:
    assert message in str(error.value)


def test_missing_folder(tmp_path):
  with pytest.raises(ValueError, match="no such folder"):
    open_folder(tmp_path / "nowhere")


def test_bad_files_are_refused_with_names_and_a_count(tmp_path):
  fill(tmp_path)
  (tmp_path / "cat" / "a.jpg").write_bytes(b"<html>")
  (tmp_path / "cat" / "b.png").write_bytes(b"")
  (tmp_path / "dog" / "notes.txt").write_text("x")
  with pytest.raises(ValueError) as error:
    open_folder(tmp_path)
  message = str(error.value)
  assert message.startswith("3 of the files")
  assert f"{tmp_path}/cat/a.jpg: is no image: it starts with b'<html>'" in (
    message
  )
  assert f"{tmp_path}/cat/b.png: is empty" in message
  assert f"{tmp_path}/dog/notes.txt: is none of .bmp" in message

  for i in range(10):
    (tmp_path / "dog" / f"more{i}.txt").write_text("x")
  with pytest.raises(ValueError, match="13 of the files") as error:
    open_folder(tmp_path)
  assert "... and 8 more" in str(error.value)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path, capfd, num_threads):
  fill(tmp_path, ("cat",), 3)
  config = {
    "name": f"folder:{tmp_path}",
    "split": "all",
    "pp": "decode|keep('image')",
    "num_threads": num_threads,
  }
  source = data.open_source(config)
  batches = data.eval_batches(config, batch_size=1, source=source)
  path = tmp_path / source.describe(2).partition(", ")[2]
  path.write_bytes(path.read_bytes()[:40])
  iterator = iter(batches)
  next(iterator), next(iterator)
  with pytest.raises(data.ExampleError) as error:
    next(iterator)
  for message in (str(path), f"folder:{tmp_path}", "decode", "damaged"):
    assert message in str(error.value)
  capfd.readouterr()  # OpenCV complains on stderr too.


def test_a_file_that_vanished_is_named(tmp_path):
  fill(tmp_path, ("cat",), 2)
  config = {"name": f"folder:{tmp_path}", "split": "all", "pp": "decode"}
  source = data.open_source(config)
  (tmp_path / "cat" / "0.png").unlink()
  batches = data.train_batches(config, batch_size=2, seed=0, source=source)
  with pytest.raises(data.ExampleError, match=r"cat/0\.png of folder"):
    next(batches)
