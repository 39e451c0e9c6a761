"""Listing videos: class folders, CSV files, splits, groups, order."""

import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources.video_folder import clips as video_clips
from tokenlearner_flexivit.data.sources.video_folder import (
  listing as video_listing,
)


def write_table(path, *lines):
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="utf-8")


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
    (["path,label", r"x\b.mp4,run"], "no file .*; folders are separated by /"),
    (["path,label,start", "a.mp4,run,-1"], "start must be a number .* '-1'"),
    (["path,label,end", "a.mp4,run,nan"], "end must be a number .* 'nan'"),
    (["path,label,start,end", "a.mp4,run,2,1"], "end 1.0 s is not after 2.0 s"),
    (["path,label", "a\0.mp4,run"], "line 2: there is no file"),
    (["path,label"] + ["b.mp4,run"] * 8, "and 3 more"),
  ],
)
def test_bad_tables(tmp_path, lines, message):
  (tmp_path / "a.mp4").write_bytes(b"")
  write_table(tmp_path / "train.csv", *lines)
  with pytest.raises(ValueError, match=message):
    video_listing.list_videos(tmp_path)


def test_a_name_in_another_form_is_told(tmp_path):
  """Both look alike: a ü is one character, or a u with two dots."""
  touch(tmp_path, "u\u0308.mp4")
  write_table(tmp_path / "train.csv", "path,label", "\u00fc.mp4,run")
  with pytest.raises(ValueError, match="encoded otherwise, in NFD"):
    video_listing.list_videos(tmp_path)


@pytest.mark.parametrize("table", ["train.txt", "val.tsv", "Test.json"])
def test_tables_of_other_kinds_are_not_passed_over(tmp_path, table):
  """All videos would be of the class "videos"."""
  touch(tmp_path, "videos/1.mp4", "README.txt", table)
  with pytest.raises(ValueError, match=rf"{table} is called like .*train\.csv"):
    video_listing.list_videos(tmp_path)
  (tmp_path / table).rename(tmp_path / f".{table}")
  assert video_listing.list_videos(tmp_path).class_names == ["videos"]


def test_clips_that_are_listed_again_are_told(tmp_path, caplog):
  touch(tmp_path, "a.mp4", "b.mp4")
  rows = ["a.mp4,run,0", "./a.mp4,run,0", "a.mp4,run,1", "b.mp4,run,0"]
  write_table(tmp_path / "train.csv", "path,label,start", *rows)
  with caplog.at_level(logging.WARNING):
    assert len(video_listing.list_videos(tmp_path).clips["train"]) == 4
  assert "train lists 1 clip again" in caplog.text


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
  for name in ("Thumbs.db", "desktop.ini", "__MACOSX/a.mp4"):
    touch(folder, name, f"run/{name}")
  assert len(video_listing.list_videos(folder).clips["train"]) == 1
  (folder / "run" / "b.mp4").symlink_to("nowhere.mp4")
  refused(r"there is no file .*b.mp4, perhaps .* link")
  (folder / "run" / "b.mp4").unlink()
  (folder / "run" / "c.mp4").symlink_to("c.mp4")
  refused(r"there is no file .*c.mp4")
  (folder / "run" / "c.mp4").unlink()
  (folder / "jump").symlink_to("jump")
  refused("jump is a link that cannot be followed")
  (folder / "jump").unlink()
  touch(folder, "run/old/b.mp4")
  refused(r"old is a folder inside of a class folder; is 'run' meant .* split")


def test_kinetics_name_of_the_validation_split(tmp_path):
  for split in ("train", "val"):
    video = tmp_path / split / "run" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
  clips = video_listing.list_videos(tmp_path).clips
  assert [clip.path for clip in clips["validation"]] == ["val/run/a.mp4"]
  write_table(tmp_path / "validation.csv", "path,label", "val/run/a.mp4,run")
  with pytest.raises(ValueError, match=r"both val and validation.csv, and one"):
    video_listing.list_videos(tmp_path)
  (tmp_path / "val").rename(tmp_path / "videos")
  write_table(tmp_path / "val.csv", "path,label", "videos/run/a.mp4,run")
  with pytest.raises(ValueError, match=r"both val.csv and validation.csv"):
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
  "lines",
  [
    ["path,label,,", "a.mp4,run,,", ",,,", "b.mp4,sit,,", ",,,"],
    ["Path; Label ;start", "a.mp4;run;0,5", ";;", "b.mp4;sit;"],
    ["path\tlabel\tstart", "a.mp4\trun\t0.5", "", "b.mp4\tsit\t"],
    ["path;label", "a.mp4;'run'", 'b.mp4;"sit;run"'],
  ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, lines):
  touch(tmp_path, "a.mp4", "b.mp4")
  write_table(tmp_path / "train.csv", *lines)
  clips = video_listing.list_videos(tmp_path).clips["train"]
  by_path = {clip.path: clip for clip in clips}
  assert sorted(by_path) == ["a.mp4", "b.mp4"]
  if "start" in lines[0]:
    assert by_path["a.mp4"].start == 0.5 and by_path["b.mp4"].start == 0
  if "'run'" in lines[1]:
    assert by_path["b.mp4"].labels == ("run", "sit")


def test_other_ends_of_lines_and_utf16(tmp_path):
  touch(tmp_path, "a.mp4", "b.mp4")
  table = tmp_path / "train.csv"
  for text in (
    "path\tlabel\r\na.mp4\tr\u00fcn\r\n",
    "sep=;\r\npath;label\r\na.mp4;r\u00fcn\r\n",
    "path,label\ra.mp4,r\u00fcn\r",
  ):
    for encoding in ("utf-16", "utf-8"):
      table.write_bytes(text.encode(encoding))
      (clip,) = video_listing.list_videos(tmp_path).clips["train"]
      assert (clip.path, clip.labels) == ("a.mp4", ("r\u00fcn",))


def test_a_quote_that_is_not_closed(tmp_path):
  touch(tmp_path, "a.mp4", "b.mp4")
  write_table(tmp_path / "train.csv", "path,label", 'a.mp4,"run', "b.mp4,run")
  with pytest.raises(ValueError, match=r"line 3: .*quotes"):
    video_listing.list_videos(tmp_path)


def write_films(root, films=20, scenes=10, group=False):
  """Writes a table of `scenes` clips of each film, of a class each."""
  touch(root, *(f"{i}.mp4" for i in range(films)))
  write_table(
    root / "train.csv",
    "path,label,start,end" + ",group" * group,
    *(
      f"{i}.mp4,{'abcdefghij'[k]},{k},{k + 1}" + f",{i // 4}" * group
      for i in range(films)
      for k in range(scenes)
    ),
  )


@pytest.mark.parametrize("group", [False, True])
def test_clips_of_a_group_are_together(tmp_path, group):
  write_films(tmp_path, group=group)
  clips = video_listing.list_videos(tmp_path).clips["train"]
  groups = [clip.group for clip in clips]
  seen = list(dict.fromkeys(groups))
  assert len(seen) == (5 if group else 20)
  assert groups == [name for name in seen for _ in range(groups.count(name))]
  bounds = range(0, 201, 40 if group else 10)
  for position in range(201):
    bound = video_clips.snap(groups, position)
    assert bound in bounds
    # Neither side is empty unless that was asked for.
    assert bound == position or 0 < bound < 200
    assert abs(bound - position) <= (20 if group else 5) or bound in (
      bounds[1],
      bounds[-2],
    )
  assert video_clips.snap(["a"] * 7, 5) == 7


def test_a_file_has_one_group_however_it_is_spelled(tmp_path):
  touch(tmp_path, "videos/a.mp4", "b.mp4")
  (tmp_path / "link.mp4").symlink_to(tmp_path / "videos" / "a.mp4")
  spelled = (
    "videos/a.mp4",
    "./videos/a.mp4",
    "videos/../videos/a.mp4",
    tmp_path / "videos" / "a.mp4",
    "link.mp4",
  )
  write_table(
    tmp_path / "train.csv",
    "path,label,start",
    *(f"{path},run,{i}" for i, path in enumerate(spelled)),
    "b.mp4,sit,",
  )
  clips = video_listing.list_videos(tmp_path).clips["train"]
  groups = {str(clip.path): clip.group for clip in clips}
  assert groups.pop("b.mp4") == "b.mp4"
  assert set(groups.values()) == {"link.mp4"}


def test_a_file_in_two_groups(tmp_path):
  touch(tmp_path, "a.mp4")
  lines = ["path,label,start,group", "a.mp4,run,,one", "./a.mp4,run,1,two"]
  write_table(tmp_path / "train.csv", *lines)
  with pytest.raises(ValueError, match=r"a.mp4 have the groups one, two"):
    video_listing.list_videos(tmp_path)


def test_a_clip_with_two_labels(tmp_path):
  touch(tmp_path, "a.mp4")
  lines = ["path,label,start", "a.mp4,run,2", "./a.mp4,sit,2", "a.mp4,run,2"]
  write_table(tmp_path / "train.csv", *lines)
  with pytest.raises(
    ValueError,
    match=r"train: a.mp4 from 2 s is listed several times, with the labels run "
    r"and sit.*';'",
  ):
    video_listing.list_videos(tmp_path)


def test_a_video_in_two_splits_is_warned_of(tmp_path, caplog):
  touch(tmp_path, "a.mp4", "b.mp4")
  write_table(tmp_path / "train.csv", "path,label", "a.mp4,run", "b.mp4,sit")
  write_table(tmp_path / "test.csv", "path,label", "./a.mp4,run")
  with caplog.at_level(logging.WARNING):
    video_listing.list_videos(tmp_path)
  assert "train and test share 1 videos" in caplog.text
  assert caplog.text.rstrip().endswith(": a.mp4.")


def test_a_held_out_part_leaves_every_class_to_the_training(tmp_path):
  for name, count in (("many", 60), ("few", 5), ("pair", 2), ("one", 1)):
    touch(tmp_path, *(f"{name}/{i}.mp4" for i in range(count)))
  clips = video_listing.list_videos(tmp_path).clips["train"]
  for percent in (10, 50, 90):
    part = splits.positions(f"[:{percent}%]", len(clips), "")
    trained = {label for i in part for label in clips[i].labels}
    assert trained == {"many", "few", "pair", "one"}
  held_out = [clip.labels[0] for clip in clips[round(0.8 * len(clips)) :]]
  assert held_out.count("few") == 1 and held_out.count("many") > 10


def test_films_of_several_classes_leave_every_class_to_the_training():
  rng = np.random.default_rng(0)
  for _ in range(50):
    clips = [
      video_clips.Clip(f"{i}", (f"{label}",), start, group=f"{i}")
      for i in range(12)
      for start, label in enumerate(rng.integers(0, 8, rng.integers(1, 6)))
    ]
    ordered = video_clips.order(clips)
    assert sorted(map(repr, ordered)) == sorted(map(repr, clips))
    groups = list(dict.fromkeys(clip.group for clip in ordered))
    first = [clip for clip in ordered if clip.group in groups[:8]]
    labels = [{clip.labels for clip in part} for part in (first, clips)]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
  "train, test", [("training", "Valid"), ("Train", "dev"), ("TRAIN", "val")]
)
@pytest.mark.parametrize("tables", [False, True])
def test_classes_are_numbered_by_the_training_split(
  tmp_path, train, test, tables
):
  touch(tmp_path, *(f"{train}/{name}/1.mp4" for name in ("ant", "bee", "cat")))
  touch(tmp_path, *(f"{test}/{name}/2.mp4" for name in ("cat", "bee")))
  if tables:
    for split in (train, test):
      (tmp_path / split).rename(tmp_path / f"files_{split}")
      files = sorted(tmp_path.glob(f"files_{split}/*/*"))
      lines = (f"{file},{file.parent.name}" for file in files)
      write_table(tmp_path / f"{split}.csv", "path,label", *lines)
  listing = video_listing.list_videos(tmp_path)
  assert listing.class_names == ["ant", "bee", "cat"]
  lengths = {split: len(clips) for split, clips in listing.clips.items()}
  assert lengths == {"train": 3, "validation": 2}


def test_a_class_may_be_called_like_a_split(tmp_path):
  touch(tmp_path, *(f"{name}/1.mp4" for name in ("bus", "car", "train")))
  listing = video_listing.list_videos(tmp_path)
  assert listing.class_names == ["bus", "car", "train"]
  touch(tmp_path, "train/old/2.mp4")
  with pytest.raises(
    ValueError, match=r"train/1.mp4 lies outside of the class"
  ):
    video_listing.list_videos(tmp_path)


def test_names_are_the_same_in_every_locale(tmp_path):
  """Classes, order and digest; and files are found."""
  (tmp_path / "home").mkdir()
  root = tmp_path / "home" / "vid\u00e9os"
  touch(root, "train/caf\u00e9/\u4e00.mp4", "train/run/2.mp4")
  write_table(
    root / "val.csv",
    "path,label,group",
    "train/caf\u00e9/\u4e00.mp4,caf\u00e9,\u4e00",
  )
  program = (
    "import pathlib\n"
    "from tokenlearner_flexivit.data.sources.video_folder import listing as "
    "video_listing\n"
    "(root,) = pathlib.Path('home').iterdir()\n"
    "listing = video_listing.list_videos(root)\n"
    "print(ascii([listing.clips, listing.class_names, listing.digest()]))"
  )
  package = pathlib.Path(video_listing.__file__).parents[4]
  ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
  output = subprocess.run(
    [sys.executable, "-c", program],
    env={**os.environ, "PYTHONPATH": str(package), **ascii_only},
    cwd=tmp_path,
    check=True,
    capture_output=True,
  ).stdout
  listing = video_listing.list_videos(root)
  expected = [listing.clips, listing.class_names, listing.digest()]
  assert output.decode().strip() == ascii(expected)
  assert listing.class_names == ["caf\u00e9", "run"]
