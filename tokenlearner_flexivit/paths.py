"""Paths from users: on the command line, in a config, in a call."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

# Two letters at least: "C:/" is a drive. pathlib makes "gs:/x" of "gs://x".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# At the start, or after "folder:" and similar prefixes.
_HOME = re.compile(r"^(\w+:)?(~(?=/|$))")


def cache_dir() -> pathlib.Path:
  """Returns the folder for files that can be computed or downloaded again.

  It is TLFV_CACHE, or a folder in ~/.cache; for a user without a home, as in
  some containers, a folder in the system's folder for temporary files.
  """
  default = "~/.cache/tokenlearner_flexivit"
  try:
    return pathlib.Path(os.environ.get("TLFV_CACHE", default)).expanduser()
  except RuntimeError:
    own = f"tokenlearner_flexivit-{os.getuid()}"
    return pathlib.Path(tempfile.gettempdir()) / own


def local(path: str | os.PathLike, what: str) -> pathlib.Path:
  """Returns `path` with a leading `~` or `~user` expanded.

  A shell does not expand the `~` in `--flag=~/x` and `folder:~/x`.

  Args:
    path: as the user wrote it.
    what: its name to the user, for errors: "--workdir".

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


def data_dir(value: str | os.PathLike | None) -> pathlib.Path:
  """Returns the folder of prepared datasets, as TFDS chooses it.

  Args:
    value: as the user wrote it; None for $TFDS_DATA_DIR or
      ~/tensorflow_datasets.

  Raises:
    ValueError: as `local`; array_record reads no bucket.
  """
  if value is not None:
    return local(value, "data_dir")
  default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return local(default, "TFDS_DATA_DIR")


def data_dir_for_tfds(value: str | os.PathLike | None) -> str | None:
  """Returns `data_dir` for TFDS, which expands no `~`; None for its default.

  Raises:
    ValueError: as `data_dir`.
  """
  folder = data_dir(value)
  return None if value is None else str(folder)


def at_home(text: str) -> str:
  """Returns a text such as "~/x" or "folder:~/x" with the `~` expanded.

  A path that a run records must mean the same to another user.
  """
  return _HOME.sub(
    lambda match: (match[1] or "") + os.path.expanduser(match[2]), text
  )


def is_stream(path: pathlib.Path) -> bool:
  """Tells whether a path is no regular file, so that writing cannot replace it.

  Examples are a pipe, /dev/null, and this program's own output of any kind.
  """
  if not path.exists() or path.is_dir():
    return False
  with contextlib.suppress(OSError):  # The program may have no output.
    if os.path.samestat(path.stat(), os.fstat(1)):
      return True
  return not path.is_file()


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the name of a new file, which replaces `path` at the end.

  If anything is raised inside, the previous file stays. The new file gets its
  permissions; without a previous file, those of any new file. If `path` is a
  link, its target is replaced, and the link stays. If it is a stream, the
  content of the new file is written to it.

  Raises:
    OSError: the file cannot be written; unlike the system's, names the file.
  """
  streams = is_stream(path)
  if streams:
    partial = pathlib.Path(tempfile.mkdtemp()) / path.name
  else:
    target = pathlib.Path(os.path.realpath(path))
    # Its own name, since another process may be writing the same file.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
  try:
    if not streams:
      # Libraries may write files that nobody but their owner may read.
      partial.touch()
      mode = (target if target.exists() else partial).stat().st_mode & 0o777
    yield partial
    if streams:
      with partial.open("rb") as content, path.open("ab") as stream:
        shutil.copyfileobj(content, stream)
    else:
      partial.chmod(mode)
      partial.replace(target)
  except OSError as error:
    if error.errno is None:  # An error of a library.
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink()  # Removed, since the disk may be full.
    if streams:
      partial.parent.rmdir()
