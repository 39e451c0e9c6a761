"""People's own videos: storing them once, and reading what is stored."""

import concurrent.futures
import errno
import itertools
import os
import pickle
import shutil
import socket
import threading
import warnings

import cv2
import numpy as np
import pytest

from tests.data.sources.video_folder.test_video_file import (
  frame_numbers,
  write_video,
)
from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.sources import preparation
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder import (
  frames as frame_store,
)
from tokenlearner_flexivit.data.sources.video_folder import (
  source as video_folder,
)

# Splits of a few videos have not all classes.
pytestmark = pytest.mark.filterwarnings("ignore:.* has no video of")


def write_table(path, *lines):
  path.write_text("".join(f"{line}\n" for line in lines))


def open_folder(root, data_dir, split="train", options="?fps=25&size=16"):
  name = f"video_folder:{root}{options}"
  return data.open_source(
    {"name": name, "split": split, "data_dir": str(data_dir)}
  )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A folder of two classes with 3 to 8 frames, prepared; and its data_dir."""
  root = tmp_path_factory.mktemp("my videos")
  for i in range(6):
    write_video(root / "train" / "ab"[i % 2] / f"{i}.mp4", 3 + i)
  write_video(root / "validation" / "b" / "x.mp4", 4)
  data_dir = tmp_path_factory.mktemp("tfds")
  open_folder(root, data_dir)
  return root, data_dir


def test_stored_frames_have_the_digest_of_their_videos(folders):
  root, data_dir = folders
  name = video_folder.prepare(root, data_dir, size=16)
  stored = data.open_source(
    {
      "name": f"video_folder/{name}",
      "split": "train",
      "data_dir": str(data_dir),
    }
  )
  assert stored.digest() == open_folder(*folders).digest()


def test_class_folders(folders):
  source = open_folder(*folders)
  assert source.class_names == ["a", "b"] and source.num_classes == 2
  assert source.has_labels_at_hand and source.label_keys() == ["label"]
  lengths = {}
  for i, example in enumerate(source[i] for i in range(len(source))):
    assert example["id"] == i and example["label"].dtype == np.int32
    frames = frame_numbers(example["video"])
    assert frames == list(range(len(frames)))
    lengths[example["file_name"].decode()] = len(frames), int(example["label"])
  assert lengths == {
    f"train/{'ab'[i % 2]}/{i}.mp4": (3 + i, i % 2) for i in range(6)
  }
  # The same number means the same class in all splits.
  validation = open_folder(*folders, "val")
  assert len(open_folder(*folders, "all")) == 7
  assert len(validation) == 1 and validation[0]["label"] == 1
  assert "validation/b/x.mp4" in validation.describe(0)
  # As for the processes that make batches.
  again = pickle.loads(pickle.dumps(source))
  assert list(again[3]["video"]) == list(source[3]["video"])
  parts = [open_folder(*folders, s) for s in ("train[:50%]", "train[50%:]")]
  assert [len(part) for part in parts] == [3, 3]
  with pytest.raises(ValueError, match=r"Its splits are: train, validation"):
    open_folder(*folders, "test")


def test_batches(folders):
  root, data_dir = folders
  config = {
    "name": f"video_folder:{root}?fps=25&size=16",
    "split": "train",
    "data_dir": str(data_dir),
    "pp": "decode_video|temporal_crop(4,2)|keep('video','label')",
    "num_threads": 2,
  }
  batches = data.train_batches(config, batch_size=4, seed=0)
  for batch in itertools.islice(batches, 3):
    assert batch["video"].shape == (4, 4, 16, 16, 3)
  batches.close()


def test_a_frame_in_several_views_is_decoded_once(folders, monkeypatch):
  root, data_dir = folders
  config = {
    "name": f"video_folder:{root}?fps=25&size=16",
    "split": "train",
    "data_dir": str(data_dir),
    "pp": "decode_video|temporal_views(4,1,4)|spatial_views(8,3)"
    "|keep('video','label')",
    "num_threads": 0,
  }
  batches = data.eval_batches(config, batch_size=4)
  calls, imdecode = [], cv2.imdecode
  monkeypatch.setattr(
    cv2,
    "imdecode",
    lambda *args: calls.append(threading.get_ident()) or imdecode(*args),
  )
  shapes = [batch["video"].shape for batch in batches]
  assert shapes == [(4, 12, 4, 8, 8, 3)] * 2
  # All frames of the six videos. Threads of other tests may not have ended.
  here = calls.count(threading.get_ident())
  assert here == 3 + 4 + 5 + 6 + 7 + 8


def test_prepared_once_and_readable_without_the_folder(
  folders, tmp_path, monkeypatch
):
  root, data_dir = folders
  monkeypatch.setattr(video_file, "iter_jpegs", None)
  source = open_folder(root, data_dir)
  moved = shutil.copytree(root, tmp_path / root.name)
  assert len(open_folder(moved, data_dir)) == len(source)
  (stored,) = (data_dir / "video_folder").iterdir()  # Nothing else is left.
  assert stored.name.startswith(root.name.replace(" ", "_") + "-25fps-16px-")
  assert [path.name for path in stored.iterdir()] == [video_folder.VERSION]
  copied = shutil.copytree(data_dir / "video_folder", tmp_path / "video_folder")
  shutil.rmtree(moved)
  by_name = {"split": "train", "data_dir": str(tmp_path)}
  for name in (stored.name, f"{stored.name}:{video_folder.VERSION}"):
    again = data.open_source(by_name | {"name": f"video_folder/{name}"})
    assert again.digest() == source.digest()
    one, two = source[2], again[2]
    assert list(one.pop("video")) == list(two.pop("video"))
    np.testing.assert_equal(one, two)
  with pytest.raises(ValueError, match=r"features=.* is for TFDS datasets"):
    data.open_source(
      by_name | {"name": f"video_folder/{name}", "features": ("label",)}
    )
  with pytest.raises(ValueError, match=r"Cannot read video_folder/x: .* holds"):
    data.open_source(by_name | {"name": "video_folder/x"})
  (copied / stored.name / video_folder.VERSION).rename(
    copied / stored.name / "1.2.0"
  )
  with pytest.raises(ValueError, match=r"as of version 1.2.0, version 2"):
    data.open_source(by_name | {"name": f"video_folder/{stored.name}"})


def test_what_an_older_version_stored_is_prepared_anew(
  folders, tmp_path, caplog
):
  root, _ = folders
  name = f"{root.name.replace(' ', '_')}-25fps-16px-0123456789"
  (tmp_path / "video_folder" / name / "1.2.0").mkdir(parents=True)
  source = open_folder(root, tmp_path)
  assert len(source) == 6
  assert "1.2.0 is of an older version, which is read no more" in caplog.text


def test_restart_and_threads_change_nothing(folders, tmp_path, monkeypatch):
  root, data_dir = folders
  read, done = video_file.iter_jpegs, []

  def until_the_fourth(path, *args):
    if len(done) == 3:
      raise KeyboardInterrupt
    done.append(path)
    return read(path, *args)

  monkeypatch.setattr(video_file, "iter_jpegs", until_the_fourth)
  with pytest.raises(KeyboardInterrupt):
    video_folder.prepare(root, tmp_path, 25, 16, num_threads=1)

  def rest(path, *args):
    assert path not in done
    done.append(path)
    return read(path, *args)

  monkeypatch.setattr(video_file, "iter_jpegs", rest)
  name = video_folder.prepare(root, tmp_path, 25, 16, num_threads=3)
  assert len(done) == 7
  one, two = (
    {
      path.relative_to(folder): path.read_bytes()
      for path in folder.rglob("*")
      if path.is_file()
    }
    for folder in (data_dir, tmp_path)
  )
  assert one == two
  assert [path.name for path in (tmp_path / "video_folder").iterdir()] == [name]


def test_frames_kept_by_another_version_are_not_used(
  folders, tmp_path, monkeypatch
):
  root, _ = folders
  read, done = video_file.iter_jpegs, []

  def counted(path, *args):
    done.append(path)
    return read(path, *args)

  def break_off(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(video_file, "iter_jpegs", counted)
  with monkeypatch.context() as patch:
    patch.setattr(video_folder, "VERSION", "0.9.0")
    patch.setattr(video_folder, "_describe", break_off)
    with pytest.raises(KeyboardInterrupt):
      video_folder.prepare(root, tmp_path, 25, 16)
  assert len(done) == 7
  video_folder.prepare(root, tmp_path, 25, 16)
  assert len(done) == 14


def test_processes_that_need_the_same_prepare_it_once(
  folders, tmp_path, monkeypatch, caplog
):
  """Threads here, whose locks are those of processes."""
  root, _ = folders
  read, done = video_file.iter_jpegs, []
  waits = threading.Event()

  def slow(path, *args):
    done.append(path)
    assert waits.wait(60)
    return read(path, *args)

  monkeypatch.setattr(video_file, "iter_jpegs", slow)
  warn = preparation.logging.warning
  monkeypatch.setattr(
    preparation.logging, "warning", lambda *a: waits.set() or warn(*a)
  )
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    names = pool.map(
      lambda _: video_folder.prepare(root, tmp_path, 25, 16), range(2)
    )
  assert len(set(names)) == 1 and len(done) == 7
  assert "Another process prepares" in caplog.text


def test_what_killed_processes_left_is_removed(folders, tmp_path):
  folder = tmp_path / "video_folder"
  left = folder / f".new-{socket.gethostname()}-x"
  left.mkdir(parents=True)
  (left / "part.jpegs").write_bytes(b"part")
  (tmp_path / ".lock-video_folder").touch()
  open_folder(folders[0], tmp_path)
  assert len(list(folder.iterdir())) == 1 == len(list(tmp_path.iterdir()))


def test_a_changed_folder_is_stored_anew(folders, tmp_path):
  root = shutil.copytree(folders[0], tmp_path / "clips")
  before = open_folder(root, tmp_path)
  assert before.labels().tolist() == [before[i]["label"] for i in range(6)]
  write_video(root / "train" / "c" / "7.mp4", 3)
  after = open_folder(root, tmp_path)
  assert len(after) == 7 and after.class_names == ["a", "b", "c"]
  assert after.digest() != before.digest()


def test_classes_that_only_the_held_out_part_has_are_named(tmp_path):
  root = tmp_path / "clips"
  for i in range(20):
    write_video(root / f"person{i:02}" / "0.mp4", 1)
  with pytest.warns(UserWarning, match=r"no video of 2 of the 20 .*'person"):
    open_folder(root, tmp_path / "tfds", "train[:90%]")
  write_video(root / "person00" / "1.mp4", 1)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    part = open_folder(root, tmp_path / "tfds", "train[:-1]")
  assert len(set(part.labels())) == 20


def test_no_slice_cuts_through_a_file(tmp_path):
  for i in range(4):
    write_video(tmp_path / f"{i}.mp4", 10)
  write_table(
    tmp_path / "training.csv",
    "path,label,start,end",
    *(
      f"{i}.mp4,{'ab'[i % 2]},{k / 25},{k / 25 + 0.1}"
      for i in range(4)
      for k in range(5)
    ),
  )

  def names(split):
    source = open_folder(tmp_path, tmp_path / "tfds", split)
    return [bytes(source[i]["file_name"]) for i in range(len(source))]

  everything = names("train")
  assert len(everything) == 20 and len(set(everything)) == 4
  for bound in ("90%", "50%", "10%", "7", "-1"):
    one, two = names(f"train[:{bound}]"), names(f"train[{bound}:]")
    assert one and two and one + two == everything
    assert not set(one) & set(two)
  assert (
    names("train[5:10]+Training[15:]") == everything[5:10] + everything[15:]
  )
  with pytest.raises(ValueError, match=r"\[4:6\] .* There are 4 in"):
    names("train[4:6]")
  with pytest.raises(
    ValueError, match=r"no split 'val'. Its splits are: train"
  ):
    names("val")


def test_table_with_several_labels_and_times(tmp_path):
  write_video(tmp_path / "videos" / "one.mp4", 20)
  write_video(tmp_path / "two, long.mp4", 4)
  write_table(
    tmp_path / "train.csv",
    "label,path,end,start",
    "run; jump,videos/one.mp4,0.4,0.2",
    "sit,videos/one.mp4,,0.6",
    'jump,"two, long.mp4",,',
  )
  write_table(tmp_path / "test.csv", "path,label", "videos/one.mp4,sit")
  source = open_folder(tmp_path, tmp_path / "tfds")
  assert source.class_names == ["jump", "run", "sit"]
  assert source.num_classes == 3
  found = []
  for example in (source[i] for i in range(3)):
    assert example["label"].dtype == np.float32
    found.append((frame_numbers(example["video"]), example["label"].tolist()))
  assert sorted(found) == [
    ([0, 1, 2, 3], [1, 0, 0]),
    ([5, 6, 7, 8, 9], [1, 1, 0]),
    ([15, 16, 17, 18, 19], [0, 0, 1]),
  ]
  with pytest.raises(ValueError, match=r"'label' is no entry .* are: none"):
    source.labels()
  test = open_folder(tmp_path, tmp_path / "tfds", "test")
  assert test[0]["label"].tolist() == [0, 0, 1]


def test_a_full_disk_is_named(folders, tmp_path, monkeypatch):
  def no_space(file, jpegs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(frame_store, "write", no_space)
  with pytest.raises(OSError, match=r"No space left .*/\.frames-25fps-16px-2"):
    open_folder(folders[0], tmp_path)
  monkeypatch.undo()
  assert len(open_folder(folders[0], tmp_path)) == 6


def test_unreadable_videos_are_all_listed(tmp_path):
  root, data_dir = tmp_path / "videos", tmp_path / "tfds"
  write_video(root / "a" / "good.mp4", 3)
  (root / "a" / "empty.mp4").write_bytes(b"")
  (root / "a" / "text.mp4").write_bytes(b"text" * 99)
  with pytest.raises(ValueError, match=r"2 of the 3 videos") as error:
    open_folder(root, data_dir)
  (listed,) = (data_dir / "video_folder").glob("unreadable-*.txt")
  assert str(listed) in str(error.value)
  for words in ("empty.mp4: the file is empty", "text.mp4: the file cannot be"):
    assert words in str(error.value) and words in listed.read_text()
    (root / "a" / words.partition(":")[0]).unlink()
  assert len(open_folder(root, data_dir)) == 1
  (stored,) = (data_dir / "video_folder").iterdir()  # Nothing else is left.
  assert stored.is_dir()


@pytest.mark.parametrize(
  "options",
  [
    *("?fps=0", "?size=0", "?fps", "?rate=3", "?size=2.5", "?fps=nan"),
    *("?fps=0.0004", "?fps=1e9", "?size=5000", "?fps=5&fps=6"),
  ],
)
def test_bad_names(tmp_path, options):
  with pytest.raises(ValueError, match=r"0.001 to 1000.*fps=25&size=256"):
    open_folder(tmp_path, tmp_path, options=options)


def test_a_path_may_have_question_marks():
  for path in ("/what?", "/what?/clips", "/what/clips"):
    for options in ("", "?fps=5&size=9"):
      name = f"video_folder:{path}{options}"
      assert video_folder.parse_name(name)[0] == path
      assert video_folder.local_name(name) == name


def test_rate_and_size_by_the_name_of_a_dataset():
  for name, expected in (
    ("video_folder:/clips", (25, 256)),
    ("video_folder:/clips?fps=5", (5, 256)),
    ("video_folder:/what?/clips?fps=5", (5, 256)),
    ("video_folder/my-9fps-8px-clips-12.5fps-128px-0a1b:2.0.0", (12.5, 128)),
    ("ucf101", (25, 256)),
  ):
    assert video_folder.fps_and_size(name) == expected


def test_a_single_class_is_told_before_videos_are_decoded(
  tmp_path, monkeypatch, caplog
):
  """As of a path that is one level too high."""
  (tmp_path / "root" / "clips").mkdir(parents=True)
  (tmp_path / "root" / "clips" / "1.mp4").write_bytes(b"1")
  monkeypatch.setattr(frame_store.FrameStore, "fill", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    video_folder.prepare(tmp_path / "root", tmp_path / "data")
  assert "has a single class, 'clips'" in caplog.text
