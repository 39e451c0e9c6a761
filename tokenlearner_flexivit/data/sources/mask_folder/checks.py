"""Checks of images and masks before a run: their headers, and ids of masks."""

import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tokenlearner_flexivit.data import batches, mask_classes
from tokenlearner_flexivit.data.ops import decode, exif
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import file_cache, image_header
from tokenlearner_flexivit.data.sources.mask_folder import colours, layout

# Formats of masks; others lose numbers.
_EXACT = ("PNG", "TIFF", "BMP", "GIF")
# The ids of so many masks, with so many pixels, are checked in seconds.
_MOST_MASKS, _MOST_PIXELS = 256, 10**8
_MOST_IN_COLOUR = 64
# Colour types of PNGs.
_GREY, _PALETTE = 0, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Headers:
  """Holds what the headers of images and masks tell.

  Attributes:
    problems: what is wrong, in words.
    unsure: the images whose EXIF orientation their masks may share or not, by
      position.
    sample: the masks whose ids ought to be checked.
    right: lists of classes by which the ids of these were right.
  """

  problems: Sequence[str]
  unsure: Sequence[int]
  sample: Sequence[int]
  right: set[str] = dataclasses.field(default_factory=set)


_headers: file_cache.FileCache[Headers] = file_cache.FileCache()


def check_headers(pairs: layout.Pairs) -> Headers:
  """Returns what the headers of all images and masks tell.

  While it is in use and no file has changed, the same object is returned again.

  Args:
    pairs: the images and masks of a split.
  """
  count = len(pairs.images)
  files = [pairs.image(i) for i in range(count)]
  files += [pairs.mask(i) for i in range(count)]

  def read(stamp: file_cache.Stamp) -> Headers:
    stamp.add(files)
    return _check_headers(pairs, image_header.read_all(files))

  return _headers.get(sources.hash_words(files), read)


def _check_headers(
  pairs: layout.Pairs, headers: Sequence[image_header.Header | str]
) -> Headers:
  """Returns what the headers of images, and then of masks, tell."""
  count = len(pairs.images)
  problems, unsure, coloured = [], [], []
  pixels = 0
  for i, (image, mask) in enumerate(
    zip(headers[:count], headers[count:], strict=True)
  ):
    if isinstance(image, str):
      problems.append(f"{pairs.image(i)}: {image}")
    elif isinstance(mask, str):
      problems.append(f"{pairs.mask(i)}: {mask}")
    elif mask.format not in _EXACT:
      problems.append(
        f"{pairs.mask(i)}: is a {mask.format}, which changes the numbers of "
        "classes at edges. Export masks as PNG"
      )
    else:
      # `decode` turns a mask that was drawn on the pixels as stored.
      as_stored = (
        mask.orientation == 1
        and mask.stored == image.stored
        and image.format in exif.FORMATS
      )
      if mask.upright != image.upright and not as_stored:
        problems.append(
          f"{pairs.image(i)}: has {_size(image)}, its mask {pairs.masks[i]} "
          f"{_size(mask)} pixels (width x height)"
        )
      elif (
        image.orientation > 1 and as_stored and mask.upright == image.upright
      ):
        unsure.append(i)
    if isinstance(mask, image_header.Header):
      pixels += mask.height * mask.width
      if mask.has_colours:
        coloured.append(i)
  share = min(1, _MOST_PIXELS / max(pixels, 1))
  sample = max(1, min(_MOST_MASKS, int(share * count))) if count else 0
  chosen = set(np.linspace(0, count - 1, sample, dtype=int).tolist())
  sample = sorted(chosen.union(coloured[:_MOST_IN_COLOUR]))
  return Headers(problems, unsure, sample)


def _size(header: image_header.Header) -> str:
  height, width = header.upright
  return f"{width} x {height}"


def check_ids(
  pairs: layout.Pairs,
  positions: Sequence[int],
  names: Sequence[str],
  legend: Mapping[int, int] = types.MappingProxyType({}),
) -> list[str]:
  """Returns in words which masks cannot be decoded or have unknown ids.

  Args:
    pairs: the images and masks of a split.
    positions: the masks to decode.
    names: names of the ids 0, 1, ...; "id N" for an id that is no class.
    legend: ids by the codes of colours; see `colours.to_ids`.
  """
  problems = []
  unnamed = {i for i, name in enumerate(names) if name == f"id {i}"}
  known = {*range(len(names)), mask_classes.IGNORE} - unnamed
  for i, ids in zip(positions, _scan(pairs, positions, legend), strict=True):
    if isinstance(ids, str):
      problems.append(f"{pairs.mask(i)}: {ids}")
    elif unknown := sorted(set(ids.tolist()) - known):
      problems.append(
        f"{pairs.mask(i)}: has the ids {', '.join(map(str, unknown[:5]))}"
        + (", ..." if len(unknown) > 5 else "")
        + f", but the classes have the ids 0 to {len(names) - 1}"
        + (", not all of these" if unnamed else "")
        + f", and {mask_classes.IGNORE} is no class"
        + (
          ". Does the list lack the name of the id 0, such as background?"
          if unknown == [len(names)]
          else ""
        )
      )
  return problems


def occurring(
  pairs: layout.Pairs, refuse: Callable[[Sequence[str]], Any]
) -> np.ndarray:
  """Returns which ids occur in all masks, bool [256].

  Args:
    pairs: the images and masks of a split.
    refuse: raises an error for problems in words, if there are any.
  """
  occur = np.zeros(mask_classes.IGNORE + 1, bool)
  problems = []
  for i, ids in enumerate(_scan(pairs, range(len(pairs.masks)))):
    if isinstance(ids, str):
      problems.append(f"{pairs.mask(i)}: {ids}")
    elif ids.min() < 0 or ids.max() > mask_classes.IGNORE:
      problems.append(
        f"{pairs.mask(i)}: has the ids {ids.min()} to {ids.max()}. Those of "
        f"classes are 0 to {mask_classes.IGNORE - 1}, and "
        f"{mask_classes.IGNORE} is no class"
      )
    else:
      occur[ids] = True
  refuse(problems)
  return occur


def _scan(
  pairs: layout.Pairs,
  positions: Sequence[int],
  legend: Mapping[int, int] = types.MappingProxyType({}),
) -> list[np.ndarray | str]:
  """Returns the ids in each mask, or in words why it has none."""

  def scan(i: int) -> np.ndarray | str:
    try:
      with open(pairs.mask(i), "rb", buffering=0) as file:
        data = file.read()
      if legend and colours.has_colours(data):
        return np.unique(colours.to_ids(data, legend))
      return _ids(data)
    except OSError as error:
      return f"cannot be read ({error.strerror})"
    except ValueError as error:
      if "in colours" in str(error):
        return (
          "has colours in place of the numbers of classes, and there is no "
          "labelmap.txt with lines such as cat:250,50,83::. Write one, or "
          "export numbers: grey, or colours of a palette (PNG modes L and P)"
        )
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(batches.available_cpus()) as pool:
    parts = [positions[i : i + 1024] for i in range(0, len(positions), 1024)]
    return list(
      itertools.chain.from_iterable(pool.map(scan, part) for part in parts)
    )


def _ids(data: bytes) -> np.ndarray:
  """Returns the numbers that occur in a mask.

  Raises:
    ValueError: `decode_ids` raises it.
  """
  bits, colour_type = data[24:26] if data[:4] == b"\x89PNG" else (0, 0)
  # Pillow counts the numbers of such files without an array of them.
  if (bits, colour_type) == (8, _GREY) or colour_type == _PALETTE:
    with (
      contextlib.suppress(
        OSError, SyntaxError, EOFError, Image.DecompressionBombError
      ),
      Image.open(io.BytesIO(data), formats=["PNG"]) as image,
    ):
      return np.flatnonzero(image.histogram())
  return np.unique(decode.decode_ids({"mask": data}, key="mask")["mask"])
