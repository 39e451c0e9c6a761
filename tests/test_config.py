"""Configs are read strictly."""

import pathlib
from typing import Any

import ml_collections
import numpy as np
import pytest

from tokenlearner_flexivit import config as configuration


def build(lr, schedule=None):
  return lr, schedule


def typed(a: float = 1.0, b: str | None = "x", c=2, d: Any = 3):
  return a, b, c, d


def test_none_is_the_default_of_what_cannot_be_none():
  section = dict.fromkeys("abcd")
  assert configuration.call(typed, section, "c") == (1.0, None, None, None)


def test_call_passes_the_section_on():
  assert configuration.call(build, {"lr": 1.0}, "config.x") == (1.0, None)
  arguments = configuration.call(build, {"lr": 1.0}, "config.x", schedule="s")
  assert arguments == (1.0, "s")


@pytest.mark.parametrize(
  "section, message",
  [
    ({"lr": 1, "shedule": 2}, "no key 'shedule'.*Did you mean 'schedule'"),
    ({}, "config.x needs lr"),
  ],
)
def test_call_refuses_unknown_and_missing_keys(section, message):
  with pytest.raises(ValueError, match=message):
    configuration.call(build, section, "config.x")


def test_call_refuses_keys_that_the_program_sets():
  with pytest.raises(ValueError, match="no key 'schedule'"):
    configuration.call(build, {"lr": 1, "schedule": 0}, "c", schedule=1)


def test_choose_lists_the_known_names():
  with pytest.raises(ValueError, match=r"config.a='c' is unknown. Known: a, b"):
    configuration.choose("c", {"b": 0, "a": 0}, "config.a")


@pytest.mark.parametrize(
  "section, expected",
  [
    ({"total_steps": 7}, 7),
    ({"total_epochs": 2}, 25),  # 200 examples are 25 batches of 8.
    ({"total_epochs": 0.1}, 2),  # 10 examples: one and a quarter, so two.
    ({"total_examples": 16}, 2),
    ({"total_examples": 17}, 3),
    ({}, None),
    ({"total_steps": None, "total_epochs": 2}, 25),
  ],
)
def test_durations(section, expected):
  resolved = configuration.steps(
    section, "total", "config", batch_size=8, num_examples=100
  )
  assert resolved == expected


@pytest.mark.parametrize(
  "section, message",
  [
    ({"total_steps": 1, "total_epochs": 1}, "more than once"),
    ({"total_steps": -1}, "non-negative integer"),
    ({"total_examples": 1.5}, "non-negative integer"),
  ],
)
def test_bad_durations(section, message):
  with pytest.raises(ValueError, match=message):
    configuration.steps(
      section, "total", "config", batch_size=8, num_examples=100
    )


def test_plain_is_what_json_gives_back():
  config = ml_collections.ConfigDict({"a": {"b": (1, 2)}, "c": None})
  assert configuration.plain(config) == {"a": {"b": [1, 2]}, "c": None}
  config = {"a": pathlib.Path("/x"), "b": (np.float32(0.5), np.int64(3))}
  assert configuration.plain(config) == {"a": "/x", "b": [0.5, 3]}


@pytest.mark.parametrize(
  "config, message",
  [
    (
      {"a": {"b": [0, build]}},
      r"config.a.b\[1\]=.*is a function",
    ),
    ({"a": np.ones(2)}, "config.a=array.*is a ndarray"),
    ({"a": {1, 2}}, "config.a={1, 2} is a set"),
    ({"a": {1: 2}}, "config.a has the key 1; keys are texts"),
  ],
)
def test_what_json_cannot_hold_is_named(config, message):
  with pytest.raises(ValueError, match=message):
    configuration.plain(config)


def test_differences_name_the_leaves():
  old = {"a": {"b": 1, "c": 2}, "d": 3}
  new = {"a": {"b": 1, "c": 5}, "e": 3}
  assert configuration.differences(old, old) == []
  assert configuration.differences(old, new) == [
    "config.a.c: 2 -> 5",
    "config.d: 3 -> None",
    "config.e: None -> 3",
  ]


def test_arguments_of_configs():
  parsed = configuration.parse_arg(
    "runlocal,size=96,path=/a b", runlocal=False, size=64, path=""
  )
  assert parsed == dict(runlocal=True, size=96, path="/a b")
  assert configuration.parse_arg("", size=64) == dict(size=64)
  assert configuration.parse_arg("epochs=0.5", epochs=100) == dict(epochs=0.5)


def test_an_argument_may_begin_in_the_home_folder(monkeypatch):
  """The config records a path that means the same to another user."""
  monkeypatch.setenv("HOME", "/home/me")
  parsed = configuration.parse_arg(
    "init=~/weights,data=coco:~/photos,name=a~/b", init="", data="", name=""
  )
  assert parsed == dict(
    init="/home/me/weights", data="coco:/home/me/photos", name="a~/b"
  )


@pytest.mark.parametrize(
  "arg, path",
  [
    ("path='/a,b',size=3", "/a,b"),
    ('size=3,path="/a, b"', "/a, b"),
    (r"path=/a\,b,size=3", "/a,b"),
    ("path=/o'brien/x,size=3", "/o'brien/x"),
    ("path='/a'b,size=3", "'/a'b"),
    ("path=a=b,size=3", "a=b"),
  ],
)
def test_commas_and_quotes_in_arguments_of_configs(arg, path):
  parsed = configuration.parse_arg(arg, size=64, path="")
  assert parsed == dict(size=3, path=path)


@pytest.mark.parametrize(
  "arg, message",
  [
    ("runlocl", "no key 'runlocl'. Did you mean 'runlocal'"),
    ("path=/a,b", "no key 'b'.*A comma in a value: path='/a,b'"),
    ("size=big", "The config's size='big' must be a whole number"),
    ("size=0.5", "size='0.5' must be a whole number"),
    ("epochs=x", "epochs='x' must be a number"),
    ("size", "size needs a value"),
    ("size=3,size=4", "has 'size' twice"),
    ("runlocal=maybe", "runlocal='maybe' is unknown. Known: 0, 1, false, true"),
  ],
)
def test_bad_arguments_of_configs(arg, message):
  with pytest.raises(ValueError, match=message):
    configuration.parse_arg(arg, runlocal=False, size=64, path="", epochs=100)


@pytest.mark.parametrize(
  "value, interval, whole",
  [(0, "[0, 1)", False), (0.5, "(0, 1)", False), (3, "[1, inf)", True)],
)
def test_numbers_in_their_interval(value, interval, whole):
  configuration.check_number(value, "config.x", interval, whole=whole)


@pytest.mark.parametrize(
  "value, interval, whole, message",
  [
    (1, "[0, 1)", False, r"config.x=1 must be a number in \[0, 1\)"),
    (0, "(0, 1]", False, r"config.x=0 must be a number in \(0, 1\]"),
    ("0.5", "[0, 1]", False, "config.x='0.5' must be a number"),
    (None, "[0, 1]", False, "config.x=None must be a number"),
    (True, "[0, 1]", False, "config.x=True must be a number"),
    (float("nan"), "(-inf, inf)", False, "config.x=nan"),
    (float("inf"), "(-inf, inf)", False, "config.x=inf"),
    (2.0, "[1, inf)", True, "config.x=2.0 must be a whole number"),
  ],
)
def test_what_is_no_number_of_an_interval(value, interval, whole, message):
  with pytest.raises(ValueError, match=message):
    configuration.check_number(value, "config.x", interval, whole=whole)
