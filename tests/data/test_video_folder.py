"""People's own videos: class folders, CSV files, storing them, bad ones."""

import itertools
import json
import pickle
import shutil
import threading

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.test_video_file import frame_numbers, write_video
from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import (
  preparation,
  video_file,
  video_folder,
  video_listing,
)


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


def test_class_folders(folders):
  source = open_folder(*folders)
  assert source.class_names == ["a", "b"] and source.num_classes == 2
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
  validation = open_folder(*folders, "validation")
  assert len(validation) == 1 and validation[0]["label"] == 1
  assert "validation/b/x.mp4" in validation.describe(0)
  # As for the processes that make batches.
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_equal(again[3], source[3])
  parts = [open_folder(*folders, s) for s in ("train[:50%]", "train[50%:]")]
  assert [len(part) for part in parts] == [3, 3]
  with pytest.raises(ValueError, match=r"Its splits are: .*validation"):
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
  monkeypatch.setattr(video_file, "read_jpegs", None)
  source = open_folder(root, data_dir)
  moved = shutil.copytree(root, tmp_path / root.name)
  assert len(open_folder(moved, data_dir)) == len(source)
  (config,) = (data_dir / "video_folder").iterdir()  # Nothing else is left.
  assert config.name.startswith(root.name.replace(" ", "_") + "-25fps-16px-")
  by_name = {
    "name": f"video_folder/{config.name}",
    "split": "train",
    "data_dir": str(data_dir),
  }
  np.testing.assert_equal(data.open_source(by_name)[2], source[2])
  by_name["features"] = ("video", "label")
  expected = {key: source[2][key] for key in ("video", "label", "id")}
  np.testing.assert_equal(data.open_source(by_name)[2], expected)


def test_feature_of_tfds_is_read_without_tensorflow(folders, tmp_path):
  root, data_dir = folders
  shutil.copytree(data_dir / "video_folder", tmp_path / "video_folder")
  (path,) = (tmp_path / "video_folder").glob("*/*/features.json")
  description = json.loads(path.read_text())
  for shape in (["-1", "-1", "-1", "3"], ["-1", "16", "16", "3"]):
    description["featuresDict"]["features"]["video"] = {
      "pythonClassName": f"{tfds.features.Video.__module__}.Video",
      "video": {
        "shape": {"dimensions": shape},
        "dtype": "uint8",
        "encodingFormat": "jpeg",
      },
    }
    path.write_text(json.dumps(description))
    config = path.parent.parent.name
    source = data.open_source(
      {
        "name": f"video_folder/{config}",
        "split": "train",
        "data_dir": str(tmp_path),
      }
    )
    expected = open_folder(root, data_dir)
    np.testing.assert_equal(source[0], expected[0])


def test_restart_and_threads_change_nothing(folders, tmp_path, monkeypatch):
  root, data_dir = folders
  read, done = video_file.read_jpegs, []

  def until_the_fourth(path, *args):
    if len(done) == 3:
      raise KeyboardInterrupt
    done.append(path)
    return read(path, *args)

  monkeypatch.setattr(video_file, "read_jpegs", until_the_fourth)
  with pytest.raises(KeyboardInterrupt):
    video_folder.prepare(root, tmp_path, 25, 16, num_threads=1)

  def rest(path, *args):
    assert path not in done
    done.append(path)
    return read(path, *args)

  monkeypatch.setattr(video_file, "read_jpegs", rest)
  config = video_folder.prepare(root, tmp_path, 25, 16, num_threads=3)
  assert len(done) == 7
  one, two = (
    next((folder / "video_folder" / config).glob("*/*train*")).read_bytes()
    for folder in (data_dir, tmp_path)
  )
  assert one == two


def test_frames_kept_by_another_version_are_not_used(
  folders, tmp_path, monkeypatch
):
  root, _ = folders
  read, done = video_file.read_jpegs, []

  def counted(path, *args):
    done.append(path)
    return read(path, *args)

  def break_off(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(video_file, "read_jpegs", counted)
  with monkeypatch.context() as patch:
    other = tfds.core.Version("0.9.0")
    patch.setattr(video_folder.VideoFolder, "VERSION", other)
    patch.setattr(preparation, "prepare", break_off)
    with pytest.raises(KeyboardInterrupt):
      video_folder.prepare(root, tmp_path, 25, 16)
  assert len(done) == 7
  video_folder.prepare(root, tmp_path, 25, 16)
  assert len(done) == 14


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
  test = open_folder(tmp_path, tmp_path / "tfds", "test")
  assert test[0]["label"].tolist() == [0, 0, 1]


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


@pytest.mark.parametrize(
  "lines, message",
  [
    ([], "first line .* must name the columns"),
    (["a.mp4,run"], "first line .* must name the columns"),
    (["path,label,stop"], "first line .* must name the columns"),
    (["path,label"], "lists no videos"),
    (["path,label", "a.mp4"], "line 2: a label of a.mp4 is missing"),
    (["path,label", "a.mp4,run;"], "line 2: a label of a.mp4 is missing"),
    (["path,label", ",run"], "line 2: the path is missing"),
    (["path,label", "a.mp4,run,x"], "line 2: too many values"),
    (
      ["path,label", "a.mp4,run", "b.mp4,run"],
      "line 3: there is no file .*b.mp4",
    ),
    (["path,label,start", "a.mp4,run,-1"], "start must be a number .* '-1'"),
    (["path,label,end", "a.mp4,run,nan"], "end must be a number .* 'nan'"),
    (["path,label,start,end", "a.mp4,run,2,1"], "end 1.0 s is not after 2.0 s"),
    (["path,label"] + ["b.mp4,run"] * 8, "and 3 more"),
  ],
)
def test_bad_tables(tmp_path, lines, message):
  (tmp_path / "a.mp4").write_bytes(b"")
  write_table(tmp_path / "train.csv", *lines)
  with pytest.raises(ValueError, match=message):
    video_listing.list_videos(tmp_path)


def test_label_that_training_lacks(tmp_path):
  (tmp_path / "a.mp4").write_bytes(b"")
  write_table(tmp_path / "train.csv", "path,label", "a.mp4,run")
  write_table(tmp_path / "validation.csv", "path,label", "a.mp4,rnu")
  with pytest.raises(ValueError, match=r"validation: a.mp4 has .*'rnu'.*train"):
    video_listing.list_videos(tmp_path)


def test_bad_folders(tmp_path):
  def refused(message):
    with pytest.raises(ValueError, match=message):
      video_listing.list_videos(tmp_path / "x")

  refused("there is no such folder")
  folder = tmp_path / "x"
  folder.mkdir()
  refused("holds no videos: expected one folder per class")
  (folder / "a.mp4").write_bytes(b"")
  refused("a.mp4 lies outside of the class folders")
  (folder / "a.mp4").unlink()
  (folder / "run").mkdir()
  refused("run has no videos")
  (folder / "run" / "notes.txt").write_text("x")
  refused(r"notes.txt is none of .*\.mp4")
  (folder / "run" / "notes.txt").rename(folder / "run" / ".notes.txt")
  (folder / "run" / "a.MP4").write_bytes(b"")
  assert len(video_listing.list_videos(folder).clips["train"]) == 1
  (folder / "train").mkdir()
  (folder / "train.csv").write_text("path,label\n")
  refused("has both train/ and train.csv")


def test_kinetics_name_of_the_validation_split(tmp_path):
  for split in ("train", "val"):
    video = tmp_path / split / "run" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
  clips = video_listing.list_videos(tmp_path).clips
  assert [clip.path for clip in clips["validation"]] == ["val/run/a.mp4"]
  write_table(tmp_path / "validation.csv", "path,label", "val/run/a.mp4,run")
  with pytest.raises(
    ValueError, match=r"both val/ and validation.csv, and one"
  ):
    video_listing.list_videos(tmp_path)
  (tmp_path / "val").rename(tmp_path / "videos")
  write_table(tmp_path / "val.csv", "path,label", "videos/run/a.mp4,run")
  with pytest.raises(ValueError, match=r"both validation.csv and val.csv"):
    video_listing.list_videos(tmp_path)
  (tmp_path / "validation.csv").unlink()
  clips = video_listing.list_videos(tmp_path).clips
  assert [clip.path for clip in clips["validation"]] == ["videos/run/a.mp4"]


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_tables_are_utf8(tmp_path, begin):
  table = tmp_path / "train.csv"
  (tmp_path / "a.mp4").write_bytes(b"")
  text = "path,label\na.mp4,caf\u00e9\n"
  table.write_bytes(begin + text.encode())
  assert video_listing.list_videos(tmp_path).class_names == ["caf\u00e9"]
  table.write_bytes(begin + text.encode("latin1"))
  with pytest.raises(
    ValueError, match=r"train.csv is not UTF-8: line 2 has the byte 0xe9"
  ):
    video_listing.list_videos(tmp_path)


@pytest.mark.parametrize(
  "options",
  [
    *("?fps=0", "?size=0", "?fps", "?rate=3", "?size=2.5", "?fps=nan"),
    *("?fps=0.0004", "?fps=1e9"),
  ],
)
def test_bad_names(tmp_path, options):
  with pytest.raises(ValueError, match=r"0.001 to 1000.*fps=25&size=256"):
    open_folder(tmp_path, tmp_path, options=options)


def test_rate_and_size_by_the_name_of_a_dataset():
  for name, expected in (
    ("video_folder:/clips", (25, 256)),
    ("video_folder:/clips?fps=5", (5, 256)),
    ("video_folder/my-9fps-8px-clips-12.5fps-128px-0a1b:1.0.0", (12.5, 128)),
    ("ucf101", (25, 256)),
  ):
    assert video_folder.fps_and_size(name) == expected
