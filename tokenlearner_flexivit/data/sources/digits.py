"""The `digits` dataset: scikit-learn's handwritten digits as a TFDS builder."""

import os
import pathlib

import cv2
import numpy as np
import tensorflow_datasets as tfds

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.sources import preparation

_DESCRIPTION = """
1,797 handwritten digits of 8 x 8 grey pixels, as scikit-learn's `load_digits`
has them: the test part of the UCI set "Optical Recognition of Handwritten
Digits" (E. Alpaydin, C. Kaynak, 1998), written by 13 people. Nothing is
downloaded; the data come with scikit-learn. Its description names no licence;
the UCI repository publishes the original under CC BY 4.0.

Pixels are scaled from 0..16 to 0..255.

The split is ours. Of the digits in order of their class, and within a class in
scikit-learn's order, each fifth one starting with the first is for testing:
1,437 for training, 360 for testing, each class in proportion. Both parts have
digits by the same people, so accuracies compare with those of random splits,
not with those on unseen writers.
"""

_CITATION = """
@misc{optical_recognition_of_handwritten_digits_80,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {{Optical Recognition of Handwritten Digits}},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder of scikit-learn's digits, see `_DESCRIPTION`."""

  VERSION = tfds.core.Version("1.0.0")
  # The dataset has no downloads. To find their checksums TFDS 4.9 would import
  # importlib_resources, which it does not install.
  url_infos = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      homepage="https://archive.ics.uci.edu/dataset/80",
      citation=_CITATION,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # There is nothing to download.
    # Imported here, because this takes a second and happens only once.
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.argsort(digits.target, kind="stable")
    is_test = np.arange(len(order)) % 5 == 0
    return {
      "train": self._generate_examples(digits, order[~is_test]),
      "test": self._generate_examples(digits, order[is_test]),
    }

  def _generate_examples(self, digits, indices):
    for index in indices.tolist():
      image = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
      # TFDS would need TensorFlow to encode an array.
      png = cv2.imencode(".png", image)[1].tobytes()
      yield index, {"image": png, "label": int(digits.target[index])}


def prepare(data_dir: str | os.PathLike | None = None) -> None:
  """Writes the dataset unless it exists, by `preparation.prepare`.

  Args:
    data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
      ~/tensorflow_datasets.

  Raises:
    OSError: the folder cannot be written.
  """
  data_dir = paths.data_dir_for_tfds(data_dir)
  preparation.prepare(
    pathlib.Path(Digits(data_dir=data_dir).data_dir),
    lambda folder: Digits(data_dir=folder, file_format="array_record"),
  )
