"""Writes a dataset of this project to TFDS's folder."""

import contextlib
import io
import pathlib
import tempfile
from collections.abc import Callable

import tensorflow_datasets as tfds
from absl import logging


def prepare(
  target: pathlib.Path,
  make_builder: Callable[[str], tfds.core.DatasetBuilder],
) -> None:
  """Writes the dataset unless it is there.

  Several processes may do so at a time: each writes a folder of its own, and
  the first one to move it into place wins.

  Args:
    target: `data_dir` of the builder, where the files are to be in the end.
    make_builder: given a folder, returns the builder that writes there.

  Raises:
    OSError: the folder cannot be written.
  """
  if target.exists():
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as tmp:
    builder = make_builder(tmp)
    # TFDS announces a download and draws progress bars of its own.
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      builder.download_and_prepare()
    try:
      pathlib.Path(builder.data_dir).rename(target)
    except OSError:
      if not target.exists():
        raise
  logging.info("Prepared %s in %s.", builder.info.full_name, target)
