"""The source of a folder of videos, `video_folder:/path`, stored as JPEGs."""

import itertools
import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import batches, shared_examples, splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import preparation
from tokenlearner_flexivit.data.sources.video_folder import clips as video_clips
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder import (
  frames as frame_store,
)
from tokenlearner_flexivit.data.sources.video_folder import (
  listing as video_listing,
)

# Frames per second and size of a name without these options.
FPS, SIZE = 25, 256
MAX_SIZE = 4096
# Version of the stored files. 2.0 changed the content of a dataset's folder;
# 1.2 turned frames by the file's rotation.
VERSION = "2.0.0"
_ABOUT = "dataset.json"  # Written last: if it exists, all files do.
_FRAMES = "frames"
# The keys of this file for the clips of a split; each has a list.
_COLUMNS = ("path", "start", "end", "group", "labels", "frames", "num_frames")


class VideoFolderSource(sources.Source):
  """Videos of a folder, by class folders or CSV files.

  The name is "video_folder:PATH", perhaps with "?fps=FPS&size=SIZE". By default
  25 frames per second are stored (0.001 to 1000 are allowed), with a smaller
  side of 256 pixels (1 to 4096 are allowed), or the video's own if that is
  less. `video_listing.list_videos` describes what PATH may hold,
  `video_file.iter_jpegs` which frames are chosen.

  The first time, all videos are decoded and stored in TFDS's folder, as
  video_folder/FOLDER-FPSfps-SIZEpx-DIGEST. DIGEST depends on the names and
  sizes of the files and on their labels, times and groups, so that after a
  change everything is stored anew. An hour of video takes about 2 GB at 25
  frames per second and 256 pixels. The stored files can also be read without
  PATH, by the name "video_folder/FOLDER-FPSfps-SIZEpx-DIGEST". Until all videos
  are stored, the frames of each are in
  video_folder/.frames-FPSfps-SIZEpx-VERSION.

  An example holds no frames: its `video` reads only the frames that are taken.
  `temporal_crop(32,2)` reads 0.7 to 0.9 MB at 256 pixels, in 33 reads, of a
  video of any length.

  A slice of a split, such as "train[:90%]", begins and ends between two files,
  or between two groups that a CSV file names, at the bound nearest to the
  requested one.
  """

  options = ("data_dir",)

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the videos do not have."""
    if name.startswith("video_folder:"):
      path, *_ = parse_name(name)
      known = video_listing.find_splits(paths.local(path, "video_folder:"))
    else:
      stored = name.removeprefix("video_folder/").partition(":")[0]
      known = _read_about(name, _folder(data_dir) / stored / VERSION)["splits"]
    _parse(split, list(known), name)

  def __init__(
    self, name: str, split: str, data_dir: str | os.PathLike | None = None
  ):
    """Lists the videos, stores them unless they are stored, opens the split.

    Args:
      name: "video_folder:PATH..." or the name of stored files,
        "video_folder/FOLDER-FPSfps-SIZEpx-DIGEST".
      split: train, validation or test by any of their names (see `splits`),
        "all" of them, a slice of a split, or several joined by "+".
      data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
        ~/tensorflow_datasets.

    Raises:
      ValueError: the name, the folder, a CSV file, a video or the split cannot
        be read; the message says which and why.
      OSError: TFDS's folder cannot be written.
    """
    self.name = f"{name} ({split})"
    if name.startswith("video_folder:"):
      path, fps, size = parse_name(name)
      stored = prepare(path, data_dir, fps, size)
    else:
      stored = name.removeprefix("video_folder/").partition(":")[0]
    folder = _folder(data_dir) / stored / VERSION
    about = _read_about(name, folder)
    self._frames = folder / _FRAMES
    self.class_names = about["class_names"]
    self.num_classes = len(self.class_names)
    self.has_several = about["has_several"]
    clips = {column: [] for column in _COLUMNS}
    self.parts = []
    for known, asked, part in _parse(split, list(about["splits"]), name):
      columns = about["splits"][known]
      groups = columns["group"]
      chosen = _choose(groups, part, f"{name} ({known})")
      self.parts.append(
        shared_examples.Part(asked + part, known, len(groups), chosen)
      )
      for column, values in clips.items():
        values += columns[column][chosen.start : chosen.stop]
    self._digest = sources.hash_words(
      self.class_names,
      self.has_several,
      [values for column, values in clips.items() if column != "frames"],
    )
    self._paths, self._labels = clips["path"], clips["labels"]
    self._files, self._lengths = clips["frames"], clips["num_frames"]
    labels = np.array(list(itertools.chain(*self._labels)), np.int64)
    counts = np.bincount(labels, minlength=self.num_classes)
    if len(self):  # Who opens the split refuses an empty one.
      sources.warn_of_classes(self.name, self.class_names, counts, "video")

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    classes = self._labels[index]
    label = np.int32(classes[0])
    if self.has_several:
      label = np.zeros(self.num_classes, np.float32)
      label[classes] = 1
    return {
      "video": frame_store.StoredFrames(
        self._frames / self._files[index], self._lengths[index]
      ),
      "label": label,
      "id": np.int32(index),
      "file_name": self._paths[index].encode("utf-8", "surrogateescape"),
    }

  def describe(self, index: int) -> str:
    """Returns the position and the path of the video."""
    return f"example {index}, {self._paths[index]}"

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns the numbers of the classes, int64 [N], from memory."""
    self.check_label(key)
    return np.array([classes[0] for classes in self._labels], np.int64)

  def label_keys(self) -> list[str]:
    """Returns the label's key, if a label is one class."""
    return [] if self.has_several else ["label"]

  @property
  def has_labels_at_hand(self) -> bool:
    """Returns True: labels are in memory."""
    return True

  def digest(self) -> str:
    """Returns a hash of the classes and of the clips in their order."""
    return self._digest


def _parse(
  split: str, known: Sequence[str], name: str
) -> list[tuple[str, str, str]]:
  """Returns (known split, name asked for, slice) of a split or each summand."""
  parts = []
  for asked, part in splits.parse(split, name):
    names = known if asked == "all" else [splits.resolve(asked, known, name)]
    parts += [(known_name, asked, part) for known_name in names]
  return parts


def _choose(groups: Sequence[str], part: str, where: str) -> range:
  """Returns the positions that a slice takes, in whole groups.

  Args:
    groups: the group of each clip of the split.
    part: the slice, such as "[:90%]", or "".
    where: the split, for errors.
  """
  positions = splits.positions(part, len(groups), where)
  start, stop = (
    video_clips.snap(groups, position)
    for position in (positions.start, positions.stop)
  )
  if len(positions) and start >= stop:
    raise ValueError(
      f"The slice {part} of {where} is smaller than a group of clips, "
      f"{groups[positions.start]!r}, and no slice cuts through one: all clips "
      "of a file, or of a group that a CSV file names, are together. There are "
      f"{len(set(groups))} in the split; ask for more of it."
    )
  return range(start, stop)


def _folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
  """Returns the folder of all stored videos."""
  return paths.data_dir(data_dir) / "video_folder"


def _read_about(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the content of a dataset's file beside the frames."""
  try:
    return json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
  except FileNotFoundError:
    older = sorted(path.name for path in folder.parent.glob("[0-9]*"))
    reason = f"{folder.parent} holds no videos"
    if older:
      reason = f"{folder.parent} is stored as of version {older[-1]}"
    raise ValueError(
      f"Cannot read {name}: {reason}, version {VERSION} is needed. It is made "
      "of the folder of videos the first time that 'video_folder:PATH' is read."
    ) from None


def parse_name(name: str) -> tuple[str, float, int]:
  """Returns the path, the frames per second and the size in a dataset name."""
  path, query = splits.split_options(name.removeprefix("video_folder:"))
  low, high = video_file.FPS_RANGE
  try:
    pairs = urllib.parse.parse_qsl(query, strict_parsing=bool(query))
    options = dict(pairs)
    if len(options) < len(pairs):
      raise ValueError
    fps, size = float(options.pop("fps", FPS)), int(options.pop("size", SIZE))
    if (
      not path or options or not low <= fps <= high or not 1 <= size <= MAX_SIZE
    ):
      raise ValueError
  except ValueError:
    raise ValueError(
      f"Cannot read the dataset {name!r}: expected 'video_folder:/path', or "
      f"with frames per second ({low} to {high}) and pixels of the smaller "
      f"side (1 to {MAX_SIZE}) 'video_folder:/path?fps=25&size=256'."
    ) from None
  return path, fps, size


def local_name(name: str) -> str:
  """Returns a dataset name with a leading `~` of its path expanded."""
  path, *_ = parse_name(name)
  _, query = splits.split_options(name)
  query = query and f"?{query}"
  return f"video_folder:{paths.local(path, 'video_folder:')}{query}"


def folder_exists(name: str) -> bool:
  """Tells whether the folder of a dataset name exists."""
  path, *_ = parse_name(name)
  return paths.local(path, "video_folder:").is_dir()


def choose_splits(
  name: str, train: str = "", test: str = ""
) -> tuple[str, str]:
  """Returns the splits of a folder of videos to train on and to evaluate on.

  Args:
    name: name of the dataset, "video_folder:PATH...". A missing folder is
      treated as one without splits; opening it raises the error.
    train: the split that a person asked for to train on, or "".
    test: the split that a person asked for to evaluate on, or "".

  Raises:
    ValueError: the name cannot be read, or `splits.find` or `splits.choose`
      raises it.
  """
  path, *_ = parse_name(name)
  known = ["train"]
  if folder_exists(name):
    root = paths.local(path, "video_folder:")
    known = list(video_listing.find_splits(root))
  elif train and test:
    return train, test
  return splits.choose(known, name, train, test)


def fps_and_size(name: str) -> tuple[float, int]:
  """Returns the frames per second and the size that a dataset is stored at.

  Args:
    name: name of a dataset: "video_folder:PATH...", stored files,
      "video_folder/FOLDER-FPSfps-SIZEpx-DIGEST", or any other dataset, for
      which the defaults are returned.

  Raises:
    ValueError: the name begins with "video_folder:" and cannot be read.
  """
  if name.startswith("video_folder:"):
    return parse_name(name)[1:]
  stored = re.match(r"video_folder/.*-([^-]+)fps-(\d+)px-", name)
  return (float(stored[1]), int(stored[2])) if stored else (FPS, SIZE)


def prepare(
  path: str | os.PathLike,
  data_dir: str | os.PathLike | None = None,
  fps: float = FPS,
  size: int = SIZE,
  num_threads: int | None = None,
) -> str:
  """Stores the videos of a folder for `VideoFolderSource`, unless they are.

  Several threads decode videos, each with a few frames in memory. After an
  interruption the next call stores the remaining videos, with the same result.
  If several processes store videos, one does and the others wait.

  Args:
    path: the folder.
    data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    fps: frames per second to store.
    size: greatest smaller side of a stored frame in pixels.
    num_threads: number of videos that are decoded at a time; by default one per
      core.

  Returns:
    The name of the stored files, which can be read as "video_folder/NAME".

  Raises:
    ValueError: the folder or any of the videos cannot be read. All videos are
      tried first, and the message names the file that lists the unreadable
      ones.
    OSError: TFDS's folder cannot be written.
    ImportError: PyAV is not installed.
  """
  listing = video_listing.list_videos(path)
  stem = re.sub(r"\W+", "_", listing.root.resolve().name, flags=re.ASCII)
  kind = f"{fps:.10g}fps-{size}px"
  name = f"{stem}-{kind}-{listing.digest()}"
  folder = _folder(data_dir)
  target = folder / name / VERSION
  if (target / _ABOUT).exists():
    return name

  # All states of the folder share these files, so that a mended folder is soon
  # stored. Another version, which may have chosen other frames, has its own.
  store = frame_store.FrameStore(
    folder / f".frames-{kind}-{VERSION}",
    folder / f"unreadable-{stem}-{kind}.txt",
    listing,
    fps,
    size,
  )
  # One process at a time for all folders of videos: each uses all processors,
  # and the next one removes what a killed process left behind.
  with (
    preparation.alone(folder) as is_alone,
    preparation.scratch(folder, is_alone) as scratch,
  ):
    if (target / _ABOUT).exists():
      return name
    _announce(folder, stem, kind, target, listing)
    files = store.fill(
      target / _FRAMES, scratch, num_threads or batches.available_cpus()
    )
    about = _describe(listing, files, target / _FRAMES)
    new = scratch / _ABOUT
    # ASCII, so that names of files are kept whatever bytes they are.
    new.write_text(json.dumps(about), encoding="utf-8")
    new.rename(target / _ABOUT)
  stored = (target / _FRAMES / file for file in set(files.values()))
  megabytes = sum(file.stat().st_size for file in stored) / 1e6
  terminal.write(f"The frames take {megabytes:.1f} MB in {target}.")
  return name


def _describe(
  listing: video_listing.Listing,
  files: Mapping[video_clips.Clip, str],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Returns the data of `_ABOUT`, which `VideoFolderSource` reads, for JSON."""
  numbers = {label: i for i, label in enumerate(listing.class_names)}
  described = {}
  for split, clips in listing.clips.items():
    rows = (
      (
        clip.path,
        clip.start,
        clip.end,
        clip.group,
        [numbers[label] for label in clip.labels],
        files[clip],
        frame_store.count_frames(folder / files[clip]),
      )
      for clip in clips
    )
    columns = map(list, zip(*rows, strict=True))
    described[split] = dict(zip(_COLUMNS, columns, strict=True))
  return {
    "class_names": listing.class_names,
    "has_several": listing.has_several,
    "splits": described,
  }


def _announce(
  folder: pathlib.Path,
  stem: str,
  kind: str,
  target: pathlib.Path,
  listing: video_listing.Listing,
) -> None:
  """Logs what will be stored and where, and which old files are obsolete."""
  count = terminal.counted(sum(map(len, listing.clips.values())), "video")
  terminal.write(f"Storing the frames of {count} once, in {target}.")
  if len(listing.class_names) == 1:  # Told before hours of decoding.
    logging.warning(
      "%s has a single class, %r, so there is nothing to tell apart. Expected "
      "PATH/CLASS/VIDEO, PATH/SPLIT/CLASS/VIDEO or PATH/SPLIT.csv. Is the path "
      "one level off?",
      listing.root,
      *listing.class_names,
    )
  old = (
    *folder.glob(f"{stem}-{kind}-*/1.*"),
    *folder.glob(f".frames-{kind}-1.*"),
  )
  for path in itertools.islice(old, 1):
    logging.warning(
      "%s is of an older version, which is read no more, and the videos are "
      "decoded anew; you can remove it.",
      path,
    )
