"""Paths that people give: on the command line, in a config, in a call."""

import os
import pathlib
import re
import tempfile

# Two letters at least: "C:/" is a drive. pathlib makes "gs:/x" of "gs://x".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def cache_dir() -> pathlib.Path:
  """Returns the folder for what can be computed or downloaded again.

  It is TLFV_CACHE, or a folder in ~/.cache; of a user without a home, as in
  some containers, one of the system's temporary folders.
  """
  default = "~/.cache/tokenlearner_flexivit"
  try:
    return pathlib.Path(os.environ.get("TLFV_CACHE", default)).expanduser()
  except RuntimeError:
    own = f"tokenlearner_flexivit-{os.getuid()}"
    return pathlib.Path(tempfile.gettempdir()) / own


def local(path: str | os.PathLike, what: str) -> pathlib.Path:
  """Returns `path` with a leading `~` or `~user` expanded.

  A shell leaves the `~` of `--flag=~/x` and of `folder:~/x` as it is.

  Args:
    path: as a person wrote it.
    what: the name that the person knows it by, for errors: "--workdir".

  Raises:
    ValueError: it is a URL, is empty, or names a user who does not exist.
  """
  text = os.fspath(path)
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f"{what}={text!r} is no path. Give a file or a folder.")
  if _URL.match(text):
    raise ValueError(
      f"{what}={text} is no path of a file system. Mount the bucket (for "
      "Google Cloud Storage: gcsfuse) and give the path there, or download "
      "what it names."
    )
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError:
    raise ValueError(
      f"{what}={text}: there is no user {text[1:].partition('/')[0]!r} whose "
      "home that could be. Write './~...' for a folder of this name."
    ) from None
