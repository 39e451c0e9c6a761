"""Images below a folder, whatever the folders are called."""

import os

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data as data_lib

NAMES = ("a.png", "day 1/b.jpg", "day 1/näher/c.JPEG", "train/d.png", "e.bmp")


def write_image(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  _, encoded = cv2.imencode(path.suffix, np.full((4, 6, 3), value, np.uint8))
  path.write_bytes(encoded.tobytes())


@pytest.fixture
def folder(tmp_path):
  for number, name in enumerate(NAMES):
    write_image(tmp_path / name, 40 * number)
  (tmp_path / "Thumbs.db").write_bytes(b"x")
  (tmp_path / ".hidden").mkdir()
  write_image(tmp_path / ".hidden/f.png", 0)
  return tmp_path


def opened(folder, split="train", pp="decode"):
  return data_lib.open_source(
    {"name": f"images:{folder}", "split": split, "pp": pp}
  )


def test_all_images_are_read_at_any_depth(folder):
  source = opened(folder)
  paths = {source.describe(i).split(", ")[1] for i in range(len(source))}
  assert paths == {str(folder / name) for name in NAMES}
  assert set(source[0]) == {"image", "id"}
  assert source.class_names is None and source.num_classes is None


def test_parts_are_in_an_order_that_no_name_tells_and_share_nothing(folder):
  (folder / "more").mkdir()
  for number in range(60):
    write_image(folder / f"more/{number:03}.png", number)
  source = opened(folder)
  order = [source.describe(i).split(", ")[1] for i in range(len(source))]
  assert order != sorted(order)
  first, rest = opened(folder, "train[:90%]"), opened(folder, "train[90%:]")
  assert (len(first), len(rest)) == (58, 7)
  shown = [first.describe(57), rest.describe(0)]
  assert [text.split(", ")[1] for text in shown] == order[57:59]
  assert first.digest() != rest.digest() != source.digest()


def test_files_that_are_no_images_are_counted_and_left_out(folder):
  """An image without suffix is one."""
  (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
  (folder / "about.json").write_text("{}")
  os.rename(folder / "a.png", folder / "a")
  source = opened(folder)
  assert len(source) == 5
  (note,) = source.notes
  assert note.endswith(
    "5 images, and other files that are not read (1 .json, 1 .mp4)."
  ) or note.endswith("(1 .mp4, 1 .json).")


def test_links_that_lead_nowhere_are_counted(folder):
  for name in ("lost.png", "gone"):
    (folder / name).symlink_to("/nowhere/a.png")
  os.mkfifo(folder / "pipe.png")
  (note,) = opened(folder).notes
  assert note.endswith("not read (2 links that lead nowhere).")


def test_a_folder_is_listed_once_until_it_changes(folder):
  """A run opens it for training, evaluation and pictures."""
  for path in (folder, *folder.rglob("*/")):
    os.utime(path, (0, 0))
  first, second = opened(folder, "train[:50%]"), opened(folder, "train[50%:]")
  assert first._files is second._files
  write_image(folder / "day 1/näher/new.png", 9)
  assert len(opened(folder)) == len(first) + len(second) + 1
  assert opened(folder)._files is not first._files


def test_links_are_followed_once(folder, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  write_image(other / "g.png", 1)
  (folder / "link").symlink_to(other)
  (folder / "day 1/loop").symlink_to(folder)
  (folder / "gone").symlink_to(folder / "nothing")
  assert len(opened(folder)) == 6


@pytest.mark.parametrize(
  "path, split, message",
  [
    ("", "test", r"has no split 'test'\. Its splits are: train"),
    ("none", "train", r"there is no folder .*none"),
    ("empty", "train", r"no image below .*empty, .*1 \.txt"),
    ("", "train[:0]", "is empty"),
  ],
)
def test_mistakes(folder, path, split, message):
  (folder / "empty").mkdir()
  (folder / "empty/readme.txt").write_text("no image")
  with pytest.raises(ValueError, match=message):
    opened(folder / path, split)
