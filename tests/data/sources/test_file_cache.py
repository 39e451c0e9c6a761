"""Files are not read again while what they gave is used and they stay."""

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import file_cache, image_header
from tokenlearner_flexivit.data.sources.mask_folder import checks

NUMBER = 20


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def open_split(name, split):
  return data.open_source(dict(name=name, split=split), split)


def age(root):
  """Makes all files older than what a file system's clock resolves."""
  old = time.time() - 60
  for path in [root, *root.rglob("*")]:
    os.utime(path, (old, old))


def coco(root):
  content = dict(images=[], annotations=[], categories=[dict(id=1, name="cat")])
  panoptic = dict(images=[], annotations=[], categories=content["categories"])
  for i in range(NUMBER):
    write(root / "train" / f"{i}.png", np.zeros((4, 6, 3), np.uint8))
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[..., 0] = 1
    write(root / "annotations" / "panoptic_train" / f"{i}.png", ids)
    image = dict(id=i, file_name=f"{i}.png", height=4, width=6)
    box = dict(category_id=1, bbox=[0, 0, 6, 4], iscrowd=0)
    for part in (content, panoptic):
      part["images"].append(image)
    content["annotations"].append(dict(id=i, image_id=i, **box))
    segments = [dict(id=1, area=24, **box)]
    panoptic["annotations"].append(
      dict(image_id=i, file_name=f"{i}.png", segments_info=segments)
    )
  for name, part in (("instances", content), ("panoptic", panoptic)):
    file = root / "annotations" / f"{name}_train.json"
    file.write_text(json.dumps(part))
  return f"coco:{root}", root / "train" / "3.png", 2 * NUMBER


def mask_folder(root):
  for i in range(NUMBER):
    write(root / "images" / f"{i}.png", np.zeros((4, 6, 3), np.uint8))
    write(root / "masks" / f"{i}.png", np.zeros((4, 6), np.uint8))
  (root / "classes.txt").write_text("ground\nsky\n")
  return f"mask_folder:{root}", root / "images" / "3.png", 2 * NUMBER


def captions(root):
  lines = ["file,caption"]
  for i in range(NUMBER):
    write(root / f"{i}.png", np.zeros((4, 6, 3), np.uint8))
    lines.append(f"{i}.png,number {i}")
  (root / "table.csv").write_text("\n".join(lines))
  return f"captions:{root}", root / "3.png", NUMBER


@pytest.mark.parametrize("fill", [coco, mask_folder, captions])
def test_headers_are_read_once_for_all_slices(tmp_path, monkeypatch, fill):
  name, image, number = fill(tmp_path)
  age(tmp_path)
  read, original = [], image_header.read
  monkeypatch.setattr(
    image_header, "read", lambda path: read.append(path) or original(path)
  )
  parts = [open_split(name, s) for s in ("train[:90%]", "train[90%:]")]
  assert sum(map(len, parts)) == NUMBER and len(read) == number
  # An image that is replaced may have another size.
  write(image, np.zeros((5, 6, 3), np.uint8))
  if fill is captions:
    open_split(name, "all")
    assert len(read) == 2 * number
  else:
    with pytest.raises(ValueError, match=r"3\.png"):
      open_split(name, "all")


def test_ids_of_masks_are_checked_once(tmp_path, monkeypatch):
  name, *_ = mask_folder(tmp_path)
  age(tmp_path)
  first = open_split(name, "train[:90%]")
  with monkeypatch.context() as patched:
    patched.setattr(checks, "_scan", None)
    assert len(open_split(name, "all")) == len(first) + 2
  # The same masks by other classes.
  (tmp_path / "classes.txt").write_text("ground\n")
  write(tmp_path / "masks" / "0.png", np.ones((4, 6), np.uint8))
  with pytest.raises(ValueError, match="has the ids 1, but"):
    open_split(name, "all")


def folder(root):
  for i in range(NUMBER):
    write(root / "ab"[i % 2] / f"{i}.png", np.zeros((4, 6, 3), np.uint8))
  return f"folder:{root}", root / "a" / "0.png", 0


@pytest.mark.parametrize("fill", [coco, mask_folder, captions, folder])
def test_folders_are_not_listed_again_for_another_split(
  tmp_path, monkeypatch, fill
):
  name, image, _ = fill(tmp_path)
  if fill is captions:
    (tmp_path / "z").mkdir()
  age(tmp_path)
  first = open_split(name, "train[:90%]")
  listed, original = [], splits.visible
  monkeypatch.setattr(
    splits, "visible", lambda path: listed.append(path) or original(path)
  )
  kind = type(first)
  for split in ("train", "train[:50%]", "all"):
    kind.check_split(name, split)
  assert not listed and len(first) == NUMBER - 2
  write(tmp_path / "new" / "0.png", np.zeros((4, 6, 3), np.uint8))
  write(image.with_name("x.png"), np.zeros((4, 6, 3), np.uint8))
  kind.check_split(name, "train")
  assert listed


@pytest.mark.parametrize("fill", [coco, mask_folder, captions, folder])
def test_paths_may_be_relative(tmp_path, monkeypatch, fill):
  name, *_ = fill(tmp_path / "a" / "b")
  age(tmp_path)
  kind, _, path = name.partition(":")
  monkeypatch.chdir(tmp_path / "a")
  assert len(open_split(f"{kind}:b", "all")) == NUMBER
  # Known by another path now, and another folder has the old one.
  monkeypatch.chdir(tmp_path)
  (tmp_path / "b").mkdir()
  assert len(open_split(f"{kind}:{path}", "all")) == NUMBER
  assert len(open_split(f"{kind}:a/b", "all")) == NUMBER


class Result:
  pass


def test_a_result_is_read_again_if_its_files_change(tmp_path):
  cache, files = file_cache.FileCache(), [tmp_path / "a", tmp_path / "b"]
  for file in files:
    file.write_text("x")
  age(tmp_path)

  def read(stamp):
    stamp.add(files)
    return Result()

  first = cache.get("key", read)
  assert cache.get("key", read) is first
  assert cache.get("other", read) is not first
  files[1].write_text("y")
  second = cache.get("key", read)
  # It may change again within the same tick of the clock.
  third = cache.get("key", read)
  assert first is not second is not third
  age(tmp_path)
  third = cache.get("key", read)
  assert cache.get("key", read) is third
  files[0].unlink()
  assert cache.get("key", read) is not third


def test_a_few_results_are_kept_without_use(tmp_path):
  cache, made = file_cache.FileCache(most=2), []

  def read(stamp):
    stamp.add([tmp_path])
    made.append(None)
    return len(made)

  age(tmp_path)
  assert [cache.get(key, read) for key in "abaabcbca"] == [
    *(1, 2, 1, 1, 2, 3, 2, 3, 4)
  ]


def test_many_files_have_times_in_order(tmp_path):
  files = [tmp_path / str(i) for i in range(300)]
  for i, file in enumerate(files):
    file.write_text("")
    os.utime(file, ns=(i, i))
  files[7].unlink()
  times = file_cache.Stamp().add(files)
  expected = [*range(300)]
  expected[7] = file_cache.MISSING
  assert times == expected
