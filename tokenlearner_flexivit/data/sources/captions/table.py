"""Tables of images and their captions, and what is wrong in them."""

import codecs
import collections
import csv
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import csv_rows, file_cache

# Names of columns, and of keys in JSON. If a table has several of a kind, the
# first of these is read.
IMAGE = (
  *("file", "file_name", "filename", "filepath", "image", "image_name"),
  *("image_path", "image_file", "path", "img"),
)
CAPTION = ("caption", "captions", "text", "title", "comment", "sentence")
SPLIT = "split"
# Spreadsheets write ";" in languages whose decimal point is a comma; Flickr30k
# has "|".
_SEPARATORS = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t",)}
_SUFFIXES = (*_SEPARATORS, ".jsonl", ".json")
# Characters of a value that an error shows.
_SHOWN = 60

# Where in a table, in words; the image, the captions and the split.
Row = tuple[str, str, Sequence[str], str]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """The images of a split in a fixed order.

  Attributes:
    names: the images' files as the table has them.
    captions: the captions of each.
    wheres: where in the table an image is first, in words.
  """

  names: Sequence[str]
  captions: Sequence[Sequence[str]]
  wheres: Sequence[str]


def find(path: str | os.PathLike) -> pathlib.Path:
  """Returns the table that a path means: itself, or the only one in a folder.

  Raises:
    ValueError: there is no table, or a folder has several.
  """
  root = pathlib.Path(os.path.abspath(paths.local(path, "captions")))
  if not root.is_dir():
    if not root.is_file():
      raise ValueError(f"captions:{path}: there is no such file or folder.")
    if root.suffix.lower() not in _SUFFIXES:
      raise ValueError(
        f"captions:{path} must be a table, whose name ends with "
        f"{', '.join(_SUFFIXES)}."
      )
    return root
  return _tables.get(root, lambda stamp: _find(root, stamp))


# A start asks for the table many times, and images may lie beside it.
_tables: file_cache.FileCache[pathlib.Path] = file_cache.FileCache(most=8)


def _find(root: pathlib.Path, stamp: file_cache.Stamp) -> pathlib.Path:
  """Returns the only table in a folder, or raises the errors of `find`."""
  stamp.add([root])
  tables = [
    root / entry.name
    for entry in splits.visible(root)
    if entry.is_file() and entry.name.lower().endswith(_SUFFIXES)
  ]
  if len(tables) == 1:
    return tables[0]
  if not tables:
    raise ValueError(
      f"{root} has no table of captions: expected a file whose name ends with "
      f"{', '.join(_SUFFIXES)}, with columns such as file,caption."
    )
  shown = ", ".join(table.name for table in tables[:5])
  raise ValueError(
    f"{root} has several tables: {shown}. Name the one to read, as in "
    f"captions:{tables[0]}. If they are splits, join them into one with a "
    "column split."
  )


def read(path: pathlib.Path) -> dict[str, Split]:
  """Returns the splits of a table; the last few tables are kept in memory.

  Splits are "train", "validation" and "test" under any alias, then others by
  their own names, such as COCO's "restval". Without a column `split`, all
  images are "train".

  Raises:
    ValueError: the table is of no known form, is not UTF-8, has lines without
      an image or a caption, or an image in two splits. The message names the
      first few.
  """
  status = os.stat(path)
  return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, *stamp: int) -> dict[str, Split]:
  del stamp  # Another one is another file.
  problems: list[str] = []
  text = _decode(path)
  kind = path.suffix.lower()
  if kind == ".json":
    rows = _json_rows(path, text, problems)
  elif kind == ".jsonl":
    rows = _lines(path, text, problems)
  else:
    rows = _csv_rows(path, text, problems)
  captions = collections.defaultdict(list)
  first: dict[str, tuple[str, str]] = {}
  folder = f"{path.parent}/"
  for where, image, texts, split in rows:
    # A file has one name, whether the table has its whole path or not.
    name = os.path.normpath(image.replace("\\", "/")).removeprefix(folder)
    known, place = first.setdefault(name, (split, where))
    if known != split:
      problems.append(
        f"{where}: {name} is in {split!r}, but in {known!r} at {place}"
      )
    captions[name] += texts
  sources.check(f"{path} cannot be read", problems)
  if not captions:
    raise ValueError(f"{path} lists no images.")
  names = collections.defaultdict(list)
  for name in sorted(captions, key=_hash):
    names[first[name][0]].append(name)
  roles = splits.by_role(names, str(path))
  own = {name: role for role, name in roles.items()}
  order = [*roles.values(), *(name for name in names if name not in own)]
  return {
    own.get(split, split): Split(
      names[split],
      [tuple(captions[name]) for name in names[split]],
      [first[name][1] for name in names[split]],
    )
    for split in order
  }


def _hash(name: str) -> bytes:
  # Shuffled, so that a slice of a split is no single album.
  return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def _decode(path: pathlib.Path) -> str:
  data = path.read_bytes()
  is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")
  except UnicodeDecodeError:
    problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
      try:
        line.decode()
      except UnicodeDecodeError as error:
        part = line[max(error.start - 20, 0) : error.start + 20]
        problems.append(f"line {number}: {part!r}")
    sources.check(
      f"{path} is not UTF-8. Save it as UTF-8; if it is Latin-1, iconv -f "
      "latin1 -t utf-8 FILE > NEW does that. The first lines",
      problems,
    )
    raise


def _csv_rows(
  path: pathlib.Path, text: str, problems: list[str]
) -> Iterator[Row]:
  """Yields the rows of a CSV file, and adds to the problems."""
  separators = _SEPARATORS[path.suffix.lower()]
  reader, first, separator = csv_rows.split(text, separators)
  if not first.strip():
    raise ValueError(
      f"{path} {'begins with an empty line' if text.strip() else 'is empty'}: "
      "its first line names the columns, as in file,caption."
    )
  try:
    header = [_plain(name) for name in next(reader, [])]
    image, caption = _columns(path, header)
    for row in reader:
      where = f"line {reader.line_num}"
      if not any(value.strip() for value in row):
        continue  # Spreadsheets leave empty lines behind.
      if len(row) != len(header):
        problems.append(
          f"{where}: has {len(row)} values, but the first line {len(header)}; "
          f"a caption with {separator!r} in it needs quotes around it"
        )
        continue
      values = dict(zip(header, row, strict=True))
      yield from _row(where, values, image, caption, problems)
  except csv.Error as error:
    problems.append(
      f"line {reader.line_num}: {error}; a caption with quotes in it needs "
      'them doubled, inside of quotes: "a ""big"" cat"'
    )


def _lines(path: pathlib.Path, text: str, problems: list[str]) -> Iterator[Row]:
  """Yields the rows of a file with a JSON object in each line."""
  columns = None
  # Unlike str.splitlines, which also cuts at characters inside of strings.
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    where = f"line {number}"
    try:
      values = json.loads(line)
    except ValueError as error:
      problems.append(f"{where}: is no JSON: {error}")
      continue
    if not isinstance(values, dict):
      problems.append(f"{where}: is no object with keys: {line[:_SHOWN]}")
      continue
    values = {_plain(key): value for key, value in values.items()}
    columns = columns or _columns(path, [*values])
    yield from _row(where, values, *columns, problems)


def _json_rows(
  path: pathlib.Path, text: str, problems: list[str]
) -> Iterator[Row]:
  """Yields the images of Karpathy's JSON, dataset_coco.json."""
  try:
    content = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} is no JSON: {error}") from None
  images = content.get("images") if isinstance(content, dict) else None
  first = images[0] if isinstance(images, list) and images else None
  if not (isinstance(first, dict) and "sentences" in first):
    raise ValueError(
      f"{path} is not in the form of Karpathy's dataset_coco.json, "
      '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}. '
      "Annotations of COCO itself are read by coco:FOLDER."
    )
  for i, image in enumerate(images):
    where = f"image {i}"
    try:
      values = {
        "file": "/".join(
          filter(None, [image.get("filepath"), image["filename"]])
        ),
        "caption": [sentence["raw"] for sentence in image["sentences"]],
        SPLIT: image["split"],
      }
    except (AttributeError, KeyError, TypeError) as error:
      what = f"{error} is missing" if isinstance(error, KeyError) else error
      problems.append(f"{where}: {what}")
      continue
    yield from _row(where, values, "file", "caption", problems)


def _row(
  where: str,
  values: Mapping[str, Any],
  image: str,
  caption: str,
  problems: list[str],
) -> Iterator[Row]:
  """Yields a row if it is complete, or adds to the problems."""
  name, texts = values.get(image), values.get(caption)
  split = values.get(SPLIT, "train")
  texts = texts if isinstance(texts, list) else [texts]
  if not isinstance(name, str) or not name.strip() or not sources.is_path(name):
    problems.append(f"{where}: has no image, {image} is {name!r}")
  elif not isinstance(split, str) or not split.strip():
    problems.append(f"{where}: has no split for {name}")
  elif not texts:
    problems.append(f"{where}: has no caption of {name}")
  else:
    # A caption such as "-" stands for none.
    bad = [
      text
      for text in texts
      if not isinstance(text, str) or not any(map(str.isalnum, text))
    ]
    problems += [
      f"{where}: a caption of {name} has no word: {repr(text)[:_SHOWN]}"
      for text in bad
    ]
    if not bad:
      texts = [text.strip() for text in texts]
      yield where, name.strip(), texts, split.strip()


def _plain(column: str) -> str:
  return column.strip().lower().replace(" ", "_").replace("-", "_")


def _columns(path: pathlib.Path, header: Sequence[str]) -> tuple[str, str]:
  """Returns the names of the columns with images and with captions."""
  image = next((name for name in IMAGE if name in header), None)
  caption = next((name for name in CAPTION if name in header), None)
  if image is None or caption is None or len({*header}) < len(header):
    raise ValueError(
      f"{path} has the columns {', '.join(map(repr, header))[:500]}. Its first "
      f"line must name each column once, one with files ({', '.join(IMAGE)}) "
      f"and one with captions ({', '.join(CAPTION)}), and perhaps {SPLIT!r}."
    )
  return image, caption
