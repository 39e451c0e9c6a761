"""The source of a TFDS dataset, read without TensorFlow."""

import copy
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import mask_classes, shared_examples, splits
from tokenlearner_flexivit.data.rendered_scenes import builder as scenes
from tokenlearner_flexivit.data.rendered_scenes import shapes
from tokenlearner_flexivit.data.sources import (
  array_cache,
  digits,
  encoded_features,
  tfds_errors,
)
from tokenlearner_flexivit.data.sources import base as sources

# Builders of this package, which prepare themselves on first use.
_PREPARE = {"digits": digits.prepare, "rendered_scenes": scenes.prepare}
# Names by number in masks that TFDS stores without names.
_MASKS = {
  "cityscapes": {"segmentation_label": mask_classes.CITYSCAPES_LABEL_IDS},
  "oxford_iiit_pet": {
    "segmentation_mask": ("none", "pet", "background", "border")
  },
  "rendered_scenes": {"semantic": ("background", *shapes.NAMES)},
}
# Where the classes of no things begin and end among those of a feature.
_STUFF = {
  "coco": {"panoptic_objects/label": slice(80, None)},
  "rendered_scenes": {"semantic": slice(0, 1)},
}
_MIRROR_ERRORS = {
  "rendered_scenes": "captions say to which side a shape is tilted or moves"
}
# How many records are read at once for their labels.
_RECORDS = 256
# Features of datasets that hold the file name of an example.
_FILE_NAMES = ("file_name", "filename", "image/filename")


class TfdsSource(sources.Source):
  """A split of a dataset that TFDS has prepared as ArrayRecord.

  Examples have all features of the dataset; images and the frames of videos
  stay encoded, for the ops `decode` and `decode_video`. A `label` of several
  classes becomes a vector of zeros and ones. `id` is the position; a feature of
  this name becomes `dataset_id`.
  """

  options = ("data_dir", "features")

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the prepared dataset does not have."""
    super().check_split(name, split)
    data_dir = paths.data_dir_for_tfds(data_dir)
    try:
      known = list(tfds.builder(name, data_dir=data_dir).info.splits)
    except Exception:  # TFDS raises many; opening the dataset explains them.
      return
    for part, _ in splits.parse(split, name):
      if known and part != "all":
        splits.resolve(part, known, name)

  def __init__(
    self,
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    features: Sequence[str] | None = None,
  ):
    """Opens the split.

    Args:
      name: TFDS name, with config and version if wanted ("name/config:1.0.0").
      split: TFDS split, such as "train[:99%]" or "train+test", by the dataset's
        name for it or any alias (see `splits.ALIASES`).
      data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      features: names of the features to parse; None for all. Parsing many
        unused features can take longer than decoding the image.

    Raises:
      ValueError: the dataset, split or a feature does not exist, examples are
        not dicts, or the dataset is not prepared in a format with random
        access. The message says what to do.
    """
    self.name = f"{name} ({split})"
    try:
      builder = _open_builder(name, paths.data_dir_for_tfds(data_dir))
    except json_format.ParseError as error:
      raise ValueError(
        f"A file that describes the prepared dataset {name!r} is damaged: "
        f"{error} Copy or prepare the dataset again."
      ) from error
    asked = split
    if builder.info.splits:  # TFDS's own `mock_data` has none.
      split, self.parts = _resolve(split, builder, name)
      tfds_errors.check_files(builder, name, self.parts)
    try:
      self._source = builder.as_data_source(split=split)
    except Exception as error:
      # TFDS opens no split without examples, and says so in other words.
      shared_examples.check_parts(self.parts, asked, name, "split")
      # TFDS's exception for a missing dataset depends on the format it would
      # be written in, so the cause is looked for instead.
      raise ValueError(
        tfds_errors.cannot_read(builder, name, split, error)
      ) from error
    self._digest = sources.hash_words(
      builder.info.full_name,
      split,
      {key: info.num_examples for key, info in builder.info.splits.items()},
    )
    # Other datasets of this name and version have other folders or times.
    folder = pathlib.Path(builder.data_dir)
    stamps = sorted(path.stat().st_mtime_ns for path in folder.glob("*.json"))
    self._place = [str(folder), *stamps] if stamps else None
    if not isinstance(builder.info.features, tfds.features.FeaturesDict):
      raise ValueError(
        f"Examples of the dataset {name!r} are no dicts of named features such "
        f"as 'image' and 'label', but {builder.info.features}. Such a dataset "
        "cannot be read; build one with names from it."
      )
    known = self._features = dict(builder.info.features.items())
    self._dataset = builder.name
    self.mirror_error = _MIRROR_ERRORS.get(builder.name, "")
    self.value_names = _value_names(known) | {
      key: list(names)
      for key, names in _MASKS.get(builder.name, {}).items()
      if key in known
    }
    self.stuff = {
      key: self.value_names[key][chosen]
      for key, chosen in _STUFF.get(builder.name, {}).items()
      if key in self.value_names
    }
    if features is None:
      self._parse = dict
      # Set here, because as an argument of `as_data_source` they would make
      # TFDS's own `mock_data` encode its noise with TensorFlow.
      self._source.decoders = encoded_features.decoders(known)
    else:
      known = _choose(known, features, self.name)
      # The source itself would parse all features, whatever it decodes.
      self._source.deserialize_method = tfds.decode.DeserializeMethod.RAW_BYTES
      self._parse = functools.partial(
        tfds.features.FeaturesDict(known).deserialize_example_np,
        decoders=encoded_features.decoders(known),
      )
    is_sequence = isinstance(known.get("label"), tfds.features.Sequence)
    label = _element(known.get("label"))
    self._has_classes = isinstance(label, tfds.features.ClassLabel)
    if self._has_classes:
      self.has_several = is_sequence
      self.num_classes = label.num_classes
      self.class_names = label.names

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self._parse(self._source[index])
    if "id" in example:
      example["dataset_id"] = example["id"]
    example["id"] = np.int32(index)
    if self.has_several:
      vector = np.zeros(self.num_classes, np.float32)
      classes = np.asarray(example["label"], np.int64)  # Perhaps empty.
      vector[classes[classes >= 0]] = 1  # TFDS uses -1 for unknown classes.
      example["label"] = vector
    elif self._has_classes:
      example["label"] = np.int32(example["label"])
    return example

  def label_keys(self) -> list[str]:
    """Returns the features that are one whole number."""
    return [
      name
      for name, feature in self._features.items()
      if isinstance(feature, tfds.features.Scalar | tfds.features.ClassLabel)
      and np.issubdtype(feature.np_dtype, np.integer)
    ]

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns one whole number per example, parsing no other feature.

    Labels of many examples are cached for other evaluations and the next start,
    because every record has to be read for them.

    Args:
      key: the feature.

    Returns:
      int64 [N].

    Raises:
      ValueError: the feature does not exist or is not a whole number.
    """
    self.check_label(key)
    if self.has_labels_at_hand or self._place is None:
      return self._read_labels(key)
    name = sources.hash_words(self._place, self._digest, key)
    return array_cache.load_or_compute(
      "labels", name, lambda: self._read_labels(key)
    )

  def entries(self, key: str) -> Iterator[Any]:
    """Yields one feature of all examples in order, parsing no other."""
    if key not in self._features:
      raise self.no_entry(key, self._features)
    for start in range(0, len(self), _RECORDS):
      rows = range(start, min(start + _RECORDS, len(self)))
      yield from self._read_feature(key, rows)

  def _read_labels(self, key: str) -> np.ndarray:
    """Returns one feature of all examples, int64 [N]."""
    labels = np.empty(len(self), np.int64)
    for start in range(0, len(self), _RECORDS):
      rows = range(start, min(start + _RECORDS, len(self)))
      labels[rows.start : rows.stop] = self._read_feature(key, rows)
    return labels

  def _read_feature(self, key: str, rows: Iterable[int]) -> list[Any]:
    """Returns one feature of the examples at `rows`, parsing no other."""
    feature = tfds.features.FeaturesDict({key: self._features[key]})
    source = copy.copy(self._source)
    source.deserialize_method = tfds.decode.DeserializeMethod.RAW_BYTES
    records = source.__getitems__(list(rows))
    return [feature.deserialize_example_np(record)[key] for record in records]

  def classes(
    self, key: str = "label"
  ) -> tuple[int | None, Sequence[str] | None]:
    """Returns the number and the names of the classes of a feature.

    TFDS names classes without names by their numbers; here they have no names.

    Args:
      key: the feature; "objects/label" for a feature of objects.

    Raises:
      ValueError: the feature is a mask that does not hold classes.
    """
    if (self._dataset, key) == ("scene_parse150", "annotation"):
      raise ValueError(
        f"{key!r} of {self.name} holds the instances of 100 kinds of things, "
        "not the 150 classes of the benchmark. Download "
        "ADEChallengeData2016.zip and name 'mask_folder:/path/"
        "ADEChallengeData2016'."
      )
    count, names = super().classes(key)
    is_named = names and list(names) != [str(i) for i in range(len(names))]
    return count, names if is_named else None

  def digest(self) -> str:
    """Returns a hash of the dataset's name, version, split and their sizes."""
    return self._digest

  def describe(self, index: int) -> str:
    """Returns the position, and the file's name if the dataset stores it."""
    key = next((key for key in _FILE_NAMES if key in self._features), None)
    if key is None:
      return f"example {index}"
    (file_name,) = self._read_feature(key, [index])
    if isinstance(file_name, bytes):
      file_name = file_name.decode(errors="replace")
    return f"example {index}, {file_name}"


def _element(feature: Any) -> Any:
  """Returns the feature of a sequence's elements, or the feature itself."""
  is_sequence = isinstance(feature, tfds.features.Sequence)
  return feature.feature if is_sequence else feature


def _value_names(
  features: Mapping[str, Any], prefix: str = ""
) -> dict[str, list[str]]:
  """Returns the names of classes by feature, such as "objects/label"."""
  names = {}
  for key, feature in features.items():
    element = _element(feature)
    if isinstance(element, tfds.features.FeaturesDict):
      names |= _value_names(element, f"{prefix}{key}/")
    elif isinstance(element, tfds.features.ClassLabel) or (
      isinstance(element, tfds.features.LabeledImage) and element.names
    ):
      names[prefix + key] = element.names
  return names


def _open_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """Returns the builder of a dataset; those of this package are prepared.

  Raises:
    ValueError: there is no such dataset, or its code cannot be run.
  """
  shipped, _, config = name.split(":")[0].partition("/")
  if name in _PREPARE:
    _PREPARE[name](data_dir)
  elif shipped == "rendered_scenes":
    scenes.prepare(data_dir, config)
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError:
    raise ValueError(
      tfds_errors.unknown_name(name, data_dir, _PREPARE)
    ) from None
  # The config, the syntax or the version is wrong.
  except (ValueError, AssertionError) as error:
    if pathlib.Path(name).expanduser().is_dir():
      raise ValueError(
        f"{name!r} is a folder. Write 'folder:{name}' for images in class "
        f"folders, 'mask_folder:{name}' for images with masks, 'coco:{name}' "
        f"for COCO annotations, 'captions:{name}' for a table of captions, or "
        f"'video_folder:{name}' for videos."
      ) from None
    if "Parsing builder name string" in str(error):
      raise ValueError(
        tfds_errors.unknown_name(name, data_dir, _PREPARE)
      ) from None
    raise ValueError(f"TFDS has no dataset {name!r}: {error}") from error
  except ImportError as error:
    raise ValueError(
      f"The code of the dataset {name!r} needs what is not installed: "
      f"{error}. Once it is prepared it can be read without, if the version "
      "is in the name, as in 'robonet/robonet_sample_64:4.0.1'."
    ) from error


def _choose(
  known: Mapping[str, Any], names: Sequence[str], dataset: str
) -> dict[str, Any]:
  """Returns the features of these names."""
  for name in names:
    if name not in known:
      raise ValueError(
        f"data.features has {name!r}, but those of {dataset} are "
        f"{', '.join(sorted(known))}."
      )
  return {name: known[name] for name in names}


def _resolve(
  split: str, builder: tfds.core.DatasetBuilder, name: str
) -> tuple[str, list[shared_examples.Part]]:
  """Returns a split as TFDS names it, and what it takes of the dataset's.

  Raises:
    ValueError: a part of the split does not exist.
  """
  infos, named, parts = builder.info.splits, [], []
  for asked, part in splits.parse(split, name):
    text = asked + part
    if asked == "all":
      known = list(infos)
    else:
      known = [splits.resolve(asked, list(infos), name)]
    for key in known:
      try:
        instruction = tfds.core.ReadInstruction.from_spec(key + part)
        (absolute,) = instruction.to_absolute(infos)
      except ValueError as error:
        raise ValueError(
          tfds_errors.cannot_read(builder, name, text, error)
        ) from error
      size = infos[key].num_examples
      stop = size if absolute.to is None else absolute.to
      taken = range(absolute.from_ or 0, stop)
      parts.append(shared_examples.Part(text, key, size, taken))
    # TFDS itself takes no slices of "all".
    named += ["all"] if text == "all" else [key + part for key in known]
  return "+".join(named), parts
