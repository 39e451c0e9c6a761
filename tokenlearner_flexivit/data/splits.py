"""The splits of a dataset, by the names of its folders or tables.

A dataset is trained on one split and evaluated on another. People call them
`train` and `test`, `Training` and `val`, `train` and `dev`. All datasets and
all configs use the functions here to tell which is which.
"""

import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence

ALIASES = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "dev"),
  "test": ("test", "testing"),
}
_ROLES = {alias: role for role, names in ALIASES.items() for alias in names}
TABLE = ".csv"
_PART = re.compile(
  r"\s*(?P<name>[^\[\]+]*[^\[\]+\s])\s*(?P<slice>\[[^\[\]]*\])?\s*"
)

# Files that operating systems, archives and network drives leave in folders.
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
    name: name of a split, a folder or a table (such as "val.csv"), in any case.
  """
  return _ROLES.get(name.lower().removesuffix(TABLE))


def by_role(names: Iterable[str], where: str) -> dict[str, str]:
  """Returns the name of the split for each role.

  Args:
    names: names of splits, folders or tables.
    where: the dataset, for the error.

  Returns:
    {"train": name, "validation": name, "test": name}, without the roles that no
    name has.

  Raises:
    ValueError: two names have the same role.
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


def parse(split: str, where: str = "") -> list[tuple[str, str]]:
  """Returns the names and slices of a split such as "train[:90%]+val".

  Args:
    split: the split.
    where: the dataset, for the error.

  Returns:
    Pairs (name, slice), the slice "" where there is none: [("train", "[:90%]"),
    ("val", "")].

  Raises:
    ValueError: the syntax is wrong, or the ends of a slice have two units.
  """
  matches = [_PART.fullmatch(part) for part in split.split("+")]
  if not all(matches):
    dataset = f" of {where}" if where else ""
    raise ValueError(
      f"Cannot read the split {split!r}{dataset}: expected a name, perhaps "
      "with a slice, or a sum of such, as in 'train', 'train[:90%]', "
      "'train[100:200]' or 'train+validation'. A folder with +, [ or ] in its "
      "name can be no split: rename it."
    )
  parts = [(match["name"], match["slice"] or "") for match in matches]
  for name, part in parts:
    ends = (end.strip() for end in part.strip("[]").split(":"))
    units = {re.sub(r"[-\d.]", "", end) for end in ends if end not in ("", "0")}
    if len(units) > 1:  # TFDS would use one of them for both.
      raise ValueError(
        f"The slice {name}{part} has an end in percent and another that is "
        "not: give both as positions, as in [100:200], or both in percent, as "
        "in [10%:20%]."
      )
  return parts


def positions(slice_text: str, length: int, where: str) -> range:
  """Returns the positions that a slice such as "[:90%]" takes, as TFDS does.

  Args:
    slice_text: the slice with its brackets, or "" for all.
    length: number of examples in the whole split.
    where: the split, for errors.

  Raises:
    ValueError: the syntax is wrong, or the slice goes beyond the split.
  """
  if slice_text in ("", "[:]"):
    return range(length)
  import tensorflow_datasets as tfds  # It takes a while.

  whole = tfds.core.SplitInfo(name="all_", shard_lengths=[length], num_bytes=0)
  try:
    if "shard" in slice_text:
      raise ValueError("There are no shards but TFDS's own.")
    instruction = tfds.core.ReadInstruction.from_spec(f"all_{slice_text}")
    (part,) = instruction.to_absolute({"all_": whole})
  except ValueError:
    raise ValueError(
      f"Cannot take the slice {slice_text} of {where}, which has {length} "
      "examples. Expected [START:STOP] with positions or percentages within "
      "them, as in [:90%], [100:200] or [-10:]."
    ) from None
  return range(part.from_ or 0, length if part.to is None else part.to)


def resolve(asked: str, known: Sequence[str], where: str) -> str:
  """Returns the known split that a name or alias means.

  Args:
    asked: name of a known split, or any alias of it.
    known: the dataset's splits.
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
    f"{', '.join(known) or 'none'}.{_advice(known)}"
  )


def select(
  split: str,
  known: Collection[str],
  where: str,
  resolve: Callable[[str, Collection[str], str], str] = resolve,
) -> list[tuple[str, str, str]]:
  """Returns what a split, or each summand of it, takes of the known splits.

  "all" means those that have a role, or without such all of them.

  Args:
    split: a split, perhaps with a slice, or a sum.
    known: the dataset's splits.
    where: the dataset, for errors.
    resolve: returns the known split that a name means, as `resolve` does.

  Returns:
    For each known split that is taken its name, the summand, and the slice.

  Raises:
    ValueError: the syntax is wrong, or there is no such split.
  """
  taken = []
  for name, part in parse(split, where):
    if name == "all":
      names = [n for n in known if role(n)] or list(known)
    else:
      names = [resolve(name, known, where)]
    taken += [(known_name, name + part, part) for known_name in names]
  return taken


def _advice(known: Sequence[str]) -> str:
  """Returns in words which names cannot be asked for; "" if all can."""
  matches = {name: _PART.fullmatch(name) for name in known}
  odd = [n for n, match in matches.items() if not match or match["name"] != n]
  if not odd:
    return ""
  return (
    f" Rename {' and '.join(map(repr, odd))}: + and [ ] in a name mean a sum "
    "and a slice, and blanks at its ends are left out."
  )


def choose(
  known: Sequence[str],
  where: str,
  train: str = "",
  test: str = "",
  has_labels: Callable[[str], bool] = lambda split: True,
  resolve: Callable[[str, Sequence[str], str], str] = resolve,
) -> tuple[str, str]:
  """Returns the splits to train on and to evaluate on while training.

  The split for training is "train". The split for evaluation is "validation",
  or without one "test", or without both the last tenth of "train", which is
  then left out of the training. If no split is for training, the result is
  "train" nevertheless, since an evaluation needs none.

  Args:
    known: the dataset's splits.
    where: the dataset, for errors.
    train: a split, perhaps a slice, that a person asked for; or "".
    test: a split for the evaluation that a person asked for; or "".
    has_labels: tells whether the examples of a known split have labels. Splits
      without labels are not chosen.
    resolve: returns the known split that a name means, as `resolve` does.

  Raises:
    ValueError: a split that was asked for does not exist, two splits could be
      meant, or no split can be trained or evaluated on.
  """
  roles = by_role(known, where)
  trained, tested = (
    _taken(split, known, where, resolve) if split else set()
    for split in (train, test)
  )
  if not (train or roles):
    raise ValueError(
      f"{where} has no split to train on. Its splits are: "
      f"{', '.join(known) or 'none'}. Say which to use, such as train=NAME."
    )
  own = roles.get("train", "train")
  if test:
    if not train and tested & {"train", "all"}:
      raise ValueError(
        f"test={test} of {where} is a part of the split to train on. Say also "
        "which part to train on, such as train=train[:90%],test=train[90%:]."
      )
    return train or own, test
  for part in ("validation", "test"):
    if trained & {part, "all"}:
      continue  # Training examples are no test.
    if part in roles and has_labels(roles[part]):
      return train or own, roles[part]
  if train:
    raise ValueError(
      f"{where} has no split to evaluate on beside train={train}. Its splits "
      f"are: {', '.join(known)}. Say which to use, such as "
      "train=train[:90%],test=train[90%:]."
    )
  return f"{own}[:90%]", f"{own}[90%:]"


def _taken(
  split: str,
  known: Sequence[str],
  where: str,
  resolve: Callable[[str, Sequence[str], str], str],
) -> set[str]:
  """Returns the roles of the known splits that a split takes, or their names.

  "all" is returned as it is.
  """
  names = [
    name if name == "all" else resolve(name, known, where)
    for name, _ in parse(split, where)
  ]
  return {role(name) or name for name in names}


def visible(folder: str | os.PathLike) -> list[os.DirEntry]:
  """Returns the entries of a folder that people put there, sorted by name.

  Hidden files are left out, and files that operating systems and archives leave
  behind, such as Thumbs.db and __MACOSX.
  """
  with os.scandir(folder) as entries:
    shown = [entry for entry in entries if not is_hidden(entry.name)]
  return sorted(shown, key=lambda entry: entry.name)


def broken_link(entry: os.DirEntry) -> str:
  """Returns in words why a link leads nowhere; "" for every other entry."""
  if entry.is_symlink():
    try:
      entry.stat()
    except FileNotFoundError:
      return "is a link to nothing"
    except OSError as error:  # It leads to itself, or access is denied.
      return f"is a link that cannot be followed ({error.strerror})"
  return ""


def is_folder(entry: os.DirEntry) -> bool:
  """Tells whether an entry is a folder, or a link that leads to one."""
  return not broken_link(entry) and entry.is_dir()


def is_hidden(name: str) -> bool:
  """Tells whether a name is that of a file that is not a person's data."""
  return name.startswith(".") or name.lower() in _IGNORED


def find(
  root: pathlib.Path,
  is_example: Callable[[str], bool] = lambda name: True,
  *,
  has_tables: bool = True,
) -> dict[str, pathlib.Path]:
  """Returns the folders and tables in `root` that are splits of a dataset.

  A folder is a split if its name means one and it holds folders, one per class:

    ROOT/train/CLASS/EXAMPLE
    ROOT/val.csv

  A folder that is called "train" or "test" and holds examples itself, beside
  other folders of examples, is a class of that name.

  Args:
    root: the folder.
    is_example: tells by a file's name whether the file is an example; by
      default every file is.
    has_tables: whether a table may be a split. Folders of images have none.

  Returns:
    Paths by "train", "validation" and "test". Empty if the folders in `root`
    are classes, or if there are none.

  Raises:
    ValueError: two folders or tables mean the same split; or folders have
      the names of splits but no class folders, so that they may be classes.
      The message says how each was read and what to rename.
  """
  entries = visible(root)
  named = [
    entry.name
    for entry in entries
    if role(entry.name)
    and is_folder(entry) != entry.name.lower().endswith(TABLE)
  ]
  folders = [name for name in named if not name.lower().endswith(TABLE)]
  tables = [n for n in named if n not in folders] if has_tables else []
  nested = [name for name in folders if holds_folders(root / name)]
  if not nested and not tables:
    flat = [n for n in folders if _holds_examples(root / n, is_example)]
    others = [e.name for e in entries if is_folder(e) and e.name not in folders]
    if not flat or any(_holds_examples(root / n, is_example) for n in others):
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


def holds_folders(folder: str | os.PathLike) -> bool:
  """Tells whether `folder` holds a folder."""
  return any(map(is_folder, visible(folder)))


def _holds_examples(
  folder: pathlib.Path, is_example: Callable[[str], bool]
) -> bool:
  """Tells whether `folder` holds examples and no folders."""
  return not holds_folders(folder) and any(
    is_example(entry.name) for entry in visible(folder)
  )


def split_options(name: str) -> tuple[str, str]:
  """Returns the path and the options of a name "PATH?KEY=VALUE&KEY=VALUE".

  A "?" at the end of a folder's name belongs to the path.
  """
  path, _, options = name.rpartition("?")
  is_path = not path or not options or "/" in options
  return (name, "") if is_path else (path, options)
