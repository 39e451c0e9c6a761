"""Checksums of all files of a folder, kept in a file beside them.

They reveal damage by the disk to files that were completely written: a flipped
bit, a truncated file, a lost file.
"""

import json
import os
import pathlib
import zlib
from collections.abc import Collection

FILE = "checksums.json"
_CHUNK = 1 << 20  # Bytes; zlib lets other threads run meanwhile.


def write(folder: pathlib.Path, skip: Collection[str] = ()) -> None:
  """Writes size and CRC-32 of every file in `folder` to `folder/FILE`.

  Args:
    folder: with all its subfolders.
    skip: names, relative to it, of files that may yet change.
  """
  with (folder / FILE).open("w", encoding="utf-8") as file:
    json.dump(_measure(folder, skip), file, indent=1)
    file.flush()
    os.fsync(file.fileno())


def find_damage(folder: pathlib.Path, skip: Collection[str] = ()) -> str | None:
  """Compares `folder` with what `write` noted.

  Returns:
    The damage in words, or None.
  """
  try:
    noted = json.loads((folder / FILE).read_bytes())
    measured = _measure(folder, skip)
  except FileNotFoundError as error:
    return f"{pathlib.Path(error.filename).name} is missing"
  except OSError as error:
    return f"it cannot be read ({error})"
  except ValueError:
    return f"{FILE} is damaged"
  if not isinstance(noted, dict):
    return f"{FILE} is damaged"
  for name, (size, crc) in measured.items():
    if name not in noted:
      return f"{name} is none of its files"
    if noted[name] != [size, crc]:
      return f"{name} is not what was written ({size} bytes now)"
  missing = noted.keys() - measured
  return f"{min(missing)} is missing" if missing else None


def _measure(
  folder: pathlib.Path, skip: Collection[str]
) -> dict[str, list[int]]:
  """Returns size in bytes and CRC-32 of every file by its relative name."""
  measured = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and name != FILE and name not in skip:
      size = crc = 0
      with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
          size += len(chunk)
          crc = zlib.crc32(chunk, crc)
      measured[name] = [size, crc]
  return measured
