"""TFDS features that are read as stored: encoded images and frames."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

_TFDS_VIDEO = tfds.features.Video


class StoredVideo(tfds.features.Sequence):
  """TFDS's `Video` as stored on disk: a sequence of encoded images.

  TFDS's own class needs TensorFlow for the dtype uint8. This class replaces it
  when a dataset is loaded from its files.
  """

  ALIASES: ClassVar = [f"{_TFDS_VIDEO.__module__}.{_TFDS_VIDEO.__name__}"]

  @classmethod
  def from_json_content(cls, value: Any) -> "StoredVideo":
    """Returns the feature that a dataset's features.json describes.

    Args:
      value: message with the shape [T, H, W, C], -1 where it varies, and the
        format of the frames; or a dict of these, written by an old TFDS.
    """
    if isinstance(value, dict):
      shape, encoding = value["shape"], value["encoding_format"]
    else:
      shape, encoding = value.shape.dimensions, value.encoding_format
    length, *frame = [
      None if side is None or side < 0 else side for side in shape
    ] or (None, None, None, 3)
    image = tfds.features.Image(
      shape=tuple(frame), encoding_format=encoding or None
    )
    return cls(image, length=length)


class _AsStored(tfds.decode.SkipDecoding):
  """A decoder that leaves frames encoded, as TFDS's leaves single images."""

  def decode_batch_example_np(self, serialized_example: np.ndarray):
    return serialized_example

  def decode_ragged_example_np(self, serialized_example: np.ndarray):
    return serialized_example


def decoders(features: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the decoders that leave images and videos encoded.

  Args:
    features: a dataset's features by name.

  Returns:
    Decoders by the names of features with images; dicts of them for features
    that hold other features.
  """
  chosen = {key: _decoder(feature) for key, feature in features.items()}
  return {key: decoder for key, decoder in chosen.items() if decoder}


def _decoder(feature: Any) -> Any:
  """Returns the decoder of a feature, a dict of decoders, or None."""
  if isinstance(feature, tfds.features.Sequence):
    return _decoder(feature.feature)
  if isinstance(feature, tfds.features.FeaturesDict):
    return decoders(feature)
  return _AsStored() if isinstance(feature, tfds.features.Image) else None
