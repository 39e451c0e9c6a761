"""The source of images with COCO annotations: `coco:/path`."""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import shared_examples, splits
from tokenlearner_flexivit.data.ops import exif
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources.coco import annotations, files, reading

PREFIX = "coco:"
_ALWAYS = ("image", "image/filename", "image/id")


class CocoSource(sources.Source):
  """Images with boxes, panoptic segments or captions in COCO's JSON.

  `files.find` describes the folders that are read. The entries of an example
  are those of TFDS's coco: `image` (the file), `image/filename`, `image/id`,
  and by what the annotations hold,

    objects           a dict of `bbox` (ymin, xmin, ymax, xmax, shares of the
                      sides, float32 [M, 4]), `label` (int64 [M]), `area` (in
                      pixels), `is_crowd` and `id`;
    panoptic_image    the PNG whose colours are the ids R + 256 G + 256^2 B of
                      `panoptic_objects`, a dict as `objects`;
    captions          a list of texts.

  Labels are the positions of category ids among those of the training split,
  without gaps. Polygons and RLE masks are not read. Images that EXIF data would
  turn are read as stored if their annotations are of the stored pixels.
  """

  options = ("features",)

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the folder does not have."""
    del data_dir
    known = files.find(name.removeprefix(PREFIX))
    splits.select(split, known, name, files.resolve)

  def __init__(
    self, name: str, split: str, features: Sequence[str] | None = None
  ):
    """Reads and checks the annotations, and looks for the images.

    Args:
      name: "coco:PATH".
      split: a split, a slice of it, a sum, or "all".
      features: entries of an example that are wanted, None for all. Files of
        annotations that none of them needs are not read.

    Raises:
      ValueError: the folder has no such split; an image is missing or has
        another size than the annotations say; an id is there twice or is not
        listed; a box lies outside of its image. The message names the first
        few.
    """
    self.name = f"{name} ({split})"
    path = name.removeprefix(PREFIX)
    root = pathlib.Path(os.path.abspath(paths.local(path, "coco")))
    known = files.find(root)
    self._features = _check_features(features, known, name)
    asked = splits.select(split, known, name, files.resolve)
    training = next(iter(known))  # "train", if it exists.
    self.value_names, self.stuff, self.notes = {}, {}, []
    numbers = {}
    for kind, (*_, key) in reading.ENTRIES.items():
      if self._wants(kind) and kind != annotations.CAPTIONS:
        file = known[training].get(kind) or next(
          (kinds[kind] for kinds in known.values() if kind in kinds), None
        )
        if file:
          about = annotations.read(file, kind)
          names = list(about.categories.values())
          self.value_names[f"{key}/label"] = names
          if about.stuff:
            self.stuff[f"{key}/label"] = about.stuff
          numbers[kind] = reading.number_classes(names, file)
    read = {}
    for known_name, *_ in asked:
      kinds = {k: f for k, f in known[known_name].items() if self._wants(k)}
      if known_name not in read:
        read[known_name] = reading.read_split(root, known_name, kinds, numbers)
        listed = ", ".join(str(f.relative_to(root)) for f in kinds.values())
        images = terminal.counted(len(read[known_name].names), "image")
        self.notes.append(f"{name}: {known_name} has {images} by {listed}.")
    self.parts, self._parts = [], []
    for known_name, text, part in asked:
      size = len(read[known_name].names)
      positions = splits.positions(part, size, f"{name} ({known_name})")
      self._parts.append((read[known_name], positions))
      self.parts.append(shared_examples.Part(text, known_name, size, positions))
    if len(read) > 1:
      # Annotations of several splits may list the same images.
      sources.check_read_once(
        self.name,
        [
          (part.known, split.images[chosen.start : chosen.stop])
          for part, (split, chosen) in zip(self.parts, self._parts, strict=True)
        ],
      )
    # Who opens the split refuses an empty one.
    for key, names in self.value_names.items() if len(self) else ():
      self._warn_of_classes(key, names)

  def _wants(self, kind: str) -> bool:
    """Tells whether annotations are read: for images alone all are."""
    wanted = {*self._features}.difference(_ALWAYS)
    return not wanted or not wanted.isdisjoint(reading.ENTRIES[kind])

  def _warn_of_classes(self, key: str, names: Sequence[str]) -> None:
    counts = np.zeros(len(names), np.int64)
    for split, positions in self._parts:
      for objects in split.objects:
        if key == f"{objects.key}/label":
          labels = objects.of_images(positions)["label"]
          counts += np.bincount(labels, minlength=len(names))
    sources.warn_of_classes(self.name, names, counts, "object")

  def __len__(self) -> int:
    return sum(len(positions) for _, positions in self._parts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    (split, _), position = sources.locate(self._parts, index)
    example = {
      "image/filename": os.fsencode(split.names[position]),
      "image/id": split.ids[position],
    }
    if "image" in self._features:
      image = reading.read_file(split.images[position])
      if position in split.as_stored:
        image = exif.as_stored(image)
      example["image"] = image
    for objects in split.objects:
      example[objects.key] = objects.of_images(range(position, position + 1))
    if split.masks:
      example["panoptic_image"] = reading.read_file(split.masks[position])
    if split.captions:
      example["captions"] = list(split.captions[position])
    wanted = {*self._features}
    example = {key: value for key, value in example.items() if key in wanted}
    return example | {"id": np.int32(index)}

  def entries(self, key: str) -> Iterator[Any]:
    """Yields one entry of all examples; captions come from memory."""
    if key != "captions" or key not in self._features:
      yield from super().entries(key)
      return
    for split, positions in self._parts:
      for i in positions:
        yield split.captions[i]

  def describe(self, index: int) -> str:
    """Returns the position and the path of the image."""
    (split, _), position = sources.locate(self._parts, index)
    return f"example {index}, {split.images[position]}"

  def label_keys(self) -> list[str]:
    """Returns the id of an image, the only number of a whole example."""
    return ["image/id"] if "image/id" in self._features else []

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns the ids of the images, int64 [N], from memory."""
    self.check_label(key)
    ids = [split.ids[list(positions)] for split, positions in self._parts]
    return np.concatenate(ids)

  @property
  def has_labels_at_hand(self) -> bool:
    """Returns True: ids are in memory."""
    return True

  def digest(self) -> str:
    """Returns a hash of the classes, the images and what is known of them."""
    state = hashlib.blake2b(digest_size=8)
    for split, images in self._parts:
      chosen = slice(images.start, images.stop)
      texts = split.names[chosen], split.captions[chosen]
      state.update(repr(texts).encode(errors="surrogateescape"))
      for objects in split.objects:
        state.update(np.diff(objects.starts[chosen]).tobytes())
        for column in objects.of_images(images).values():
          state.update(column.tobytes())
    return sources.hash_words(self.value_names, state.hexdigest())


def most_captions(path: str | os.PathLike) -> int:
  """Returns the largest number of captions of an image in a folder.

  Args:
    path: the folder.

  Raises:
    ValueError: there is no such folder, or its annotations cannot be read.
  """
  listed = [
    annotations.read(kinds[annotations.CAPTIONS], annotations.CAPTIONS)
    for kinds in files.find(path).values()
    if annotations.CAPTIONS in kinds
  ]
  return max((len(own) for read in listed for own in read.captions), default=0)


def choose_splits(
  path: str | os.PathLike, train: str = "", test: str = ""
) -> tuple[str, str]:
  """Returns the splits of a folder to train on and to evaluate on.

  Args:
    path: the folder. A missing folder is treated as one without splits; opening
      it raises the error.
    train: the split that a person asked for to train on, or "".
    test: the split that a person asked for to evaluate on, or "".

  Raises:
    ValueError: `files.find` or `splits.choose` raises it.
  """
  if not paths.local(path, "coco").is_dir():
    return train or "train[:90%]", test or "train[90%:]"
  known = files.find(path)
  return splits.choose(
    list(known),
    f"{PREFIX}{path}",
    train,
    test,
    resolve=lambda name, _, where: files.resolve(name, known, where),
  )


def _check_features(
  features: Sequence[str] | None,
  known: Mapping[str, files.Kinds],
  name: str,
) -> Sequence[str]:
  """Returns the entries of an example; raises ValueError for unknown ones."""
  kinds = {kind for split in known.values() for kind in split}
  entries = [
    *_ALWAYS,
    *(key for kind in kinds for key in reading.ENTRIES[kind]),
  ]
  for key in features or ():
    if key not in entries:
      raise ValueError(
        f"data.features has {key!r}, but those of {name} are "
        f"{', '.join(sorted(entries))}."
      )
  return tuple(features or entries)
