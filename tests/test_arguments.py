"""Arguments of commands."""

import argparse

import pytest

from tokenlearner_flexivit import arguments


def test_values_of_dials():
  values = [arguments.dial(text) for text in ("8", "8,16", "all", "-1")]
  assert values == [8, [8, 16], "all", "-1"]


def test_paths_of_pictures(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert arguments.picture("~/a.png") == tmp_path / "a.png"
  (tmp_path / "a.png").touch()
  assert arguments.picture(f"{tmp_path}/a.png") == tmp_path / "a.png"


@pytest.mark.parametrize(
  "path, message",
  [
    ("gs://bucket/a.png", "no path of a file system"),
    ("~/a", "must end in one of .png"),
    ("~/a.pngg", "must end in one of .png"),
    ("~/missing/a.png", "there is no folder .*missing"),
    ("~/folder.png", "is a folder"),
  ],
)
def test_where_no_picture_can_be_written(monkeypatch, tmp_path, path, message):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "folder.png").mkdir()
  with pytest.raises(argparse.ArgumentTypeError, match=message):
    arguments.picture(path)
