"""Downloads weights to a file on this machine."""

import contextlib
import difflib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
import uuid

from etils import epath

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.interop import containers
from tokenlearner_flexivit.interop.released import RELEASED
from tokenlearner_flexivit.run import workdir

_GCS = "https://storage.googleapis.com/"
_TIMEOUT_SECONDS = 60
FOLDER_FILE = "model.safetensors"
INDEX_FILE = f"{FOLDER_FILE}.index.json"
# Files of Hugging Face's repositories that describe a model beside its weights.
ABOUT = ("config.json", "preprocessor_config.json")


def fetch(source: str | os.PathLike) -> pathlib.Path:
  """Returns a local path to weights, downloading them the first time.

  Args:
    source: a name of `RELEASED`; a local path; gs://bucket/object;
      https://...; file://...; or hf://owner/repo, which may be followed by
      @revision and /file. In a revision write a slash as %2F, unless it is one
      like refs/pr/3.

  Returns:
    a file, or the workdir if `source` is one. For a folder with a
    model.safetensors, as an export or Hugging Face's libraries write it, this
    file; if it lies there in several, their index.

  Raises:
    FileNotFoundError: no such file or name; similar names are suggested.
    ValueError: a source of another kind, or a download that ended early.
    OSError: the download failed.
  """
  source = RELEASED.get(str(source), str(source))
  scheme = source.partition("://")[0] if "://" in source else ""
  if scheme == "hf":
    return _from_hugging_face(source)
  if scheme in ("gs", "https", "file"):
    name = re.sub(r"[^\w.-]", "_", source.rpartition("/")[2])
    address = hashlib.sha256(source.encode()).hexdigest()[:16]
    path = paths.cache_dir() / f"{address}-{name}"
    if not path.exists():
      _download(source, path)
    return path
  if scheme:
    raise ValueError(
      f"{source!r}: the scheme {scheme}:// is unknown. Known: gs://, https://,"
      " hf://, file://."
    )
  path = pathlib.Path(source).expanduser()
  if not path.exists():
    close = difflib.get_close_matches(source, RELEASED, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise FileNotFoundError(
      f"{source!r} is neither a file on this machine nor a released name.{hint}"
      f" Released names: {', '.join(RELEASED)}."
    )
  return _file_of_folder(path) if path.is_dir() else path


def _file_of_folder(folder: pathlib.Path) -> pathlib.Path:
  """Returns the weights in a folder of an export or library, or the folder."""
  if (folder / workdir.CHECKPOINTS).is_dir():
    return folder  # A run, whatever was saved beside its checkpoints.
  file = folder / FOLDER_FILE
  if file.is_file():
    return file
  index = folder / INDEX_FILE
  return index if index.is_file() else folder


def sha256(path: pathlib.Path) -> str | None:
  """Returns the checksum of a file; None for a folder.

  For the index of several files it is that of their names and checksums. A file
  that has not changed since is not read again.
  """
  if path.is_dir():
    return None
  if path.name.endswith(containers.INDEX):
    files = sorted(containers.shards(path))
    lines = [f"{sha256(path.parent / file)}  {file}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
  stat = path.stat()
  return _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=64)
def _sha256(path: pathlib.Path, *identity: int) -> str:
  del identity  # Part of the cache's key: it changes if the file does.
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def checked_sha256(path: pathlib.Path) -> str | None:
  """Returns the checksum of a file after comparing it with its download's.

  Raises:
    ValueError: the file was downloaded and has another checksum now.
  """
  checksum = sha256(path)
  noted = _noted(path)
  if path.parent == paths.cache_dir() and noted.is_file():
    first = noted.read_text(encoding="utf-8").split()[0]
    if checksum != first:
      raise ValueError(
        f"{path} has sha256 {checksum}, but had {first} when it was first"
        f" downloaded: it is damaged or was replaced. Delete it to download it"
        f" again, and {noted.name} beside it if you trust the new one."
      )
  return checksum


def _noted(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of the file that keeps the first download's checksum."""
  return path.with_name(f"{path.name}.sha256")


def _download(source: str, path: pathlib.Path) -> None:
  """Downloads to `path`; if that fails, no incomplete file is left."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
  url = source
  if source.startswith("gs://"):
    url = _GCS + urllib.parse.quote(source.removeprefix("gs://"))
  print(f"Downloading {url}")
  try:
    try:
      _copy_url(url, partial)
    except urllib.error.HTTPError as error:
      # Public objects need no credentials and no library; others need both.
      if not source.startswith("gs://") or error.code not in (401, 403):
        raise _not_downloaded(url, error) from error
      _copy_gcs(source, partial)
    except OSError as error:
      raise _not_downloaded(url, error) from error
    checksum, noted = sha256(partial), _noted(path)
    if not noted.is_file():
      noted.write_text(f"{checksum}  {path.name}\n", encoding="utf-8")
    elif checksum != noted.read_text(encoding="utf-8").split()[0]:
      raise ValueError(
        f"{url} is not what it was at its first download: its sha256 is"
        f" {checksum}, that in {noted} another. Nothing was kept. Delete that"
        " file if you trust the new one."
      )
    partial.rename(path)
  finally:
    partial.unlink(missing_ok=True)


def _not_downloaded(url: str, error: Exception) -> OSError:
  return OSError(
    f"{url} cannot be downloaded ({error}). Download it by other means, such as"
    " on a machine with a network, and give the path of the file."
  )


def _copy_url(url: str, path: pathlib.Path) -> None:
  with (
    urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
    path.open("wb") as file,
  ):
    shutil.copyfileobj(response, file, 1 << 20)
    expected = response.headers.get("Content-Length")
    if expected is not None and file.tell() != int(expected):
      raise ValueError(
        f"{url} ended after {file.tell():,} of {int(expected):,} bytes; try"
        " again."
      )


def _copy_gcs(source: str, path: pathlib.Path) -> None:
  try:
    with epath.Path(source).open("rb") as remote, path.open("wb") as file:
      shutil.copyfileobj(remote, file, 1 << 20)
  except ImportError as error:
    raise OSError(
      f"{source} is not public. To read it with your credentials: pip install"
      " gcsfs."
    ) from error


def _from_hugging_face(source: str) -> pathlib.Path:
  match = re.fullmatch(
    r"hf://([\w.-]+/[\w.-]+)"
    r"(?:@(refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/([\w./-]+))?",
    source,
  )
  if not match or ".." in source.split("/"):
    raise ValueError(
      f"{source!r} must be hf://owner/repo or hf://owner/repo@revision, and may"
      " end in /FILE."
    )
  repo, revision, file = match.groups()
  revision = revision and urllib.parse.unquote(revision)
  try:
    import huggingface_hub
  except ImportError as error:
    raise ImportError(
      f"{source} needs the library: pip install huggingface_hub."
    ) from error
  files = None
  try:
    files = huggingface_hub.list_repo_files(repo, revision=revision)
  except Exception:  # Its type depends on the version of the library.
    # Without a network a file may be in the library's cache.
    if file is None:
      raise
  if file is None:
    fitting = [f for f in files if f.endswith((".safetensors", ".npz"))]
    if FOLDER_FILE in fitting:
      file = FOLDER_FILE
    elif INDEX_FILE in files:
      file = INDEX_FILE
    elif len(fitting) == 1:
      file = fitting[0]
    else:
      raise ValueError(
        f"{source} does not say which file to read: add it, as in"
        f" {source}/FILE. The repository has"
        f" {', '.join(fitting) or 'no .safetensors and no .npz'}."
      )
  download = functools.partial(
    huggingface_hub.hf_hub_download, repo, revision=revision
  )
  folder = file.rpartition("/")[0]
  for name in ABOUT:
    # They then lie beside the weights, where `config_files` looks for them.
    name = f"{folder}/{name}".lstrip("/")
    if files is None:
      with contextlib.suppress(Exception):
        download(name)
    elif name in files:
      download(name)
  path = pathlib.Path(download(file))
  if path.name.endswith(containers.INDEX):
    for shard in containers.shards(path):
      download(f"{folder}/{shard}".lstrip("/"))
  return path
