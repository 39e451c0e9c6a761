"""Decides what the splits of a dataset are, by the names of folders or tables.

A dataset is trained on one split and evaluated on another. People call them
`train` and `test`, `Training` and `val`, `train` and `dev`. All datasets and
all configs decide by the functions here which is which.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

ALIASES = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "dev"),
  "test": ("test", "testing"),
}
_ROLES = {alias: role for role, names in ALIASES.items() for alias in names}
_TABLE = ".csv"

# What operating systems, archives and network drives leave in folders.
_IGNORED = {
  "$recycle.bin",
  "@eadir",
  "__macosx",
  "desktop.ini",
  "ehthumbs.db",
  "icon\r",
  "lost+found",
  "system volume information",
  "thumbs.db",
}


def role(name: str) -> str | None:
  """Returns "train", "validation" or "test" for a name that means it, or None.

  Args:
    name: of a split, a folder or a table (such as "val.csv"), in any case.
  """
  return _ROLES.get(name.lower().removesuffix(_TABLE))


def by_role(names: Iterable[str], where: str) -> dict[str, str]:
  """Returns which of the names is the split for which role.

  Args:
    names: of splits, folders or tables.
    where: the dataset, for the error.

  Returns:
    {"train": name, "validation": name, "test": name}, without the roles that no
    name has.

  Raises:
    ValueError: two names have one role.
  """
  chosen = {}
  for part in ALIASES:
    same = [name for name in names if role(name) == part]
    if len(same) > 1:
      raise ValueError(
        f"{where} has both {' and '.join(same)}, and one must be the split "
        f"{part!r}. Join them, or give one of them another name."
      )
    if same:
      chosen[part] = same[0]
  return chosen


def resolve(asked: str, known: Sequence[str], where: str) -> str:
  """Returns which of the known splits is meant.

  Args:
    asked: name of a split, as known or any alias of it.
    known: the splits that there are.
    where: the dataset, for errors.

  Raises:
    ValueError: there is no such split, or two could be meant.
  """
  if asked in known:
    return asked
  part = role(asked)
  same = [name for name in known if part and role(name) == part]
  if len(same) == 1:
    return same[0]
  if same:
    raise ValueError(
      f"{where} has no split {asked!r}; do you mean {' or '.join(same)}?"
    )
  raise ValueError(
    f"{where} has no split {asked!r}. Its splits are: "
    f"{', '.join(known) or 'none'}."
  )


def choose(
  known: Sequence[str],
  where: str,
  train: str = "",
  test: str = "",
  has_labels: Callable[[str], bool] = lambda split: True,
) -> tuple[str, str]:
  """Returns the splits to train on and to evaluate on while training.

  The split for training is "train". The split for evaluation is "validation",
  or without one "test", or without both the last tenth of "train", which is
  then left out of the training.

  Args:
    known: the splits that there are.
    where: the dataset, for errors.
    train: a split, perhaps a slice, that a person asked for; or "".
    test: as `train`, for the evaluation.
    has_labels: tells of a known split whether its examples have labels. Others
      are not chosen.

  Raises:
    ValueError: a split that was asked for is not there, two splits could be
      meant, or there is nothing to train on or to evaluate on.
  """
  roles = by_role(known, where)
  for asked in (train, test):
    for part in asked.split("+") if asked else ():
      resolve(part.partition("[")[0].strip(), known, where)
  if not train and "train" not in roles:
    raise ValueError(
      f"{where} has no split to train on. Its splits are: "
      f"{', '.join(known) or 'none'}. Say which to use, such as train=NAME."
    )
  if test:
    tested = {part.partition("[")[0].strip() for part in test.split("+")}
    if not train and roles["train"] in {
      resolve(name, known, where) for name in tested
    }:
      raise ValueError(
        f"test={test} of {where} is a part of the split to train on. Say also "
        "which part to train on, such as train=train[:90%],test=train[90%:]."
      )
    return train or roles["train"], test
  for part in ("validation", "test"):
    if part in roles and has_labels(roles[part]):
      return train or roles["train"], roles[part]
  if train:
    raise ValueError(
      f"{where} has no split to evaluate on beside train={train}. Its splits "
      f"are: {', '.join(known)}. Say which to use, such as test=train[90%:]."
    )
  name = roles["train"]
  return f"{name}[:90%]", f"{name}[90%:]"


def visible(folder: str | os.PathLike) -> list[os.DirEntry]:
  """Returns what people put into a folder, in alphabetical order.

  Hidden files and what operating systems and archives leave behind, such as
  Thumbs.db and __MACOSX, are left out.
  """
  with os.scandir(folder) as entries:
    shown = [
      entry
      for entry in entries
      if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED
    ]
  return sorted(shown, key=lambda entry: entry.name)


def find(
  root: pathlib.Path, is_example: Callable[[str], bool]
) -> dict[str, pathlib.Path]:
  """Returns the folders and tables in `root` that are splits of a dataset.

  A folder is a split if its name means one and it holds folders, one per class:

    ROOT/train/CLASS/EXAMPLE
    ROOT/val.csv

  A folder that is called "train" or "test" and holds examples itself, beside
  other folders of examples, is a class of that name.

  Args:
    root: the folder.
    is_example: tells by a file's name whether the file is an example.

  Returns:
    Paths by "train", "validation" and "test". Empty if the folders in `root`
    are classes, or if there are none.

  Raises:
    ValueError: two are one split; or folders are called like splits and hold no
      class folders, and it cannot be told what they are. The message says how
      each was read and what to rename.
  """
  entries = visible(root)
  named = [
    entry.name
    for entry in entries
    if role(entry.name)
    and entry.is_dir() != entry.name.lower().endswith(_TABLE)
  ]
  tables = [name for name in named if name.lower().endswith(_TABLE)]
  folders = [name for name in named if name not in tables]
  holding = {name: _holds(root / name, is_example) for name in folders}
  nested = [name for name in folders if holding[name] == "folders"]
  if not nested and not tables:
    flat = [name for name in folders if holding[name] == "examples"]
    others = [e.name for e in entries if e.is_dir() and e.name not in folders]
    if not flat or any(
      _holds(root / name, is_example) == "examples" for name in others
    ):
      return {}
    raise ValueError(
      f"{root} was read as having the splits {', '.join(flat)}, which hold "
      "files and no class folders. Expected one folder per class in each, as "
      f"in {flat[0]}/CLASS/FILE. If {', '.join(flat)} are the classes, rename "
      "them, such as to "
      f"{', '.join('class_' + name for name in flat)}."
    )
  chosen = by_role([*nested, *tables], str(root))
  return {part: root / name for part, name in chosen.items()}


def _holds(folder: pathlib.Path, is_example: Callable[[str], bool]) -> str:
  """Returns "folders", "examples" or "nothing" for what is in a folder."""
  holds = "nothing"
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith(".") or entry.name.lower() in _IGNORED:
        continue
      if entry.is_dir():
        return "folders"
      if is_example(entry.name):
        holds = "examples"
  return holds
