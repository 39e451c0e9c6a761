"""Data shared by the tests of the data package."""

import pytest


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
  """A folder for TFDS datasets, empty at the start of the session."""
  return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def digits(tfds_dir):
  """Returns a data config of the digits with changes."""

  def config(**changes):
    return {
      "name": "digits",
      "split": "train",
      "pp": "decode|value_range(-1,1)|keep('image','label','id')",
      "data_dir": tfds_dir,
      "num_threads": 1,
      "prefetch": 2,
      **changes,
    }

  return config
