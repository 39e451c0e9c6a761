"""Clips of videos, and groups of clips that no slice of a split divides."""

import collections
import concurrent.futures
import dataclasses
import errno
import hashlib
import itertools
import math
import os
import pathlib
import stat as os_stat
from collections.abc import Iterable, Mapping, Sequence

from absl import logging

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.sources import base as sources

_MAX_SHOWN = 5
_THREADS, _CHUNK = 32, 64


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video or a part of one.

  Attributes:
    path: path of the file, relative to the folder of the listing, or absolute.
    labels: names of its classes, at least one.
    start: start in seconds.
    end: end in seconds, or None for the end of the file.
    group: name of the clip's group, through which no slice of a split cuts. All
      clips of a file have the same group, by default the name of the file.
  """

  path: str
  labels: tuple[str, ...]
  start: float = 0
  end: float | None = None
  group: str = ""


def as_text(path: str | os.PathLike) -> str:
  """Returns a path as text, the same in every locale."""
  return os.fsencode(path).decode("utf-8", "surrogateescape")


def as_path(text: str) -> str:
  """Returns the path of a text from `as_text`."""
  return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def stat_files(
  root: pathlib.Path, clips: Iterable[Clip]
) -> dict[str, os.stat_result | None]:
  """Returns the status of each path's file, None for a path without a file."""

  def stat(names: Sequence[str]) -> list[os.stat_result | None]:
    results = []
    for name in names:
      try:
        status = os.stat(os.path.join(root, as_path(name)))
      except (FileNotFoundError, NotADirectoryError, ValueError):
        status = None  # ValueError: the name has a null character.
      except OSError as error:
        if error.errno != errno.ELOOP:  # A link that leads to itself.
          raise
        status = None
      is_file = status is not None and not os_stat.S_ISDIR(status.st_mode)
      results.append(status if is_file else None)
    return results

  names = list(dict.fromkeys(clip.path for clip in clips))
  chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
  # Threads wait for the disk or the network, not for the processor.
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    results = itertools.chain.from_iterable(pool.map(stat, chunks))
    return dict(zip(names, results, strict=True))


def with_groups(
  root: pathlib.Path,
  listed: Mapping[str, Sequence[Clip]],
  files: Mapping[str, os.stat_result],
) -> dict[str, list[Clip]]:
  """Returns the clips of all splits with their groups.

  Clips that a split lists more than once are warned of.

  Args:
    root: the folder that paths are relative to.
    listed: the clips by split.
    files: the status of their files, see `stat_files`.

  Raises:
    ValueError: the clips of a file have several groups, or the same clip has
      several labels.
  """
  names = _name_files(root, files)
  named = collections.defaultdict(set)
  for clip in itertools.chain.from_iterable(listed.values()):
    if clip.group:
      named[names[clip.path]].add(clip.group)
  problems = [
    f"clips of {file} have the groups {', '.join(sorted(names))}: a file can "
    "only be in one"
    for file, names in named.items()
    if len(names) > 1
  ]
  grouped = {}
  for split, clips in listed.items():
    labels = collections.defaultdict(set)
    grouped[split] = []
    for clip in clips:
      file = names[clip.path]
      labels[file, clip.start, clip.end].add(clip.labels)
      name = min(named.get(file, {file}))
      grouped[split].append(dataclasses.replace(clip, group=name))
    if repeated := len(clips) - len(labels):
      logging.warning(
        "%s: %s lists %s again that it has already, by the same or by another "
        "path. Each counts as often as it is listed.",
        root,
        split,
        terminal.counted(repeated, "clip"),
      )
    problems += [
      f"{split}: {file}"
      + (f" from {start:g} s" if start else "")
      + (f" to {end:g} s" if end else "")
      + " is listed several times, with the labels "
      + " and ".join(sorted(map(";".join, several)))
      + ". If all are right, give them in one line, joined by ';'"
      for (file, start, end), several in labels.items()
      if len(several) > 1
    ]
  check(root, problems)
  return grouped


def _name_files(
  root: pathlib.Path, files: Mapping[str, os.stat_result]
) -> dict[str, str]:
  """Returns the name of each path's file, the same for all paths of a file.

  A file may have several paths: ./a.mp4, an absolute path, a link. Its name is
  the first of them in alphabetical order, relative to `root` if it is in it, so
  that it is the same on every machine.
  """
  home = as_text(os.path.abspath(root)) + os.sep
  names, places = {}, {}
  for path, status in files.items():
    name = os.path.normpath(path)
    if name.startswith((os.sep, "..")):
      name = os.path.normpath(os.path.join(home, name)).removeprefix(home)
    # Some file systems do not number files.
    place = (status.st_dev, status.st_ino) if status.st_ino else name
    places[path] = place
    names[place] = min(names.get(place, name), name)
  return {path: names[place] for path, place in places.items()}


def warn_of_shared_groups(
  root: pathlib.Path, listed: Mapping[str, Sequence[Clip]]
) -> None:
  """Warns of groups that are in two splits."""
  groups = {split: {c.group for c in part} for split, part in listed.items()}
  for first, second in itertools.combinations(groups, 2):
    shared = sorted(groups[first] & groups[second])
    if shared:
      more = f" and {len(shared) - _MAX_SHOWN} more"
      logging.warning(
        "%s: %s and %s share %d videos, so that one does not test what is "
        "learned from the other: %s%s.",
        root,
        first,
        second,
        len(shared),
        ", ".join(shared[:_MAX_SHOWN]),
        more if len(shared) > _MAX_SHOWN else "",
      )


def order(clips: Iterable[Clip]) -> list[Clip]:
  """Returns the clips in the order that `list_videos` describes."""
  groups = collections.defaultdict(list)
  for clip in clips:
    groups[clip.group].append(clip)
  labels = {
    name: {label for clip in group for label in clip.labels}
    for name, group in groups.items()
  }
  counts = collections.Counter(itertools.chain.from_iterable(labels.values()))
  # A group counts for the rarest of its classes.
  by_class = collections.defaultdict(list)
  for name in sorted(groups, key=_hash):
    rarest = min(labels[name], key=lambda label: (counts[label], label))
    by_class[rarest].append(name)
  places = {
    name: ((i + 0.5) / len(names), _hash(name))
    for names in by_class.values()
    for i, name in enumerate(names)
  }
  seen, first, rest = set(), [], []
  for name in sorted(groups, key=places.__getitem__):
    (rest if labels[name] <= seen else first).append(name)
    seen |= labels[name]
  return [
    clip
    for name in first + rest
    for clip in sorted(
      groups[name], key=lambda c: (c.path, c.start, c.end or math.inf)
    )
  ]


def _hash(text: str) -> bytes:
  return hashlib.blake2b(text.encode("utf-8", "surrogateescape")).digest()


def snap(groups: Sequence[str], position: int) -> int:
  """Returns the bound between two groups that is nearest to a position.

  Args:
    groups: the group of each clip of a split; clips of a group are adjacent.
    position: the start or the end of a slice, in [0, len(groups)].

  Returns:
    `position` if it is 0 or len(groups). Otherwise the nearest position at
    which another group begins, so that neither side is empty; the first of two
    equally near ones. With a single group, len(groups).
  """
  count = len(groups)
  if position in (0, count):
    return position
  bounds = [
    i
    for i, (group, following) in enumerate(itertools.pairwise(groups), 1)
    if group != following
  ]
  return min(bounds, key=lambda bound: abs(bound - position), default=count)


def check(where: pathlib.Path, problems: Iterable[str]) -> None:
  """Raises ValueError that lists the problems, if there are any."""
  sources.check(f"{where} cannot be read as a folder of videos", problems)
