"""Hosts agree: two threads stand for them, which wait for one another.

tests/run/test_hosts_agree.py has two processes.
"""

import concurrent.futures
import threading

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from tokenlearner_flexivit.parallel import hosts

SECONDS = 20


@pytest.fixture
def on_both(monkeypatch):
  """Returns a function that runs another one with the number of each host."""
  place, barrier = threading.local(), threading.Barrier(2, timeout=SECONDS)
  values = [None, None]

  def gather(value):
    # What a thread of a host asks is asked for that host.
    values[getattr(place, "number", 1)] = np.asarray(value)
    try:
      barrier.wait()
      gathered = list(values)
      barrier.wait()
    except threading.BrokenBarrierError:  # It waited in vain.
      return np.asarray([])
    return np.stack(gathered)

  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  monkeypatch.setattr(
    multihost_utils, "broadcast_one_to_all", lambda value: gather(value)[0]
  )
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: place.number)

  def run(function):
    def numbered(number):
      place.number = number
      try:
        return function(number)
      except Exception as error:
        return error

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      return list(pool.map(numbered, range(2)))

  yield run
  barrier.abort()


def test_the_error_of_one_host_is_raised_on_both(on_both):
  def fail(number):
    with hosts.together(), hosts.together():
      if number == 1:
        raise ValueError("a bad label")

  other, own = on_both(fail)
  assert isinstance(own, ValueError) and str(own) == "a bad label"
  assert isinstance(other, RuntimeError)
  assert "Stopped because of process 1, whose output" in str(other)
  assert hosts.raised_on_all(own) and hosts.raised_on_all(other)
  assert on_both(lambda number: hosts.raise_together(None)) == [None, None]


def test_who_is_waited_for_in_vain_is_not_waited_for_long(on_both):
  def fail(number):
    if number == 1:  # The other one is elsewhere.
      hosts.raise_together(ValueError("alone"), seconds=0.05)

  nothing, own = on_both(fail)
  assert nothing is None and str(own) == "alone"
  assert not hosts.raised_on_all(own)


def test_the_value_of_the_first_host_is_that_of_both(on_both):
  value = {"process": 0, "text": "é"}
  given = on_both(
    lambda number: hosts.of_first_host(
      {"process": number, "text": "é" * (1 + 9 * number)}
    )
  )
  assert given == [value, value]


def test_values_must_be_alike(on_both):
  modes = "train", "eval"
  first, second = on_both(lambda n: hosts.check_alike("--mode", modes[n]))
  assert "Stopped because of process 1" in str(first)
  assert "Process 1 has --mode=eval, but process 0 --mode=train" in str(second)
  alike = on_both(lambda number: hosts.check_alike("--mode", "eval"))
  assert alike == [None, None]
