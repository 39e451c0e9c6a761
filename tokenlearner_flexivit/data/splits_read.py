"""The splits that a run reads, in words and to compare evaluations."""

import contextlib
import functools
import itertools
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import shared_examples, splits
from tokenlearner_flexivit.data.shared_examples import Part
from tokenlearner_flexivit.data.sources.captions import (
  source as captions_source,
)
from tokenlearner_flexivit.data.sources.coco import files as coco_files
from tokenlearner_flexivit.data.sources.mask_folder import layout

# Functions that return the splits of a folder, by the kind of the source.
_FIND = {
  "mask_folder": layout.find_places,
  "coco": coco_files.find,
  "captions": captions_source.find_splits,
}


def describe(
  config: Mapping[str, Any],
  parts: Mapping[str, Sequence[Part]] = types.MappingProxyType({}),
) -> list[str]:
  """Returns lines that say which splits a run reads, and which overlap.

  There is a line for each folder of data, and a line for each evaluation on
  training examples.

  Args:
    config: the run's config, with `data` and `evals`.
    parts: by evaluation, what it reads of the dataset's splits. Without it,
      splits overlap unnoticed if that depends on their sizes.
  """
  read = {}
  for section in (config, *config["evals"].values()):
    data = section.get("data") or config["data"]
    asked = [data.get("split")]
    if has_two_splits(section):
      asked += [section.get(f"{s}_split") or s for s in ("train", "test")]
    read.setdefault(data["name"], []).extend(filter(None, asked))
  lines = [
    _describe(name, dict.fromkeys(asked)) for name, asked in read.items()
  ]
  for name, section in config["evals"].items():
    data = section.get("data") or config["data"]
    split, trained = data.get("split"), config["data"]["split"]
    if has_two_splits(section):
      split = section.get("test_split") or "test"
    if not split or data["name"] != config["data"]["name"]:
      continue
    with contextlib.suppress(ValueError):  # Opening the split raises it.
      if _overlap(data["name"], split, trained, parts.get(name, ())):
        lines.append(
          f"config.evals.{name} evaluates on examples that are trained on: of "
          f"{data['name']}, it reads {split} and the training {trained}."
        )
  return [line for line in lines if line]


def has_two_splits(section: Mapping[str, Any]) -> bool:
  """Tells whether an entry of config.evals names two splits beside its data.

  Such evaluations learn from one and classify the other.
  """
  data = section.get("data")
  return bool(data) and not data.get("split")


def unlike_training(
  data: Mapping[str, Any],
  training: Mapping[str, Any],
  parts: Sequence[Part] = (),
) -> tuple[bool, bool, bool]:
  """Returns a sort key that puts data best suited to judge a training first.

  The order is: other splits of the training's dataset, held-out parts of the
  same split, other datasets, examples that are trained on.

  Args:
    data: the data section of an evaluation.
    training: the data section of the training.
    parts: what the evaluation reads of the dataset's splits. Without it,
      examples that are trained on pass unnoticed if that depends on sizes.

  Returns:
    Whether examples are trained on, whether the datasets differ, and whether a
    split is shared.
  """
  splits_of_each = [
    _splits_of(section["name"], [section["split"]])
    if section.get("split")  # Few-shot evaluations have two other keys.
    else set()
    for section in (data, training)
  ]
  differ = data["name"] != training["name"]
  shared = all(splits_of_each) and (
    "all" in set.union(*splits_of_each)
    or not splits_of_each[0].isdisjoint(splits_of_each[1])
  )
  trained_on = (
    all(splits_of_each)
    and not differ
    and _overlap(data["name"], data["split"], training["split"], parts)
  )
  return trained_on, differ, shared


def _known(name: str, split: str) -> str:
  """Returns the split of a dataset that a name of a split means.

  Only folders of COCO annotations have names beside those of roles, such as
  "train2017" for "train".

  Args:
    name: of the dataset, which need not be there.
    split: the name of a split, without a slice.
  """
  kind, _, path = name.partition(":")
  if kind == "coco" and split != "all" and not splits.role(split):
    with contextlib.suppress(ValueError):  # Opening the split raises it.
      return coco_files.resolve(split, coco_files.find(path), name)
  return split


def _overlap(
  name: str, split: str, other: str, parts: Iterable[Part] = ()
) -> bool:
  """Tells whether two splits of a dataset share examples.

  Args:
    name: of the dataset, which need not be there.
    split: a split, perhaps a sum.
    other: another.
    parts: those of `split`, as `shared_examples.overlap` takes them.

  Raises:
    ValueError: a split or a slice cannot be read.
  """
  known = functools.partial(_known, name)
  if shared_examples.overlap(split, other, parts, known):
    return True
  kind, _, path = name.partition(":")
  if kind not in ("coco", "mask_folder"):
    return False
  resolve, share_images = splits.resolve, layout.share_images
  if kind == "coco":
    resolve = coco_files.resolve
    share_images = functools.partial(coco_files.share_images, path)
  # Lists such as Pascal VOC's "trainval" name images of other splits.
  try:
    places = _FIND[kind](path)
    taken = [
      {k for k, *_ in splits.select(s, places, name, resolve)}
      for s in (split, other)
    ]
    return any(
      share_images(places[a], places[b])
      for a, b in itertools.product(*taken)
      if a != b
    )
  except ValueError:
    return False  # Opening the split raises it.


def _splits_of(name: str, asked: Iterable[str]) -> set[str]:
  """Returns the roles of the splits that are asked for, or else their names."""
  known = (
    _known(name, part) for split in asked for part, _ in splits.parse(split)
  )
  return {splits.role(split) or split for split in known}


def _reading(name: str, known: Iterable[str], asked: Iterable[str]) -> str:
  """Returns in words which of the known splits are read, and which not."""
  parts = _splits_of(name, asked)
  used = [
    split
    for split in known
    if "all" in parts or (splits.role(split) or split) in parts
  ]
  left = [split for split in known if split not in used]
  unused = f" Not reading {', '.join(left)}." if left else ""
  return f"{name}: reading {', '.join(used)}.{unused}"


def _describe(name: str, asked: Iterable[str]) -> str:
  """Returns the line about a dataset; "" unless it is a folder."""
  kind, _, path = name.partition(":")
  if kind not in ("folder", "video_folder", *_FIND):
    return ""
  if kind == "video_folder":
    path, _ = splits.split_options(path)
  root = paths.local(path, kind)
  if not (root.is_dir() or (kind == "captions" and root.is_file())):
    return ""
  if kind in _FIND:
    return _reading(name, _FIND[kind](path), asked)
  split_paths = splits.find(root, has_tables=kind != "folder")
  known = {part: path.name for part, path in split_paths.items()}
  if not known:
    return f"{name} has no folders of splits. Reading {', '.join(asked)}."
  parts = [part for split in asked for part, _ in splits.parse(split)]
  used = dict.fromkeys(known.get(splits.role(part), part) for part in parts)
  if "all" in used:
    used = dict.fromkeys(known.values())
  # Tables have the folders of their files beside them.
  has_tables = any(
    name.lower().endswith(splits.TABLE) for name in known.values()
  )
  left = [
    entry.name
    for entry in splits.visible(root)
    if entry.name not in used
    and (
      splits.role(entry.name) or (splits.is_folder(entry) and not has_tables)
    )
  ]
  unused = f" Not reading {', '.join(left)}." if left else ""
  return f"{name}: reading {', '.join(used)}.{unused}"
