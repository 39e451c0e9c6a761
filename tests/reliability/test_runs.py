"""A run that is killed or harmed ends as one that nothing disturbed.

A small run of the quickstart is killed at random moments, each time started
again by the same command until it ends, and then compared bit by bit with an
undisturbed one; so are runs that meet other faults. RELIABILITY_KILLS is the
number of runs to kill.
"""

import os

import pytest

from tests.reliability import faults, kills

# Of nine in a row the first kills meet every moment with both signals.
KILLS = int(os.environ.get("RELIABILITY_KILLS", "9"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two_processes"])
def world(request, tmp_path_factory):
  """Undisturbed runs in one process and in two that work together."""
  return kills.make_world(tmp_path_factory.mktemp("runs"), request.param)


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_as_an_undisturbed_one(world, number):
  row = kills.killed_run(world, number)
  assert (row["error"], row["differs"]) == (None, {}), row["kills"]


@pytest.mark.parametrize(
  "harm", faults.OF_ONE_PROCESS + faults.OF_SEVERAL, ids=lambda f: f.__name__
)
def test_a_harmed_run_ends_as_an_undisturbed_one(world, harm):
  if (harm in faults.OF_SEVERAL) != (world.processes > 1):
    pytest.skip("It is of another number of processes.")
  print(harm(faults.Fault(world, harm.__name__)))
