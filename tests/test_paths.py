"""Paths that people write."""

import pathlib
import tempfile

import pytest

from tokenlearner_flexivit import paths


def test_the_home_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert paths.local("~/runs/a", "--workdir") == tmp_path / "runs/a"
  assert paths.local(pathlib.Path("~/a"), "--workdir") == tmp_path / "a"
  assert paths.local("runs/~a", "--workdir") == pathlib.Path("runs/~a")
  assert paths.local("a:b/c", "--workdir") == pathlib.Path("a:b/c")


def test_a_user_without_a_home_has_a_cache(monkeypatch):
  def no_home(self):
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.delenv("TLFV_CACHE", raising=False)
  monkeypatch.setattr(pathlib.Path, "expanduser", no_home)
  assert paths.cache_dir().is_relative_to(tempfile.gettempdir())


@pytest.mark.parametrize(
  "path, message",
  [
    ("gs://bucket/a", "--output=gs://bucket/a is no path of a file system"),
    ("hf://a/b", "no path of a file system"),
    (pathlib.Path("gs://bucket/a"), "no path of a file system"),
    ("", "--output='' is no path"),
    ("~nobody-of-this-name/a", "there is no user 'nobody-of-this-name'"),
  ],
)
def test_what_is_no_local_path_is_refused(path, message):
  with pytest.raises(ValueError, match=message):
    paths.local(path, "--output")
