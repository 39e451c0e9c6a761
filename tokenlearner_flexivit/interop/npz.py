"""Reads .npz files array by array, without trusting their headers.

NumPy's own reader has three faults: it allocates whatever a
header asks for, it gives bfloat16 back as raw bytes, and it holds two copies
of an array while reading.
"""

import contextlib
import json
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from tokenlearner_flexivit.interop.leaves import LastRead, Leaf, Leaves

_CHUNK = 1 << 22
# The best ratio that deflate can reach.
_MAX_RATIO = 1040
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[tuple[Leaves, dict[str, str]]]:
  """Yields the arrays of a file by name, and the texts that `write` stored.

  Raises:
    ValueError: damaged, hostile, or with a pickle in it.
  """
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(zipfile.ZipFile(path))
      infos = file.infolist()
    except (
      zipfile.BadZipFile,
      NotImplementedError,  # A format version that does not exist yet.
      OSError,
      ValueError,
    ) as error:
      raise ValueError(f"{path} is damaged or incomplete: {error}.") from error
    if any(info.filename.endswith("data.pkl") for info in infos):
      raise ValueError(
        f"{path} is refused: it is a PyTorch file and holds a pickle, which"
        " runs code when it is read. If you trust the file, save its weights as"
        " .safetensors."
      )
    last_read = LastRead()
    leaves = {}
    for info in infos:
      name = _array_name(info.filename, path)
      if name in leaves:
        raise ValueError(f"{path} is damaged: it has {name!r} twice.")
      with _explained(path, name):
        leaves[name] = _leaf(file, info, path, name, last_read)
    if not leaves:
      raise ValueError(f"{path} holds no arrays.")
    yield leaves, _metadata(file.comment)


def _metadata(comment: bytes) -> dict[str, str]:
  """Reads the metadata in a zip file's comment, which may hold anything."""
  try:
    texts = json.loads(comment)
  except ValueError:
    return {}
  texts = texts if isinstance(texts, dict) else {}
  return {k: text for k, text in texts.items() if isinstance(text, str)}


def _array_name(filename: str, path: pathlib.Path) -> str:
  """Returns the name of an array, or raises if no program would choose it."""
  name, npy = filename[:-4], filename[-4:]
  parts = name.split("/")
  if npy != ".npy":
    raise ValueError(f"{path} is no .npz file: it holds {filename!r}.")
  if "" in parts or ".." in parts or "\\" in name or not name.isprintable():
    raise ValueError(
      f"{path} is refused: {filename!r} is no array's name but a path that"
      " leads elsewhere."
    )
  return name


@contextlib.contextmanager
def _explained(path, name):
  """Turns the errors of zipfile, zlib and NumPy into ValueError."""
  try:
    yield
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # An encrypted entry.
    SyntaxError,  # A header that is no Python literal.
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(f"{path}, array {name!r}: {error}.") from error


def _read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(file)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f"version {version} of the .npy format is unknown")
  return readers[version](file)


def _leaf(archive, info, path, name, last_read) -> Leaf:
  with archive.open(info) as file:
    shape, fortran, dtype = _read_header(file)
    header = file.tell()
  if dtype.hasobject:
    raise ValueError(
      "it holds pickled Python objects, which are never read: they run code"
    )
  if any(n < 0 for n in shape) or len(shape) > 8:
    raise ValueError(f"the shape {shape} is absurd")
  # Checked before anything is allocated: the file must hold as many bytes as a
  # header claims, and a compressed entry must be able to expand to its claim.
  size = math.prod(shape) * dtype.itemsize
  possible = max(info.compress_size, 64) * _MAX_RATIO
  if size + header != info.file_size or info.file_size > possible:
    raise ValueError(
      f"the shape {shape} asks for {size:,} bytes, but"
      f" the file holds {min(info.file_size - header, possible):,}"
    )

  def read():
    with _explained(path, name), archive.open(info) as file:
      file.read(header)
      array = np.empty(shape[::-1] if fortran else shape, dtype)
      # Zero-sized views cannot be cast, and hold nothing to read.
      buffer = memoryview(array.reshape(-1).view(np.uint8)) if size else b""
      for start in range(0, size, _CHUNK):
        part = file.read(min(_CHUNK, size - start))
        if len(part) != min(_CHUNK, size - start):
          raise ValueError("the file ends too early")
        buffer[start : start + len(part)] = part
      file.read(1)  # Reading to the end makes zipfile compare the checksum.
    array = (array.T if fortran else array).view(kept)
    return array.astype(native, copy=False)

  # The format has no bfloat16: NumPy stores it as two bytes without a type, and
  # stores nothing else like that.
  untyped = dtype.kind == "V" and dtype.itemsize == 2 and not dtype.names
  kept = _BFLOAT16 if untyped else dtype
  native = kept.newbyteorder("=")
  return Leaf(tuple(shape), native, lambda: last_read(name, read))


def write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes arrays uncompressed, one at a time, and texts as zip's comment."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    if metadata:
      archive.comment = json.dumps(dict(metadata)).encode()
    for name, array in arrays.items():
      array = np.asarray(array, order="C")
      if array.dtype == _BFLOAT16:
        array = array.view("V2")
      with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
