"""Arguments of commands."""

import argparse

import pytest

from tokenlearner_flexivit import arguments


def test_values_of_dials():
  values = [arguments.dial(text) for text in ("8", "8,16", "all", "-1")]
  assert values == [8, [8, 16], "all", "-1"]


def test_numbers_above_zero():
  assert arguments.counts("1,8") == [1, 8]
  assert arguments.above_zero("1e-3") == 1e-3
  for text in ("0", "-1", "1.5", "x", ""):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
      arguments.count(text)
  for text in ("-0", "-1", "nan", "inf", "x", "5ms"):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' must be"):
      arguments.above_zero(text)


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
