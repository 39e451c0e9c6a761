"""Plans a run: memory, work and time on chips, by their compilers."""

import contextlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.models import encoder
from tokenlearner_flexivit.parallel import compiled, topologies
from tokenlearner_flexivit.planning import stand_ins
from tokenlearner_flexivit.planning import steps as steps_lib

SETTINGS = ("ends", "all")
DISPATCH = ("host", "switch", "both")
_PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")


def make(
  config: ml_collections.ConfigDict,
  topology: str,
  *,
  settings: str = "ends",
  patch_sizes: Sequence[Any] | None = None,
  dispatch: str = "host",
  largest: bool = True,
  utilisation: float = 0.4,
  num_examples: int | None = None,
  num_classes: int | None = None,
  say: Callable[[str], None] = terminal.say,
) -> dict[str, Any]:
  """Compiles the steps of a config for chips, and returns what they need.

  Neither the chips nor the data and the weights of the config need be there.

  Args:
    config: of a training.
    topology: see `topologies.create`.
    settings: "ends" compiles the cheapest and the dearest setting, "all" all.
    patch_sizes: compiles those of these patch sizes instead.
    dispatch: "host" compiles a program for each setting, "switch" one for all,
      "both" both.
    largest: whether the largest batch that fits is sought, which compiles two
      more programs for each setting.
    utilisation: the share of the chips' peak that the totals assume.
    num_examples: see `stand_ins.config_without_files`.
    num_classes: see `stand_ins.config_without_files`.
    say: called with messages about progress.

  Returns:
    JSON values; bytes, operations and memory are those of one chip and step.

  Raises:
    ValueError: an argument or the config is wrong.
  """
  for value, known, name in (
    (settings, SETTINGS, "settings"),
    (dispatch, DISPATCH, "dispatch"),
  ):
    configuration.choose(value, dict.fromkeys(known), f"--{name}")
  configuration.check_number(utilisation, "--utilisation", "(0, 1]")
  chips = topologies.create(topology)
  config = stand_ins.config_without_files(config, num_examples, num_classes)
  progress = steps_lib.Progress(say)
  steps = steps_lib.Steps(config, chips, progress)
  compiles_rows, compiles_switch = dispatch != "switch", dispatch != "host"
  chosen = _choose(steps, settings, patch_sizes) if compiles_rows else []
  progress.left = len(chosen) * (3 if largest else 1) + compiles_switch
  rows = [_row(steps, branch) for branch in chosen]
  switch = None
  if compiles_switch:
    switch = _needs(steps, steps.compile(None), steps.mean_flops())
  _try_remat(config, steps, progress, rows)
  if largest:
    for row in rows:
      batch, is_checked = steps_lib.largest_batch(steps, row["branch"])
      row |= {"largest_batch": batch, "largest_batch_compiled": is_checked}
  return {
    "topology": topology,
    "chips": steps.num_chips,
    "chip": {
      key: getattr(chips.chip, key)
      for key in ("title", "memory", "flops", "bandwidth")
    },
    "input": steps.experiment.task.model.input,
    "batch_size": steps.experiment.config["batch_size"],
    "batch_per_chip": steps.batch_per_chip,
    "accumulate": steps.experiment.config["accumulate"],
    "dispatch": steps.dispatch(),
    "num_programs": len(steps.branches),
    "state": steps.state_bytes,
    "constants": steps.constant_bytes,
    "loops_count_once": steps.has_loops,
    "settings": rows,
    "switch": switch,
    "totals": _totals(steps, utilisation),
    "versions": _versions(),
  }


def _choose(
  steps: steps_lib.Steps, settings: str, patch_sizes: Sequence[Any] | None
) -> list[int]:
  """Returns the branches that are compiled, from cheap to dear."""
  numbers = sorted(range(len(steps.branches)), key=steps.flops)
  if patch_sizes is None:
    is_chosen = {numbers[0], numbers[-1]} if settings == "ends" else {*numbers}
    return [n for n in numbers if n in is_chosen]
  sizes = [dials.as_patch_size(p, "--patch_sizes") for p in patch_sizes]
  known = [branch.patch_size for branch in steps.branches]
  for height, width in sizes:
    if (height, width) not in known:
      names = ", ".join(branch.name for branch in steps.branches)
      raise ValueError(
        f"--patch_sizes: the config has no setting of {height}x{width} pixels, "
        f"only {names}."
      )
  return [n for n in numbers if known[n] in sizes]


def _row(steps: steps_lib.Steps, branch: int) -> dict[str, Any]:
  """Returns what a setting needs, of those with their own program."""
  setting = steps.branches[branch]
  return {
    "setting": setting.name,
    **setting.row,
    "branch": branch,
    "share": steps.shares[branch],
    **_needs(steps, steps.compile(branch), steps.flops(branch)),
  }


def _needs(
  steps: steps_lib.Steps, program: compiled.Program, flops: float
) -> dict[str, Any]:
  """Returns what a program needs.

  Args:
    steps: compiled it.
    program: for the config's batch.
    flops: of a step for one example.
  """
  chip, flops = steps.topology.chip, flops * steps.batch_per_chip
  bounds = []
  if chip.flops:
    bounds.append(flops / chip.flops)
  if chip.bandwidth and program.traffic:
    bounds.append(program.traffic / chip.bandwidth)
  sharded = None
  if program.memory is not None:
    # An equal part of the state would stay on each chip.
    sharded = program.memory - steps.state_bytes * (1 - 1 / steps.num_chips)
  return {
    "fits": program.fits,
    "memory": program.memory,
    "memory_with_sharded_state": sharded and round(sharded),
    "traffic": program.traffic,
    "flops": flops,
    "bound_seconds": max(bounds, default=None),
    "kernels": program.kernels,
    "compile_seconds": program.seconds,
  }


def _try_remat(
  config: ml_collections.ConfigDict,
  steps: steps_lib.Steps,
  progress: steps_lib.Progress,
  rows: Sequence[dict[str, Any]],
) -> None:
  """Adds to rows that do not fit what they need with more of `model.remat`."""
  config = ml_collections.ConfigDict(config, allow_dotted_keys=True)
  now = getattr(steps.experiment.task.model, "remat", None)
  policies = list(encoder.REMATS)
  if now not in (*policies, encoder.AUTO):
    return
  compiled_with = policies[0] if now == encoder.AUTO else now
  for policy in policies[policies.index(compiled_with) + 1 :]:
    left = [row for row in rows if not _fits_somehow(row)]
    if not left:
      return
    progress.left += len(left)
    config.model.remat = policy
    saving = steps_lib.Steps(config, steps.topology, progress)
    for row in left:
      program = saving.compile(row["branch"])
      needs = _needs(saving, program, saving.flops(row["branch"]))
      row.setdefault("remat", []).append({"policy": policy, **needs})


def _fits_somehow(row: dict[str, Any]) -> bool:
  return row["fits"] or any(other["fits"] for other in row.get("remat", ()))


def _totals(steps: steps_lib.Steps, utilisation: float) -> dict[str, Any]:
  """Returns work and time of the whole run at a share of the chips' peak."""
  experiment, peak = steps.experiment, steps.topology.chip.flops
  num_steps = experiment.steps("total")
  images = num_steps * experiment.config["batch_size"]
  flops = steps.mean_flops()
  totals = {
    "steps": num_steps,
    "images": images,
    "flops_per_image": flops,
    "utilisation": utilisation,
  }
  if peak:
    per_second = peak * utilisation * steps.num_chips / flops
    hours = images / per_second / 3600
    totals |= {
      "images_per_second": per_second,
      "hours": hours,
      "chip_hours": hours * steps.num_chips,
    }
  return totals


def _versions() -> dict[str, str]:
  """Returns the versions of the compilers."""
  installed = {}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      installed[package] = importlib.metadata.version(package)
  return installed
