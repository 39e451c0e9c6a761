"""The videos of a folder, with their splits and labels."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import csv_rows, text_files
from tokenlearner_flexivit.data.sources.video_folder import clips as video_clips
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder.clips import Clip

_COLUMNS = ("path", "label", "start", "end", "group")
# Spreadsheets write ";" in languages whose decimal point is a comma.
_SEPARATORS = (",", ";", "\t")


@dataclasses.dataclass(frozen=True)
class Listing:
  """The videos of a folder.

  Attributes:
    root: the folder.
    clips: clips by split, in an order that depends on the clips alone. Clips of
      a group are adjacent.
    class_names: names of the classes in alphabetical order, which numbers them.
    has_several: whether a clip may have several classes.
    sizes: bytes of each file, by its path.
  """

  root: pathlib.Path
  clips: Mapping[str, Sequence[Clip]]
  class_names: list[str]
  has_several: bool
  sizes: Mapping[str, int]

  def file(self, clip: Clip) -> pathlib.Path:
    """Returns the path of a clip's file."""
    return self.root / video_clips.as_path(clip.path)

  def digest(self) -> str:
    """Returns a hash of the content: paths, file sizes, labels and times."""
    content = {
      split: [(*vars(clip).values(), self.sizes[clip.path]) for clip in clips]
      for split, clips in self.clips.items()
    }
    text = json.dumps([content, self.class_names, self.has_several])
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def list_videos(path: str | os.PathLike) -> Listing:
  """Lists the videos in a folder.

  Each of the splits train, validation and test is, where it exists, a folder or
  a file:

    PATH/SPLIT/CLASS/VIDEO
    PATH/SPLIT.csv            with a first line "path,label", perhaps with more
                              of the columns start, end and group, in any order

  Splits have any of the names in `splits.ALIASES`, such as "val". All videos of
  a folder without splits are for training:

    PATH/CLASS/VIDEO

  A CSV file is UTF-8 (or UTF-16 with its mark), with commas, or with semicolons
  or tabs as spreadsheets write them; empty lines are ignored, and so is Excel's
  "sep=;" before the first line. A path in it is
  relative to PATH or absolute; start and end are seconds and may be left empty.
  Several labels are joined by ";". If any clip has several labels, every clip
  may have several classes.

  The classes are those of "train", if it exists, in alphabetical order. No
  slice of a split cuts through a group: all clips of a file, or those with the
  same `group` in the CSV file, such as the film that files were cut out of.
  Groups are sorted by hashes of their names, classes are mixed evenly, and
  groups with a class that no earlier group has come first. So a slice such as
  "train[:90%]" has all classes, if it has that many groups, and the rest is of
  other videos. Hidden files and files of operating systems are ignored.

  Args:
    path: the folder.

  Returns:
    The listing. No video has been opened yet.

  Raises:
    ValueError: the folder does not exist, has no videos, other files or a split
      twice, or a CSV file is not UTF-8, has bad lines, missing labels or
      missing files, a clip with two different labels, or a label that "train"
      lacks. The message names the first few problems.
  """
  root = paths.local(path, "video_folder")
  listed = {
    split: _read_table(root, part) if part.is_file() else _read(root, part)
    for split, part in find_splits(root).items()
  }
  everything = list(itertools.chain.from_iterable(listed.values()))
  files = video_clips.stat_files(root, everything)
  video_clips.check(
    root,
    (
      f"there is no file {root / path}, perhaps it is a link to nowhere"
      for path, status in files.items()
      if status is None
    ),
  )
  listed = video_clips.with_groups(root, listed, files)

  source = [listed["train"]] if "train" in listed else listed.values()
  names = sorted({name for part in source for c in part for name in c.labels})
  video_clips.check(
    root,
    (
      f"{split}: {clip.path} has the label {label!r}, which no example of "
      "'train' has"
      for split, clips in listed.items()
      for clip in clips
      for label in clip.labels
      if label not in names
    ),
  )
  has_several = any(
    len(clip.labels) > 1 for clips in listed.values() for clip in clips
  )
  video_clips.warn_of_shared_groups(root, listed)
  ordered = {split: video_clips.order(clips) for split, clips in listed.items()}
  sizes = {path: status.st_size for path, status in files.items()}
  return Listing(root, ordered, names, has_several, sizes)


def find_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folders and tables of the splits that `list_videos` reads.

  Raises:
    ValueError: the folder does not exist; it has tables of splits that are not
      CSV files, so that videos would be read without splits; or `splits.find`
      raises it.
  """
  if not root.is_dir():
    raise ValueError(f"video_folder:{root}: there is no such folder.")
  known = splits.find(root, _is_video)
  if not known:
    video_clips.check(
      root,
      (
        f"{entry.path} is called like a split, which is a folder or a CSV "
        "file, such as train.csv with the first line path,label. Convert it, "
        "or hide it with a leading dot"
        for entry in splits.visible(root)
        if not splits.is_folder(entry)
        and splits.role(pathlib.Path(entry.name).stem)
        if not _is_video(entry.name)
      ),
    )
  return known or {"train": root}


def _is_video(name: str) -> bool:
  return name.lower().endswith(video_file.EXTENSIONS)


def _read(root: pathlib.Path, folder: pathlib.Path) -> list[Clip]:
  """Returns the videos in the class folders of `folder`."""
  clips, problems = [], []
  prefix = "" if folder == root else f"{folder.name}/"
  for entry in splits.visible(folder):
    if reason := splits.broken_link(entry):
      problems.append(f"{entry.path} {reason}")
      continue
    if not entry.is_dir():
      # A README beside the class folders is harmless.
      if _is_video(entry.name):
        problems.append(f"{entry.path} lies outside of the class folders")
      continue
    files = splits.visible(entry)
    labels = (video_clips.as_text(entry.name),)
    if not files:
      problems.append(f"{entry.path} has no videos")
    for file in files:
      if splits.is_folder(file):
        problems.append(
          f"{file.path} is a folder inside of a class folder; is "
          f"{entry.name!r} meant to be a split? Splits are called train, val "
          "or test"
        )
      elif not _is_video(file.name):
        problems.append(
          f"{file.path} is none of {', '.join(video_file.EXTENSIONS)}; remove "
          "it, or hide it with a leading dot"
        )
      path = f"{prefix}{entry.name}/{file.name}"
      clips.append(Clip(video_clips.as_text(path), labels))
  video_clips.check(folder, problems)
  if not clips:
    raise ValueError(
      f"{folder} holds no videos: expected one folder per class, with videos "
      f"({', '.join(video_file.EXTENSIONS)}) in it, or tables train.csv, "
      "val.csv and test.csv with the columns path,label and perhaps "
      "start,end,group."
    )
  return clips


def _read_table(root: pathlib.Path, table: pathlib.Path) -> list[Clip]:
  """Returns the clips that a CSV file lists."""
  reader, _, separator = csv_rows.split(text_files.read(table), _SEPARATORS)
  clips, lines, problems = [], [], []
  try:
    columns = [name.strip().lower() for name in next(reader, [])]
    _check_columns(table, columns)
    for row in reader:
      if not any(value.strip() for value in row):
        continue  # Spreadsheets leave empty lines behind.
      try:
        clips.append(_read_row(columns, row, separator))
        lines.append(reader.line_num)
      except ValueError as error:
        problems.append(f"line {reader.line_num}: {error}")
  except csv.Error as error:
    problems.append(
      f"line {reader.line_num}: {error}; a value with quotes in it needs them "
      'doubled, inside of quotes: "a ""b"".mp4"'
    )
  files = video_clips.stat_files(root, clips)
  problems += [
    f"line {line}: there is no file {root / clip.path}"
    f"{_why_missing(root, clip.path)}"
    for line, clip in zip(lines, clips, strict=True)
    if files[clip.path] is None
  ]
  video_clips.check(table, problems)
  if not clips:
    raise ValueError(f"{table} lists no videos.")
  return clips


def _why_missing(root: pathlib.Path, path: str) -> str:
  """Returns in words why there may be no file of a path; "" if unknown."""
  if "\\" in path:
    return "; folders are separated by /"
  for form in ("NFC", "NFD"):
    other = unicodedata.normalize(form, path)
    if other != path and (root / video_clips.as_path(other)).is_file():
      return (
        f", but one whose letters are encoded otherwise, in {form}, as Apple's "
        "file systems may do: write its name as it is there"
      )
  return ""


def _check_columns(table: pathlib.Path, columns: Sequence[str]) -> None:
  named = [name for name in columns if name]
  repeated = len(set(named)) < len(named)
  if not {"path", "label"} <= set(named) <= set(_COLUMNS) or repeated:
    raise ValueError(
      f"The first line of {table} is {','.join(columns)!r}. It must name the "
      "columns: path,label and perhaps start,end,group."
    )


def _read_row(
  columns: Sequence[str],
  row: Sequence[str],
  separator: str,
) -> Clip:
  """Returns the clip of a line, or raises ValueError that names the problem."""
  named = itertools.zip_longest(columns, row, fillvalue="")
  if any(value.strip() for name, value in named if not name):
    raise ValueError(
      f"too many values; a path or a label with a {separator!r} needs quotes, "
      f'"a{separator} b.mp4"'
    )
  values = dict.fromkeys(_COLUMNS, "")
  for name, value in zip(columns, row, strict=False):
    values[name] = value.strip()
  if not values["path"]:
    raise ValueError("the path is missing")
  labels = [label.strip() for label in values["label"].split(";")]
  if not all(labels):
    raise ValueError(f"a label of {values['path']} is missing")
  times = {}
  for key in ("start", "end"):
    if text := values[key]:
      if separator != ",":
        text = text.replace(",", ".")
      try:
        times[key] = float(text)
      except ValueError:
        times[key] = math.nan
      if not 0 <= times[key] < math.inf:
        raise ValueError(f"{key} must be a number of seconds, not {text!r}")
  clip = Clip(
    values["path"],
    tuple(sorted(set(labels))),
    **times,
    group=values["group"],
  )
  if clip.end is not None and clip.end <= clip.start:
    raise ValueError(f"the end {clip.end} s is not after {clip.start} s")
  return clip
