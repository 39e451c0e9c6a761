"""Reads and writes the containers that weights come in, and never unpickles.

The kind of a file is decided by its content, not by its name.
"""

import contextlib
import functools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax import serialization, traverse_util

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.interop import npz
from tokenlearner_flexivit.interop.leaves import (
  LastRead,
  Leaf,
  Leaves,
  shorten,
)
from tokenlearner_flexivit.run import checkpoint

_SAFETENSORS_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_WEIGHTS = (".safetensors", ".npz", ".msgpack")
# The end of the name of a file that tells which of several holds which array.
INDEX = ".safetensors.index.json"
# The name that Hugging Face's libraries give to one of several files.
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors")
# First bytes of files that people have instead of weights.
_REFUSED = {
  b"\x93NUMPY": "a single NumPy array",
  b"\x89HDF": "an HDF5 file (Keras)",
  b"version https://git-lfs": "a Git LFS pointer: fetch it with `git lfs pull`",
  b"<!DOCTYPE": "a web page: the download gave no weights",
  b"<html": "a web page: the download gave no weights",
}


class Opened(NamedTuple):
  """An open container of weights.

  Attributes:
    kind: "npz", "safetensors", "safetensors index", "msgpack" or "workdir".
    leaves: its arrays by name; names of nested ones are joined by "/".
    metadata: the texts that it holds beside them.
  """

  kind: str
  leaves: Leaves
  metadata: Mapping[str, str]


@contextlib.contextmanager
def open_file(path: pathlib.Path) -> Iterator[Opened]:
  """Opens weights without reading them.

  Args:
    path: a .npz, .safetensors or flax msgpack file, the index of several
      .safetensors files, or the workdir of a run.

  Yields:
    what can be read while this context is open.

  Raises:
    FileNotFoundError: the path does not exist.
    ValueError: damaged, of another kind, or a pickle.
  """
  if not path.exists():
    raise FileNotFoundError(f"There is no file or folder {path}.")
  kind = _kind(path)
  opener = {
    "npz": npz.open_npz,
    "safetensors": _open_safetensors,
    "safetensors index": _open_index,
    "msgpack": _open_msgpack,
    "workdir": _open_workdir,
  }[kind]
  with opener(path) as (leaves, metadata):
    yield Opened(kind, leaves, metadata)


def _kind(path: pathlib.Path) -> str:
  if path.is_dir():
    _check_run(path)
    return "workdir"
  if _SHARD.search(path.name):
    raise ValueError(
      f"{path} is one of several files that together hold the weights. Give"
      f" their folder, or the index among them, whose name ends in {INDEX}."
    )
  with path.open("rb") as file:
    head = file.read(32)
  if not head:
    raise ValueError(f"{path} is empty.")
  # Safetensors is checked first: its files begin with the length of the header,
  # whose bytes may look like the beginning of a pickle or a zip file.
  length = int.from_bytes(head[:8], "little")
  if head[8:9] == b"{" and length <= path.stat().st_size - 8:
    return "safetensors"
  for start, content in _REFUSED.items():
    if head.lower().startswith(start.lower()):
      raise ValueError(f"{path} holds no weights but is {content}.")
  if head.startswith(b"PK"):
    return "npz"
  # Protocols 2 to 5 of pickle; such a msgpack would be an empty dict.
  if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    raise ValueError(
      f"{path} is refused: it is a pickle, which runs code when it is read. If"
      " you trust the file, save its weights as .safetensors or .npz."
    )
  if head[8:9] == b"{":
    return "safetensors"  # Truncated, which its reader reports.
  if path.name.endswith(INDEX):
    return "safetensors index"
  if head[:1] == b"{":
    raise ValueError(
      f"{path} holds no weights but JSON. Of weights in several files, give"
      f" their folder or the index, whose name ends in {INDEX}."
    )
  if 0x80 < head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
    return "msgpack"
  raise ValueError(
    f"{path} is no .npz, .safetensors or flax msgpack file; it starts with"
    f" {head[:8]!r}."
  )


def _check_run(folder: pathlib.Path) -> None:
  """Raises ValueError for a folder of weights that is no workdir of a run."""
  if (folder / checkpoint.CHECKPOINTS).is_dir():
    return
  names = sorted(f.name for f in folder.iterdir() if f.suffix in _WEIGHTS)
  if names:
    raise ValueError(
      f"{folder} holds no run and no model.safetensors. Give one of its files:"
      f" {shorten(names)}."
    )


@contextlib.contextmanager
def _open_safetensors(
  path: pathlib.Path, last_read: LastRead | None = None
) -> Iterator[tuple[Leaves, dict[str, str]]]:
  last_read = last_read or LastRead()
  with contextlib.ExitStack() as stack:
    try:
      # Not mapped: pages of a mapped file count as memory of the process.
      file = stack.enter_context(
        safetensors.safe_open(path, framework="np", backend="pread")
      )
      specs = {}
      for name in file.keys():  # noqa: SIM118 (it is no dict)
        spec = file.get_slice(name)
        specs[name] = (tuple(spec.get_shape()), spec.get_dtype())
      metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
      raise ValueError(
        f"{path} is damaged or no safetensors file: {error}."
      ) from error

    def leaf(name, shape, dtype):
      return Leaf(
        shape,
        _dtype(dtype),
        lambda: last_read(f"{path}/{name}", lambda: file.get_tensor(name)),
      )

    yield {name: leaf(name, *spec) for name, spec in specs.items()}, metadata


def shards(path: pathlib.Path) -> dict[str, list[str]]:
  """Returns the arrays of each file that an index lists, by the file's name.

  Args:
    path: of the index.

  Raises:
    ValueError: it is damaged, or names files outside its folder.
  """
  try:
    names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    files: dict[str, list[str]] = {}
    for name, file in names.items():
      files.setdefault(file, []).append(name)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} is damaged: it has no 'weight_map' from names to files."
    ) from error
  for file in files:
    if not isinstance(file, str) or pathlib.Path(file).name != file:
      raise ValueError(f"{path} names {file!r}, which is not in its folder.")
  return files


@contextlib.contextmanager
def _open_index(
  path: pathlib.Path,
) -> Iterator[tuple[Leaves, dict[str, str]]]:
  leaves, metadata = {}, {}
  last_read = LastRead()  # One for all, so that memory never holds several.
  with contextlib.ExitStack() as stack:
    for file, names in shards(path).items():
      shard = path.parent / file
      if not shard.is_file():
        raise FileNotFoundError(f"{path} names {file}, which is not beside it.")
      arrays, texts = stack.enter_context(_open_safetensors(shard, last_read))
      if missing := sorted(set(names) - set(arrays)):
        raise ValueError(
          f"{path} names {shorten(missing)} in {file}, which has none such."
        )
      leaves |= {name: arrays[name] for name in names}
      metadata |= texts
    yield leaves, metadata


def _dtype(name: str) -> np.dtype:
  # Other types, such as 64-bit integers, are of counters and ids.
  return _SAFETENSORS_DTYPES.get(name, np.dtype(np.int64))


@contextlib.contextmanager
def _open_msgpack(
  path: pathlib.Path,
) -> Iterator[tuple[Leaves, dict[str, str]]]:
  try:
    tree = serialization.msgpack_restore(path.read_bytes())
    leaves = _from_tree(tree)
  except Exception as error:  # The libraries' errors have no common base.
    raise ValueError(
      f"{path} is damaged or no flax msgpack file:"
      f" {type(error).__name__}: {error}."
    ) from error
  yield leaves, {}


@contextlib.contextmanager
def _open_workdir(
  path: pathlib.Path,
) -> Iterator[tuple[Leaves, dict[str, str]]]:
  # Checked and read only when the first array is wanted; shapes need neither.
  read = functools.cache(
    lambda: traverse_util.flatten_dict(checkpoint.read_params(path), sep="/")
  )
  yield (
    {
      name: Leaf(shape, _dtype(kind), lambda name=name: read()[name])
      for name, (shape, kind) in checkpoint.param_specs(path).items()
    },
    {},
  )


def _from_tree(tree: Mapping[str, Any]) -> Leaves:
  flat = traverse_util.flatten_dict(tree, sep="/")
  arrays = {k: v for k, v in flat.items() if isinstance(v, np.ndarray)}
  if not arrays:
    raise ValueError("it holds no arrays")
  return {name: Leaf.from_array(array) for name, array in arrays.items()}


def write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes arrays to a file, whose kind its name ends with.

  If writing fails, no incomplete file is left. bfloat16 is kept; in .npz it is
  stored as two bytes without a type, as big_vision does.

  Args:
    path: ends with .npz, .safetensors or .msgpack.
    arrays: by name. For .msgpack the parts between "/" become nested dicts.
    metadata: texts to keep beside them; .msgpack has no place for these.
  """
  with paths.whole(path) as partial:
    if path.suffix == ".npz":
      npz.write(partial, arrays, metadata or {})
    elif path.suffix == ".safetensors":
      texts = {"format": "pt", **(metadata or {})}
      # The library writes the memory as it lies, and ignores the strides.
      arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
      safetensors.numpy.save_file(arrays, partial, metadata=texts)
    else:
      tree = traverse_util.unflatten_dict(dict(arrays), sep="/")
      partial.write_bytes(serialization.msgpack_serialize(tree))
