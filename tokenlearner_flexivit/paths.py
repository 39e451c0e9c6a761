"""Paths that people give: on the command line, in a config, in a call."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

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


def is_stream(path: pathlib.Path) -> bool:
  """Tells whether what is written to a path does not make it a file of that.

  Such as a pipe, /dev/null, or this program's own output, whatever it is.
  """
  if not path.exists() or path.is_dir():
    return False
  with contextlib.suppress(OSError):  # There may be no output.
    if os.path.samestat(path.stat(), os.fstat(1)):
      return True
  return not path.is_file()


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives the name of a new file, which takes the place of `path` at the end.

  If anything is raised inside, the file that was there stays. Of a link the
  target is written, and the link stays; a stream gets what the new file holds.

  Raises:
    OSError: names the file, which those of writing do not.
  """
  streams = is_stream(path)
  if streams:
    partial = pathlib.Path(tempfile.mkdtemp()) / path.name
  else:
    target = pathlib.Path(os.path.realpath(path))
    # Its own, as another process may be writing the same file.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
  try:
    yield partial
    if streams:
      with partial.open("rb") as content, path.open("ab") as stream:
        shutil.copyfileobj(content, stream)
    else:
      partial.replace(target)
  except OSError as error:
    if error.errno is None:  # Of a library's own.
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink()  # A full disk has better use for it.
    if streams:
      partial.parent.rmdir()
