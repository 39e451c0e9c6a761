"""Lists of the classes in masks, by the files that people keep beside them."""

import csv
import json
import pathlib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tokenlearner_flexivit.data import mask_classes, splits
from tokenlearner_flexivit.data.sources import text_files
from tokenlearner_flexivit.data.sources.mask_folder import colours, layout

# In lower case. Each is looked for in this order.
_TEXTS = ("classes.txt", "class_names.txt", "labels.txt", "names.txt")
_JSONS = ("classes.json", "class_names.json", "labels.json", "names.json")
_ADE = "objectinfo150.txt"
_ROBOFLOW = "_classes.csv"
_CVAT = "labelmap.txt"
_LABELMAP = re.compile(r"(.+?):(\d+),(\d+),(\d+)(?::.*)?")
_NUMBERED = re.compile(r"(\d+)\s*[:;,\t ]\s*(.*\S)")


class Classes(NamedTuple):
  """The classes in masks.

  Attributes:
    names: by id from 0.
    file: the file that lists them; None for those of Cityscapes.
    legend: ids by the codes of colours, see `colours.to_ids`; empty if masks
      hold ids.
  """

  names: list[str]
  file: pathlib.Path | None
  legend: Mapping[int, int] = types.MappingProxyType({})


def read(root: pathlib.Path, place: layout.Place, kind: str) -> Classes | None:
  """Returns the names of the ids in masks, None without a list.

  The list lies in the folder, or in that of a split, of images or of masks. It
  is `classes.txt` with a name in each line, perhaps behind its id; a JSON file
  with names, ids by name, names by id, or objects with `id` and `name`;
  ADE20K's `objectInfo150.txt`; Roboflow's `_classes.csv`; or CVAT's
  `labelmap.txt`, which also has the colours of masks. Masks of Cityscapes need
  no list.

  Args:
    root: the folder.
    place: the folders of the training split, or of another one without it.
    kind: `layout.Pairs.kind` of its masks.

  Raises:
    ValueError: a list cannot be read, or has an id twice or beyond 254.
  """
  folders = dict.fromkeys(
    (root, place.images.parent, place.images, place.masks or root)
  )
  known = (*_TEXTS, *_JSONS, _ADE, _ROBOFLOW, _CVAT)
  files = {}
  for folder in folders:
    for entry in splits.visible(folder):
      if (name := entry.name.lower()) in known:
        files.setdefault(name, pathlib.Path(entry.path))
  for name in known:
    if name in files:
      path = files[name]
      if name == _CVAT:
        return _labelmap(path)
      return Classes(_fill(_read_file(path, name), path), path)
  if kind == layout.LABEL_IDS:
    return Classes(list(mask_classes.CITYSCAPES_LABEL_IDS), None)
  if kind == layout.TRAIN_IDS:
    return Classes(list(mask_classes.CITYSCAPES_TRAIN_IDS), None)
  return None


def _read_file(path: pathlib.Path, name: str) -> Mapping[int, str]:
  """Returns the names of a list by their ids."""
  text = text_files.read(path)
  if name in _JSONS:
    try:
      return _from_json(json.loads(text), path)
    except json.JSONDecodeError as error:
      raise ValueError(f"{path} is no JSON: {error}") from None
  if name == _ADE:
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    # The benchmark's masks have 0 where no class is.
    return {0: "none"} | _numbered(
      ((row.get("Idx"), row.get("Name")) for row in rows), path
    )
  if name == _ROBOFLOW:
    rows = csv.reader(text.splitlines()[1:], skipinitialspace=True)
    return _numbered((row[:2] for row in rows if row), path)
  lines = [line.strip() for line in text.rstrip().splitlines()]
  matches = [_NUMBERED.fullmatch(line) for line in lines]
  if all(matches):
    return _numbered((match.groups() for match in matches), path)
  if not all(lines):
    raise ValueError(
      f"{path}: line {lines.index('') + 1} is empty. Line N names the class "
      "N - 1, so a line cannot be left out."
    )
  return dict(enumerate(lines))


def _labelmap(path: pathlib.Path) -> Classes:
  """Returns the classes of CVAT's lines "NAME:RED,GREEN,BLUE:PARTS:ACTIONS"."""
  names, legend = [], {}
  for line in filter(None, map(str.strip, text_files.read(path).splitlines())):
    if line.startswith("#"):
      continue
    match = _LABELMAP.fullmatch(line)
    if not match:
      raise ValueError(
        f"{path}: cannot read {line!r}. Expected the name and the colour of a "
        "class, as in cat:250,50,83::"
      )
    legend[colours.code(*map(int, match.groups()[1:]))] = len(names)
    names.append(match[1])
  if len(legend) < len(names):
    raise ValueError(f"{path} has several classes of the same colour.")
  return Classes(_fill(dict(enumerate(names)), path), path, legend)


def _from_json(content: Any, path: pathlib.Path) -> Mapping[int, str]:
  """Returns names by id from the forms of lists in JSON."""
  if isinstance(content, dict) and isinstance(content.get("categories"), list):
    content = content["categories"]
  if isinstance(content, list):
    if all(isinstance(item, str) for item in content):
      return dict(enumerate(content))
    if all(isinstance(item, dict) for item in content):
      return _numbered(((i.get("id"), i.get("name")) for i in content), path)
  if isinstance(content, dict):
    if all(isinstance(value, str) for value in content.values()):
      return _numbered(content.items(), path)
    return _numbered(((i, name) for name, i in content.items()), path)
  raise ValueError(_bad_list(path))


def _numbered(
  pairs: Iterable[tuple[Any, Any]], path: pathlib.Path
) -> dict[int, str]:
  """Returns names by id, or raises ValueError for a bad or repeated id."""
  names = {}
  for pair in pairs:
    number, name = (*pair, None)[:2]
    is_number = isinstance(number, int) or str(number).strip().isdecimal()
    if isinstance(number, bool) or not is_number or not isinstance(name, str):
      raise ValueError(_bad_list(path))
    if int(number) in names:
      raise ValueError(f"{path} has the id {int(number)} twice.")
    names[int(number)] = name.strip()
  return names


def _bad_list(path: pathlib.Path) -> str:
  return (
    f"{path} is no list of classes. Expected the names of the ids 0, 1, ..., "
    'such as ["background", "cat"], or names with their ids, such as '
    '{"0": "background", "7": "cat"}.'
  )


def _fill(names: Mapping[int, str], path: pathlib.Path) -> list[str]:
  """Returns names by position, "id N" for ids that the list leaves out."""
  names = {i: n for i, n in names.items() if i != mask_classes.IGNORE}
  if not names:
    raise ValueError(f"{path} lists no classes.")
  if min(names) < 0 or max(names) > mask_classes.IGNORE:
    raise ValueError(
      f"{path} has the ids {min(names)} to {max(names)}. The ids of classes "
      f"are 0 to {mask_classes.IGNORE - 1}, and {mask_classes.IGNORE} is where "
      "a mask has no class."
    )
  return [names.get(i, f"id {i}") for i in range(max(names) + 1)]
