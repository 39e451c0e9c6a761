"""The preprocessing string: what it means and what it refuses."""

import pickle

import numpy as np
import pytest

from tokenlearner_flexivit import data


def test_ops_apply_from_left_to_right():
  pp = data.parse("copy('a', 'b')|onehot(3, key='b')|keep('b', 'a')")
  result = pp({"a": np.int32(1), "c": 5})
  assert list(result) == ["b", "a"]
  assert result["a"] == 1
  assert result["b"].tolist() == [0, 1, 0]


def test_literals_positional_and_keyword_arguments():
  pp = data.parse("  value_range(-1, vmax=1.5)|resize((2, 4), method='area') ")
  assert [step.args for step in pp.steps] == [(-1,), ((2, 4),)]
  assert [step.kwargs for step in pp.steps] == [
    {"vmax": 1.5},
    {"method": "area"},
  ]
  assert data.parse("copy('a|b', 'c')").steps[0].args == ("a|b", "c")


def test_random_ops_are_known_by_their_signature():
  assert data.parse("decode|flip_lr").is_random
  assert not data.parse("decode|resize(4)").is_random


def test_is_pickled_with_its_functions():
  pp = pickle.loads(pickle.dumps(data.parse("keep('a')")))
  assert pp({"a": 1, "b": 2}) == {"a": 1}


@pytest.mark.parametrize(
  "text, messages",
  [
    ("decode|resise(4)", ["'resise'", "mean 'resize'", "flip_lr", "decode|r"]),
    ("nothing_like_it", ["Unknown op", "value_range"]),
    ("decode|", ["Cannot be parsed", "decode|"]),
    ("", ["Cannot be parsed"]),
    ("decode||flip_lr", ["Cannot be parsed"]),
    ("resize(", ["Cannot be parsed", "never closed"]),
    ("resize(size=side)", ["literals", "resize"]),
    ("resize(*[3])", ["literals"]),
    ("resize(**{'size': 3})", ["literals"]),
    ("resize()", ["missing", "'size'", "resize(size:"]),
    ("resize(3, 'area', 5)", ["too many", "resize(size:"]),
    ("resize(3, side=2)", ["'side'", "resize(size:"]),
    ("resize('big')", ["size cannot be 'big'"]),
    ("resize(True)", ["size cannot be True"]),
    ("keep('a', 3)", ["keys cannot be 3"]),
    ("flip_lr(rng=None)", ["multiple values", "flip_lr"]),
    ("os.system('x')", ["is not an op"]),
    ("decode + flip_lr", ["is not an op"]),
    ("'decode'", ["is not an op"]),
  ],
)
def test_mistakes_are_found_before_any_data(text, messages):
  with pytest.raises(ValueError) as error:
    data.parse(text)
  for message in [*messages, repr(text)]:
    assert message in str(error.value)


def test_errors_while_running_name_the_op_and_the_string():
  pp = data.parse("keep('a')|drop('b')")
  with pytest.raises(ValueError, match=r"drop\('b'\).*keep\('a'\)\|drop"):
    pp({"a": 1})


def test_a_name_is_registered_once():
  def resize(example):
    return example

  with pytest.raises(ValueError, match="'resize' already"):
    data.register_op(resize)
