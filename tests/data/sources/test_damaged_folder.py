"""Folders and images that are missing, damaged or gone."""

import os

import pytest

from tests.data.sources.test_folder import fill, open_folder, write
from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.sources import folder


@pytest.mark.parametrize(
  "files, split, messages",
  [
    ([], "train", ["no class folders", ".jpeg"]),
    (["x.png"], "train", ["no class folders", "Did you mean"]),
    (["cat/"], "train", ["cat: has no images"]),
    (["cat/x.png"], "test", ["no split 'test'", "'cat'", "train[:90%]"]),
    (
      ["val/a/x.png"],
      "train",
      ["no split 'train'. Its splits are: validation"],
    ),
    (["a/x.png", "b/c/x.png"], "train", ["b/c: is a folder inside a class"]),
    (["a/x.png", "a/c/x.png", "b/x.png"], "train", ["a/c: is a folder inside"]),
    (["x/a/x.png"], "train", ["Its splits are: x", "one level down", "/x."]),
    (["train/a/x.png", "val/b/x.png"], "val", ["lacks: 'b'"]),
    (["train/a/x.png", "test/x.png"], "test", ["test is there, but holds no"]),
    (["train/a/1.png", "val/a/1.png", "dev/a/1.png"], "val", ["both dev and"]),
    (["train/1.png", "test/1.png"], "train", ["rename them, such as"]),
    (["a/x.png", "stray.png"], "train", ["stray.png: lies outside"]),
    (["a/x.png"], "train[:0]", ["empty", "There is 1 example in"]),
    (["train+val/a/x.png"], "train+val", ["Rename 'train+val': + and [ ] in"]),
    (
      ["x[1]/a/x.png", "val/a/1.png"],
      "x[1]",
      ["no split 'x'", "Rename 'x[1]'"],
    ),
    ([" x/a/x.png"], " x", ["Rename ' x'", "blanks"]),
    (["]x/a/x.png"], "]x", ["+, [ or ] in its name", "rename it"]),
    (["all/a/x.png", "test/a/x.png"], "all", ["a folder 'all'", "Rename"]),
    (["a/x.png"], "train[:2]", ["[:2] of", "which has 1 examples"]),
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
  for message in [*messages, str(tmp_path)]:
    assert message in str(error.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
  fill(tmp_path)
  os.mkfifo(tmp_path / "cat" / "pipe.jpg")
  with pytest.raises(ValueError, match=r"cat/pipe\.jpg: is no file"):
    open_folder(tmp_path)


def test_missing_folder(tmp_path):
  with pytest.raises(ValueError, match="no such folder"):
    open_folder(tmp_path / "nowhere")


def test_bad_files_are_refused_with_names_and_a_count(tmp_path):
  fill(tmp_path)
  (tmp_path / "cat" / "a.mp4").write_bytes(b"<html>")
  (tmp_path / "cat" / "b").write_bytes(b"")
  (tmp_path / "cat" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
  with pytest.raises(ValueError) as error:
    open_folder(tmp_path)
  message = str(error.value)
  assert "and 3 of what is in it (1 .mp4, 1 other, 1 .heic) cannot" in message
  assert f"{tmp_path}/cat/a.mp4: is no image: it starts with b'<html>'" in (
    message
  )
  assert f"{tmp_path}/cat/b: is empty" in message
  assert "pillow-heif, or convert it, such as with ImageMagick: magick" in (
    message
  )

  for i in range(10):
    (tmp_path / "dog" / f"more{i}.txt").write_text("x")
  with pytest.raises(ValueError, match="13 of what is in it") as error:
    open_folder(tmp_path)
  assert "... and 8 more" in str(error.value)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path, capfd, num_threads):
  fill(tmp_path, ("cat", "dog"), 3)
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
  fill(tmp_path, ("cat", "dog"), 1)
  config = {"name": f"folder:{tmp_path}", "split": "all", "pp": "decode"}
  source = data.open_source(config)
  (tmp_path / "cat" / "0.png").unlink()
  with pytest.raises(data.ExampleError, match=r"cat/0\.png of folder"):
    next(data.train_batches(config, batch_size=2, seed=0, source=source))


def test_no_image_is_read_twice_from_the_check_to_the_end_of_a_pass(
  tmp_path, monkeypatch
):
  fill(tmp_path)
  read = []
  original = folder.FolderSource._read

  def note(self, index):
    read.append(index)
    return original(self, index)

  monkeypatch.setattr(folder.FolderSource, "_read", note)
  section = dict(name=f"folder:{tmp_path}", split="train", num_threads=2)
  section["pp"] = "decode|keep('image','label')"
  source = data.open_source(section)
  assert not read
  data.peek(section, source)
  batches = list(data.eval_batches(section, batch_size=8, source=source))
  assert len(batches) == 3 and sorted(read) == list(range(20))
