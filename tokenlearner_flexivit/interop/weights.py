"""Opens a file of weights, with all that is known of its model."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tokenlearner_flexivit.interop import about as about_lib
from tokenlearner_flexivit.interop import (
  config_files,
  containers,
  formats,
  roots,
)
from tokenlearner_flexivit.interop.leaves import Leaves


class Weights(NamedTuple):
  """An open file of weights.

  Attributes:
    path: of the file or workdir.
    kind: of the container, see `containers.Opened`.
    format: the library whose names it has.
    leaves: its arrays, by the names of that library.
    known: what is known of its model.
    root: where in the file the network is.
    metadata: the texts that it holds beside the arrays.
  """

  path: pathlib.Path
  kind: str
  format: str
  leaves: Leaves
  known: about_lib.About
  root: roots.Root
  metadata: Mapping[str, str]

  def to_ours(
    self, num_heads: int, text_heads: int = 1
  ) -> tuple[Leaves, list[str]]:
    """Returns the arrays by our names, and notes; see `formats.to_ours`."""
    return formats.to_ours(
      self.leaves, self.format, str(self.path), num_heads, text_heads
    )

  def their_name(self, ours: str) -> str:
    """Returns the name that an array of ours has in the file."""
    theirs = formats.their_name(self.format, ours)
    # The names of other formats have no prefixes.
    if self.format not in formats.TORCH:
      return theirs
    return self.root.full_name(theirs)


@contextlib.contextmanager
def open_weights(
  path: pathlib.Path, opened: Weights | None = None
) -> Iterator[Weights]:
  """Opens weights without reading them.

  Args:
    path: as for `containers.open_file`.
    opened: the same weights, if they are open already; they stay open.

  Yields:
    what can be read while this context is open.

  Raises:
    FileNotFoundError: the path does not exist.
    ValueError: damaged, of another kind, or of unknown names.
  """
  if opened is not None:
    yield opened
    return
  with containers.open_file(path) as file:
    root = roots.find(file.leaves, str(path))
    known = about_lib.read(path, root.leaves, file.metadata)
    try:
      format = known.format
      if format in (None, *formats.LIBRARIES):
        # Of Hugging Face's models several have names of their own.
        format = formats.detect(root.leaves, str(path))
    except ValueError:
      config_files.check_kind(path)
      raise
    yield Weights(
      path, file.kind, format, root.leaves, known, root, file.metadata
    )
