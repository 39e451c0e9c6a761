"""A plan as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import terminal


def as_text(plan: Mapping[str, Any]) -> str:
  """Returns a plan as tables and sentences, in Markdown.

  Args:
    plan: the result of `plan.make`.
  """
  chip = plan["chip"]
  kind = "clips" if plan["input"] == "video" else "images"
  lines = [
    f"{plan['topology']}: {terminal.counted(plan['chips'], 'chip')} "
    f"({chip['title']}, {terminal.gib(chip['memory'])} GiB each), "
    f"{plan['batch_per_chip']} of {plan['batch_size']} {kind} on each.",
    "",
  ]
  if plan["settings"]:
    lines += [*_table(plan["settings"], kind), ""]
  if plan["switch"]:
    switch = {"setting": "all, by a switch", "share": 1.0, **plan["switch"]}
    lines += [*_table([switch], kind), ""]
  lines += [*_about_memory(plan), "", *_about_work(plan, kind)]
  return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
  """Returns a table of settings, with a line for each with `remat`."""
  head = [
    "setting",
    "share of steps",
    "GiB per chip",
    "fits",
    f"{kind} per chip that fit, at least",
    "GB moved",
    "TFLOP",
    "bound, ms",
    "fused kernels",
    "compiled in, s",
  ]
  shown = [head, ["---"] * len(head)]
  for row in rows:
    shown.append(_cells(row["setting"], f"{100 * row['share']:.0f} %", row))
    for other in row.get("remat", ()):
      name = f"{row['setting']}, remat={other['policy']!r}"
      shown.append(_cells(name, "", other))
  return [f"| {' | '.join(cells)} |" for cells in shown]


def _cells(name: str, share: str, row: Mapping[str, Any]) -> list[str]:
  largest = "-"
  if (number := row.get("largest_batch")) is not None:
    largest = str(number)
    largest += "" if row["largest_batch_compiled"] else " (estimated)"
  kernels = ", ".join(f"{count} {k}" for k, count in row["kernels"].items())
  return [
    name,
    share,
    terminal.gib(row["memory"]),
    "yes" if row["fits"] else "NO",
    largest,
    _number(row["traffic"], 1e9),
    _number(row["flops"], 1e12),
    _number(row["bound_seconds"], 1e-3),
    kernels or "-",
    f"{row['compile_seconds']:.0f}",
  ]


def _about_memory(plan: Mapping[str, Any]) -> list[str]:
  """Returns sentences about the memory, and what would save some."""
  memory = plan["chip"]["memory"]
  state = plan["state"]
  lines = [
    f"Parameters, optimizer and moving average take {terminal.gib(state)} GiB "
    f"on each chip, {100 * state / memory:.1f} % of it."
  ]
  if constants := plan["constants"]:
    lines.append(
      f"Weights that do not change take {terminal.gib(constants)} GiB more."
    )
  programs = [*plan["settings"], *filter(None, [plan["switch"]])]
  too_large = [row for row in programs if not row["fits"]]
  if not too_large:
    lines.append(
      "What was compiled fits: it needs no more remat, and no sharding of the "
      "parameters."
    )
  for row in too_large:
    name = row.get("setting", "the switch")
    lines.append(f"{name} does not fit.")
    for other in row.get("remat", ()):
      does = "fits" if other["fits"] else "does not fit either"
      lines.append(
        f"With config.model.remat={other['policy']!r} it needs "
        f"{terminal.gib(other['memory'])} GiB and {does}."
      )
    sharded = row["memory_with_sharded_state"]
    if sharded is not None:
      helps = "would fit" if sharded <= memory else "would not fit either"
      lines.append(
        f"If each chip held only its part of parameters and optimizer, {name} "
        f"would need about {terminal.gib(sharded)} GiB and {helps}."
      )
  return lines


def _about_work(plan: Mapping[str, Any], kind: str) -> list[str]:
  """Returns sentences about how the numbers come about, and the totals."""
  totals = plan["totals"]
  lines = [
    "GB and TFLOP are those of a step and chip. FLOP count matrix products, "
    "those of the backward pass twice, where parameters are not frozen; bytes "
    "are the compiler's"
    + (", which counts a loop once." if plan["loops_count_once"] else "."),
    "The bound is the time that the chip's published peaks allow at least for "
    "this work, without communication: it is no prediction.",
    f"The run dispatches by {plan['dispatch']!r}: "
    + terminal.counted(
      1 if plan["dispatch"] == "switch" else plan["num_programs"], "program"
    )
    + f" for {terminal.counted(plan['num_programs'], 'setting')}.",
    "",
    f"{totals['steps']:,} steps, {totals['images']:,} {kind}, "
    f"{terminal.number(totals['flops_per_image'] / 1e9, 3)} GFLOP for each on "
    "average.",
  ]
  if "chip_hours" in totals:
    lines.append(
      f"At {100 * totals['utilisation']:g} % of the peak: "
      f"{totals['images_per_second']:,.0f} {kind}/s, "
      f"{_number(totals['hours'], 1)} hours, "
      f"{_number(totals['chip_hours'], 1)} chip-hours."
    )
  else:
    lines.append("The chip's peak is not known, so neither are hours.")
  return lines


def _number(number: float | None, unit: float) -> str:
  if number is None:
    return "?"
  shown = number / unit
  return f"{shown:,.0f}" if shown >= 1000 else terminal.number(shown, 3)
