"""Output where there is no terminal, as in another program or a service."""

import io
import sys
import warnings

import numpy as np
import pytest

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.run import progress


@pytest.mark.parametrize(
  ("number", "noun", "words"),
  [
    (1, "patch size", "1 patch size"),
    (2, "setting", "2 settings"),
    (0, "program", "0 programs"),
    (1, "class", "1 class"),
    (3, "class", "3 classes"),
  ],
)
def test_one_thing_is_no_plural(number, noun, words):
  assert terminal.counted(number, noun) == words


class Log:
  """Stands for a stream in programs that log."""

  def __init__(self):
    self.text = ""

  def write(self, text):
    self.text += text


def closed():
  stream = io.StringIO()
  stream.close()
  return stream


@pytest.mark.parametrize("stream", [None, Log(), io.StringIO(), closed()])
def test_what_is_no_terminal_is_not_watched(stream):
  assert not terminal.is_watched(stream)


@pytest.mark.parametrize(
  "value, digits, text",
  [
    (0, 4, "0"),
    (0.123456, 4, "0.1235"),
    (999.96, 4, "1,000"),
    (17583.4, 4, "17,580"),
    (999.6, 3, "1,000"),
    (1.5, 3, "1.5"),
  ],
)
def test_numbers_for_people_have_no_powers_of_ten(value, digits, text):
  assert terminal.number(value, digits) == text


def test_text_reaches_a_logger(monkeypatch):
  monkeypatch.setattr(sys, "stdout", log := Log())
  terminal.say("one ± two")
  assert log.text == "one ± two\n"


@pytest.mark.parametrize("stream", [None, closed()])
def test_text_without_a_place_is_left_out(monkeypatch, stream):
  monkeypatch.setattr(sys, "stdout", stream)
  terminal.say("text")


def test_letters_that_the_locale_lacks_are_escaped(monkeypatch):
  ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", ascii_only)
  terminal.say("1 ± 2")
  assert ascii_only.buffer.getvalue() == b"1 \\xb1 2\n"
  terminal.prepare()
  print("3 ± 4", flush=True)
  assert ascii_only.buffer.getvalue().endswith(b"3 \\xb1 4\n")


def test_a_warning_shows_no_line_of_code():
  terminal.prepare()
  told = UserWarning("mine has no image of 1 class")
  assert warnings.formatwarning(told, UserWarning, "base.py", 210) == (
    "Warning: mine has no image of 1 class\n"
  )
  # Of other kinds, a developer needs it.
  other = warnings.formatwarning("old", DeprecationWarning, "base.py", 210)
  assert other.startswith("base.py:210: DeprecationWarning: old")


@pytest.mark.parametrize("stream", [None, Log()])
def test_a_run_needs_no_stderr_for_its_bar(monkeypatch, stream):
  monkeypatch.setattr(sys, "stderr", stream)
  shown = progress.Progress([], first_step=0, total_steps=2, batch_size=1)
  shown.start()
  shown.add(1, {"loss": 0.5})
  shown.close()
  assert stream is None or stream.text == ""


def test_lines_stay_short_whatever_the_number_of_settings(capsys):
  settings = [
    dials.Setting((size, size), tokens)
    for size in (48, 30, 24, 16, 12, 10, 8)
    for tokens in (4, 8, 16, "all")
  ]
  shown = progress.Progress(
    settings, first_step=0, total_steps=100_000, batch_size=1024
  )
  shown.start()
  for step in range(1, 101):
    norms = dict.fromkeys(("grad_norm", "update_norm", "param_norm"), 1.2345)
    shown.add(step, {"loss": 1.5, "setting": step % 28, **norms})
  shown.log(lr=0.1)
  shown.close()
  line = capsys.readouterr().out.strip()
  assert "28 of 28 settings" in line and len(line) <= 120


def test_a_model_is_a_line(capsys):
  params = {"head": {"bias": np.ones(5)}, "embedding": np.ones((4, 400))}
  progress.describe_model(params)
  line = "1,605 parameters: head 5, embedding 1,600\n"
  assert capsys.readouterr().out == line
