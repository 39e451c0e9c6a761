"""A run that is killed or harmed ends as one that nothing disturbed.

python -m experiments.reliability.run --workdir=/tmp/reliability

A small run of the quickstart is killed at random moments, each time started
again by the same command until it ends, and then compared bit by bit with an
undisturbed one; so are runs that meet other faults. The same command goes on
where it stopped: what is in the workdir is not run again. With --processes=2
two processes work on each run and one of them is killed; both have their rows
in results.json if they share the workdir.
"""

import concurrent.futures
import functools
import json
import pathlib
import platform
from typing import Any

import jax
from absl import app, flags, logging
from matplotlib import figure as mpl_figure
from matplotlib import lines

from experiments import study
from experiments.reliability import compare, faults, kills, program
from tokenlearner_flexivit.figures import table

HERE = pathlib.Path(__file__).parent
WHOLE_KILLS = 100  # Of the committed results.
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per run.")
_KILLS = flags.DEFINE_integer(
  "kills", 3, "Runs, each killed at least once.", lower_bound=1
)
_PROCESSES = flags.DEFINE_integer(
  "processes", 1, "Processes that work on a run.", 1, program.MAX_PROCESSES
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time.", lower_bound=1)
_FAULTS = flags.DEFINE_bool("faults", True, "Also the faults that kill not.")
flags.mark_flag_as_required("workdir")

Row = dict[str, Any]


def measure_undisturbed(folder: pathlib.Path, processes: int, jobs: int) -> Row:
  """Runs without faults: once on a new machine, then `jobs` at a time.

  Args:
    folder: gets the runs.
    processes: that work on a run.
    jobs: as many as will run at a time later, so that times are alike.

  Returns:
    `reference`, `timeline`, `cold_seconds` as in `kills.World`, and what
    differs between these runs in `differs`.
  """
  cache = folder / "compiled"
  reference, cold = kills.undisturbed(
    folder / "undisturbed",
    cache,
    processes,
    environment={"TFDS_DATA_DIR": str(folder / "data")},
  )

  def again(number):
    return kills.undisturbed(folder / f"undisturbed{number}", cache, processes)

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    others = list(pool.map(again, range(jobs)))
  timelines = [timeline for _, timeline in others]
  return {
    "reference": reference,
    "timeline": {
      key: sum(t[key] for t in timelines) / jobs for key in timelines[0]
    },
    "cold_seconds": cold["all"],
    "differs": [compare.differences(reference, other) for other, _ in others],
  }


def do_all(
  folder: pathlib.Path, *, processes: int, jobs: int, count: int, harm: bool
) -> None:
  """Does what is not done yet; prints a line for each row as it comes.

  Args:
    folder: gets runs and rows.
    processes: that work on a run.
    jobs: runs at a time.
    count: runs to kill.
    harm: whether to do the other faults too.

  Raises:
    RuntimeError: without faults runs fail or differ.
  """
  (folder / "rows").mkdir(parents=True, exist_ok=True)
  measured = study.stored(
    folder / "undisturbed.json",
    lambda: measure_undisturbed(folder, processes, jobs),
  )
  if any(measured["differs"]):
    raise RuntimeError(
      f"Undisturbed runs differ from one another: {measured['differs']}. "
      "Nothing can be said of disturbed ones."
    )
  world = kills.World(
    folder=folder,
    cache=folder / "compiled",
    processes=processes,
    reference=measured["reference"],
    timeline=measured["timeline"],
    cold_seconds=measured["cold_seconds"],
  )
  seconds = ", ".join(f"{k} {v:.2f}" for k, v in world.timeline.items())
  print(
    f"Undisturbed, in seconds: {seconds}; on a new machine "
    f"{world.cold_seconds:.1f}",
    flush=True,
  )
  work = {
    f"run{i:03}": lambda i=i: kills.killed_run(world, i) for i in range(count)
  }
  if harm:
    for do in faults.of(processes):
      work[do.__name__] = lambda do=do: faults.row(world, do)
  paths = {name: folder / "rows" / f"{name}.json" for name in work}
  study.do_all(
    {
      name: functools.partial(study.stored, path, work[name])
      for name, path in paths.items()
      if not path.exists()
    },
    jobs,
    _outcome,
  )


def _outcome(row: Row) -> str:
  if "fault" in row:
    return f"{'holds' if row['holds'] else 'DOES NOT HOLD'}: {row['seen']}"
  struck = ", ".join(
    f"{kill['signal']} at {kill['second']:.1f} s"
    f"{' while saving' if kill['while_saving'] else ''}"
    for kill in row["kills"]
  )
  if row["error"]:
    return f"{struck}: FAILED, {row['error']}"
  if row["differs"]:
    return f"{struck}: DIFFERS in {', '.join(row['differs'])}"
  return f"{struck}: equal"


def claims(rows: list[Row]) -> list[Row]:
  """What the rows say of the goals."""
  found = []

  def claim(text, measured, of):
    found.append(
      {
        "claim": text,
        "source": "this project's goal",
        "expected": f"{of} of {of}",
        "measured": f"{measured} of {of}",
        "holds": measured == of,
      }
    )

  for processes in sorted({row["processes"] for row in rows}):
    where = f"{processes} process{'es' if processes > 1 else ''}"
    killed = [r for r in rows if "kills" in r and r["processes"] == processes]
    for part in compare.PARTS if killed else ():
      claim(
        f"{where}: killed runs with the {part} of an undisturbed one, bit by "
        "bit",
        sum(not r["error"] and part not in r["differs"] for r in killed),
        len(killed),
      )
    struck = [kill for r in killed for kill in r["kills"]]
    terms = [k for k in struck if k["signal"] == "SIGTERM" and kills.in_loop(k)]
    if terms:
      claim(
        f"{where}: SIGTERM while training saved and exited with 75, or 0 where "
        "no step was left",
        sum(k["exit_codes"][k["victim"]] in (75, 0) for k in terms),
        len(terms),
      )
    if processes > 1 and killed:
      claim(
        f"{where}: the others ended within {kills.OTHERS_STOP_WITHIN} s, "
        f"before the training within {kills.OTHERS_GIVE_UP_WITHIN} s",
        sum(None not in kill["exit_codes"] for kill in struck),
        len(struck),
      )
  for row in rows:
    if "fault" in row:
      found.append(
        {
          "claim": f"{row['fault']}: {row['expected']}",
          "source": "this project's goal",
          "expected": "as claimed, and the result of an undisturbed run",
          "measured": row["seen"],
          "holds": row["holds"],
        }
      )
  return found


def tables(rows: list[Row]) -> str:
  """The tables of the README: kills by signal and moment, then faults."""
  counts = {}
  for row in (r for r in rows if "kills" in r):
    equal = not (row["error"] or row["differs"])
    for kill in row["kills"]:
      what = _when(kill)
      key = row["processes"], kill["signal"], what
      count = counts.setdefault(key, {"kills": 0, "equal": 0, "seconds": 0.0})
      count["kills"] += 1
      count["equal"] += equal
      count["seconds"] = max(count["seconds"], kill["seconds_to_end"])
  parts = [
    [
      {
        "processes": processes,
        "signal": name,
        "during": what,
        "kills": count["kills"],
        "run ended equal": count["equal"],
        "seconds to exit, at most": f"{count['seconds']:.1f}",
      }
      for (processes, name, what), count in sorted(counts.items())
    ],
    [
      {
        "fault": row["fault"],
        "what must happen": row["expected"],
        "holds": "yes" if row["holds"] else f"no: {row['seen']}",
      }
      for row in rows
      if "fault" in row
    ],
  ]
  return "\n\n".join(table.markdown(part) for part in parts if part)


def _when(kill: Row) -> str:
  """What a run was doing when it was killed."""
  if kill["while_saving"]:
    return "saving"
  if not kill["training"]:
    return "start"
  return "end" if kill["step"] == program.TOTAL_STEPS else "training"


def draw(rows: list[Row], path: pathlib.Path) -> None:
  """Draws when each kill came, and whether its run ended equal."""
  figure = mpl_figure.Figure(figsize=(7, 4), layout="constrained")
  axes = figure.subplots()
  colors = {
    "start": "#999999",
    "training": "#0072b2",
    "saving": "#d55e00",
    "end": "#009e73",
  }
  markers = {"SIGKILL": "o", "SIGTERM": "^"}
  killed = [row for row in rows if "kills" in row]
  for y, row in enumerate(killed):
    equal = not (row["error"] or row["differs"])
    x = 0.0
    for kill in row["kills"]:
      axes.plot([x, x + kill["second"]], [y, y], color="#cccccc", lw=0.8)
      x += kill["second"]
      axes.plot(
        x,
        y,
        markers[kill["signal"]],
        color=colors[_when(kill)],
        markersize=4,
        fillstyle="full" if equal else "none",
      )
  handles = [
    lines.Line2D([], [], marker="s", ls="", color=color, label=label)
    for label, color in colors.items()
  ] + [
    lines.Line2D([], [], marker=marker, ls="", color="#333333", label=label)
    for label, marker in markers.items()
  ]
  axes.legend(handles=handles, frameon=False, fontsize=9, loc="center right")
  axes.set_xlabel("seconds that a run had worked, over all its starts")
  axes.set_ylabel("run")
  equal = sum(not (row["error"] or row["differs"]) for row in killed)
  axes.set_title(
    f"{sum(len(row['kills']) for row in killed)} kills: {equal} of "
    f"{len(killed)} runs end bit by bit as if there were none"
  )
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=120)


def gather(workdir: pathlib.Path) -> list[Row]:
  """Returns all rows in the workdir, kills first."""
  paths = sorted(workdir.glob("processes*/rows/*.json"))
  rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
  return sorted(rows, key=lambda row: "fault" in row)


def main(argv: list[str]) -> None:
  """Does the runs; writes results.json, figure.png and the tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  jax.config.update("jax_platforms", "cpu")  # It only reads checkpoints.
  workdir = pathlib.Path(_WORKDIR.value).absolute()
  processes = _PROCESSES.value
  folder = workdir / f"processes{processes}"
  do_all(
    folder,
    processes=processes,
    jobs=_JOBS.value,
    count=_KILLS.value,
    harm=_FAULTS.value,
  )
  rows = gather(workdir)
  results = {
    "command": "python -m experiments.reliability.run --workdir=WORKDIR "
    f"--processes={processes} --kills={_KILLS.value}",
    "seeds": [0],
    "hardware": f"{platform.machine()}, {jax.device_count()} x "
    f"{jax.devices()[0].device_kind}",
    "seconds": sum(row["seconds"] for row in rows),
    "rows": rows,
    "claims": claims(rows),
  }
  folder = study.results_folder(
    HERE, workdir, whole=_KILLS.value >= WHOLE_KILLS and _FAULTS.value
  )
  (folder / "results.json").write_text(
    json.dumps(results, indent=2) + "\n", encoding="utf-8"
  )
  draw(rows, folder / "figure.png")
  print(tables(rows))
  for claim in results["claims"]:
    if not claim["holds"]:
      print(f"DOES NOT HOLD: {claim['claim']}: {claim['measured']}")


if __name__ == "__main__":
  app.run(main)
