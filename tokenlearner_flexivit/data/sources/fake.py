"""A source of noise, for tests and for measuring speed."""

import re
import zlib
from collections.abc import Sequence

import numpy as np

from tokenlearner_flexivit.data import mask_classes, shared_examples, splits
from tokenlearner_flexivit.data.sources import base as sources

_NAME = re.compile(
  r"fake:((?P<frames>\d+)x)?(?P<height>\d+)x(?P<width>\d+)x(?P<channels>[13])"
  r":(?P<num_classes>\d+)(:(?P<num_examples>\d+))?(:(?P<more>dense|boxes|captions))?"
)

# Rectangles along each side of a mask.
_GRID = 4
# Captions of an image, as many as COCO has, and different words in them.
_CAPTIONS = 5
_WORDS = 1000


class FakeSource(sources.Source):
  """Fixed noise: an example depends only on the split's name and its position.

  Names are "fake:HEIGHTxWIDTHxCHANNELS:CLASSES" and, with the number of
  examples in a split, "fake:HEIGHTxWIDTHxCHANNELS:CLASSES:EXAMPLES". Plain
  "fake" means "fake:224x224x3:1000:1024". With a fourth size in front, as in
  "fake:16x64x64x3:10", the examples are videos of so many frames. With ":dense"
  at the end, as in "fake:48x48x3:5:16:dense", images have a mask `semantic` of
  rectangles of classes, uint8 [H, W], with a few pixels without a class, and
  `objects` with boxes, as `coco:` has them. With ":boxes" at the end they have
  these alone, and their classes have names. With ":captions" at the end,
  examples have `captions`, a list of texts of words that `word` returns, and
  `caption`, the first of them. Every split exists.
  """

  def __init__(self, name: str, split: str):
    """Reads the shape from the name.

    Args:
      name: a name that starts with "fake".
      split: any name, perhaps with a slice, or a sum of such.

    Raises:
      ValueError: the name or the split cannot be read.
    """
    if name == "fake":
      name = "fake:224x224x3:1000"
    match = _NAME.fullmatch(name)
    zeros = ("frames", "height", "width", "num_classes")
    if not match or "0" in match.group(*zeros):
      raise ValueError(
        f"Cannot read the dataset {name!r}: expected 'fake', or "
        "'fake:HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES]' as in "
        "'fake:240x240x3:1000', with 1 or 3 channels, or for videos "
        "'fake:FRAMESxHEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES]'. Images with "
        "masks and boxes have ':dense' at the end, those with boxes ':boxes', "
        "those with texts ':captions'."
      )
    self._is_dense = match["more"] == "dense"
    self._has_boxes = match["more"] == "boxes"
    self._has_captions = match["more"] == "captions"
    sides = match.group("frames", "height", "width", "channels")
    self._shape = tuple(int(side) for side in sides if side)
    self._key = "video" if match["frames"] else "image"
    self.num_classes = int(match["num_classes"])
    if self._is_dense and (
      match["frames"] or self.num_classes > mask_classes.IGNORE
    ):
      raise ValueError(
        f"{name!r}: only images of up to {mask_classes.IGNORE} classes have "
        "masks. Leave out ':dense'."
      )
    if self._has_boxes:
      names = [word(number) for number in range(self.num_classes)]
      self.value_names = {"objects/label": names}
    num_examples = int(match["num_examples"] or 1024)
    self.name = f"{name} ({split})"
    self.parts = [
      shared_examples.Part(
        split_name + part,
        split_name,
        num_examples,
        splits.positions(part, num_examples, self.name),
      )
      for split_name, part in splits.parse(split, name)
    ]
    # Pairs (seed, positions).
    self._parts = [
      (zlib.crc32(part.known.encode()), part.positions) for part in self.parts
    ]

  def __len__(self) -> int:
    return sum(len(positions) for _, positions in self._parts)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    (seed, _), position = sources.locate(self._parts, index)
    rng = np.random.default_rng((seed, position))
    example = {
      self._key: rng.integers(0, 256, self._shape, np.uint8),
      "label": np.int32(rng.integers(self.num_classes)),
      "id": np.int32(index),
    }
    if self._is_dense:
      example["semantic"] = self._mask(rng)
    if self._is_dense or self._has_boxes:
      example["objects"] = self._objects(rng)
    if self._has_captions:
      captions = [_sentence(rng) for _ in range(_CAPTIONS)]
      example |= {"captions": captions, "caption": captions[0]}
    return example

  def _mask(self, rng: np.random.Generator) -> np.ndarray:
    """Returns a mask, which has nothing to do with the boxes."""
    height, width, _ = self._shape
    rows, columns = (np.arange(s) * _GRID // s for s in (height, width))
    classes = rng.integers(0, self.num_classes, (_GRID, _GRID), np.uint8)
    mask = classes[rows][:, columns]
    mask[0] = mask_classes.IGNORE
    return mask

  def _objects(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns one to three boxes."""
    *_, height, width, _ = self._shape
    count = rng.integers(1, 4)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return {
      "id": np.arange(count),
      "area": (sides.prod(1) * height * width).astype(np.float32),
      "bbox": corners.astype(np.float32),
      "label": rng.integers(0, self.num_classes, count),
      "is_crowd": np.zeros(count, bool),
    }

  def classes(
    self, key: str = "label"
  ) -> tuple[int | None, Sequence[str] | None]:
    """Returns the number of classes; only those of ":boxes" have names."""
    if self._is_dense and key in ("semantic", "objects/label"):
      key = "label"
    return super().classes(key)

  def digest(self) -> str:
    """Returns a hash of the name and the split."""
    return sources.hash_words(self.name)


def word(number: int) -> str:
  """Returns a word of captions, a different one for every number."""
  return f"word{number}"


def _sentence(rng: np.random.Generator) -> str:
  """Returns 4 to 16 words."""
  numbers = rng.integers(_WORDS, size=rng.integers(4, 17))
  return " ".join(map(word, numbers.tolist()))
