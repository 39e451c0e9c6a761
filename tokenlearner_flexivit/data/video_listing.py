"""Which videos a folder holds, in which splits, and what their labels are."""

import collections
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable

from tokenlearner_flexivit.data import video_file

# What a split may be called in the folder; Kinetics says "val".
SPLITS = {
  "train": ("train",),
  "validation": ("validation", "val"),
  "test": ("test",),
}
_COLUMNS = ("path", "label", "start", "end")
_MAX_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video or a part of one.

  Attributes:
    path: of the file, relative to the folder of the listing, or absolute.
    labels: names of its classes, at least one.
    start: seconds.
    end: seconds, or None for the end of the file.
  """

  path: str
  labels: tuple[str, ...]
  start: float = 0
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
  """The videos of a folder.

  Attributes:
    root: the folder.
    clips: by split, in an order that depends on nothing but themselves.
    class_names: in alphabetical order, which numbers them.
    has_several: whether a clip may have several classes.
  """

  root: pathlib.Path
  clips: dict[str, list[Clip]]
  class_names: list[str]
  has_several: bool

  def digest(self) -> str:
    """Returns a name for the content: paths, file sizes, labels and times."""
    content = {
      split: [
        (*dataclasses.astuple(clip), (self.root / clip.path).stat().st_size)
        for clip in clips
      ]
      for split, clips in self.clips.items()
    }
    text = json.dumps([content, self.class_names, self.has_several])
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def list_videos(path: str | os.PathLike) -> Listing:
  """Lists the videos in a folder.

  Each of the splits train, validation and test is, where it exists, a folder or
  a file:

    PATH/SPLIT/CLASS/VIDEO
    PATH/SPLIT.csv            with a first line "path,label" or
                              "path,label,start,end", the columns in any order

  The name of "validation" may be "val". A CSV file is UTF-8; a path in it is
  relative to PATH or absolute; start and end are seconds and may be left empty.
  Several labels are joined by ";". If any clip has several, all are read as
  having perhaps several. A folder with none of the splits is all for training:

    PATH/CLASS/VIDEO

  The classes are those of "train", if it exists, in alphabetical order. Clips
  are put in the order of a hash of their path and times, so that a slice has
  all classes. Hidden files are ignored.

  Args:
    path: the folder.

  Returns:
    The listing. No video has been opened yet.

  Raises:
    ValueError: the folder does not exist or has no videos, holds something that
      is none or a split twice, or a CSV file is not UTF-8, has bad lines,
      missing labels or missing files, or a label that "train" lacks. The
      message names the first few.
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise ValueError(f"video_folder:{path}: there is no such folder.")
  clips = {}
  for split, names in SPLITS.items():
    folders = [root / name for name in names if (root / name).is_dir()]
    tables = [root / f"{name}.csv" for name in names]
    tables = [table for table in tables if table.exists()]
    if len(folders) + len(tables) > 1:
      found = [f"{path.name}/" for path in folders]
      found += [path.name for path in tables]
      raise ValueError(
        f"{root} has both {' and '.join(found)}, and one must be the split "
        f"{split!r}. If a folder only holds the files that a table names, give "
        "it another name; if they are parts of the split, join them."
      )
    if tables:
      clips[split] = _read_table(root, tables[0])
    elif folders:
      clips[split] = _read_folders(root, folders[0])
  if not clips:
    clips["train"] = _read_folders(root, root)
  for listed in clips.values():
    listed.sort(key=_order)

  source = [clips["train"]] if "train" in clips else clips.values()
  names = sorted({name for part in source for c in part for name in c.labels})
  _check(
    root,
    (
      f"{split}: {clip.path} has the label {label!r}, which no example of "
      "'train' has"
      for split, listed in clips.items()
      for clip in listed
      for label in clip.labels
      if label not in names
    ),
  )
  has_several = any(
    len(clip.labels) > 1 for listed in clips.values() for clip in listed
  )
  return Listing(root, clips, names, has_several)


def _order(clip: Clip) -> bytes:
  text = json.dumps([clip.path, clip.start, clip.end])
  return hashlib.blake2b(text.encode()).digest()


def _check(where: pathlib.Path, problems: Iterable[str]) -> None:
  """Raises ValueError that lists the problems, if there are any."""
  problems = list(problems)
  if problems:
    shown = "".join(f"\n  {problem}" for problem in problems[:_MAX_SHOWN])
    more = len(problems) - _MAX_SHOWN
    raise ValueError(
      f"{where} cannot be read as a folder of videos:{shown}"
      + (f"\n  ... and {more} more" if more > 0 else "")
    )


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns what is in the folder and not hidden, in alphabetical order."""
  return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _read_folders(root: pathlib.Path, folder: pathlib.Path) -> list[Clip]:
  """Returns the videos in the class folders of `folder`."""
  clips, problems = [], []
  for path in _visible(folder):
    if not path.is_dir():
      # A README beside the class folders does no harm.
      if path.suffix.lower() in video_file.EXTENSIONS:
        problems.append(f"{path} lies outside of the class folders")
      continue
    files = _visible(path)
    if not files:
      problems.append(f"{path} has no videos")
    for file in files:
      if file.suffix.lower() not in video_file.EXTENSIONS:
        problems.append(
          f"{file} is none of {', '.join(video_file.EXTENSIONS)}; remove it, "
          "or hide it with a leading dot"
        )
      relative = file.relative_to(root).as_posix()
      clips.append(Clip(relative, (path.name,)))
  _check(folder, problems)
  if not clips:
    raise ValueError(
      f"{folder} holds no videos: expected one folder per class, with videos "
      f"({', '.join(video_file.EXTENSIONS)}) in it, or tables "
      "train.csv, validation.csv and test.csv with the columns path,label or "
      "path,label,start,end."
    )
  return clips


def _read_table(root: pathlib.Path, table: pathlib.Path) -> list[Clip]:
  """Returns the clips that a CSV file lists."""
  clips, problems = [], []
  text = io.StringIO(_read_text(table), newline="")
  reader = csv.DictReader(text, skipinitialspace=True)
  columns = reader.fieldnames or []
  repeated = [c for c, n in collections.Counter(columns).items() if n > 1]
  if not {"path", "label"} <= set(columns) <= set(_COLUMNS) or repeated:
    raise ValueError(
      f"The first line of {table} is {','.join(columns)!r}. It must name the "
      "columns: path,label or path,label,start,end."
    )
  for row in reader:
    try:
      clips.append(_read_row(root, row))
    except ValueError as error:
      problems.append(f"line {reader.line_num}: {error}")
  _check(table, problems)
  if not clips:
    raise ValueError(f"{table} lists no videos.")
  return clips


def _read_text(table: pathlib.Path) -> str:
  """Returns a file's text or raises ValueError that says where it is none."""
  try:
    return table.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b"\n") + 1
    raise ValueError(
      f"{table} is not UTF-8: line {line} has the byte "
      f"0x{error.object[error.start]:02x}. Save it as UTF-8; if it is Latin-1, "
      "iconv -f latin1 -t utf-8 FILE > NEW does that."
    ) from None


def _read_row(root: pathlib.Path, row: dict[str | None, str | None]) -> Clip:
  """Returns the clip of a line or raises ValueError that says what is wrong."""
  if None in row:
    raise ValueError(
      'too many values; a path or a label with a comma needs quotes, "a, b.mp4"'
    )
  values = {key: (value or "").strip() for key, value in row.items()}
  if not values["path"]:
    raise ValueError("the path is missing")
  labels = [label.strip() for label in values["label"].split(";")]
  if not all(labels):
    raise ValueError(f"a label of {values['path']} is missing")
  if not (root / values["path"]).is_file():
    raise ValueError(f"there is no file {root / values['path']}")
  times = {}
  for key in ("start", "end"):
    if text := values.get(key):
      try:
        times[key] = float(text)
      except ValueError:
        times[key] = math.nan
      if not 0 <= times[key] < math.inf:
        raise ValueError(f"{key} must be a number of seconds, not {text!r}")
  clip = Clip(values["path"], tuple(sorted(set(labels))), **times)
  if clip.end is not None and clip.end <= clip.start:
    raise ValueError(f"the end {clip.end} s is not after {clip.start} s")
  return clip
