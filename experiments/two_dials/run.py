r"""Both dials in one model, against each alone and against fixed models.

python -m experiments.two_dials.run --workdir=/tmp/two_dials --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them, without results.
"""

import itertools
import json
import pathlib

from absl import app, flags, logging

from experiments import study
from experiments.two_dials import cells, claims, pictures, planes, summary

HERE = pathlib.Path(__file__).parent
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per run.")
_SCALE = flags.DEFINE_enum("scale", "cpu", list(cells.SCALES), "How large.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each cell.")
_CELLS = flags.DEFINE_list("cells", [], "Only these, joined by commas.")
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at a time, each with its share of the cores.", lower_bound=1
)
flags.mark_flag_as_required("workdir")


def run_of(cell: str, seed: int, scale: str) -> study.Run:
  """The training run of a cell with a seed."""
  file = (HERE / "config.py").relative_to(study.ROOT)
  return study.Run(
    f"{scale}_{cell}_{seed}", f"{file}:cell={cell},seed={seed},scale={scale}"
  )


def accuracies(report: study.Report) -> str:
  """The result of a run in a few words."""
  values = [100 * row["accuracy"] for row in report["settings"]]
  if len(values) == 1:
    return f"{values[0]:.1f} %"
  return f"{min(values):.1f} to {max(values):.1f} %"


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, the picture and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  scale = cells.SCALES[_SCALE.value]
  seeds = [int(seed) for seed in _SEEDS.value]
  known = cells.of(scale)
  if unknown := set(_CELLS.value) - set(known):
    raise app.UsageError(
      f"--cells={','.join(sorted(unknown))}: known are {', '.join(known)}."
    )
  names = _CELLS.value or list(known)
  # Seed by seed: what is there early is one of everything.
  runs = {
    (name, seed): run_of(name, seed, _SCALE.value)
    for seed, name in itertools.product(seeds, names)
  }
  reports = study.train_all(
    list(runs.values()), pathlib.Path(_WORKDIR.value), _JOBS.value, accuracies
  )
  if _CELLS.value:
    return
  trained = {
    name: planes.of_reports(
      known[name], [reports[runs[name, seed].name] for seed in seeds]
    )
    for name in names
  }
  speed = summary.speed(scale)
  results = {
    "command": "python -m experiments.two_dials.run --workdir=WORKDIR "
    f"--scale={_SCALE.value} --seeds={','.join(_SEEDS.value)} "
    f"--jobs={_JOBS.value}",
    "seeds": seeds,
    "hardware": study.hardware(reports.values()),
    "seconds": sum(r["train"]["seconds"] for r in reports.values()),
    "rows": summary.rows(scale, trained, speed),
    "claims": claims.claims(scale, trained, speed),
  }
  suffix = "" if _SCALE.value == "cpu" else f"_{_SCALE.value}"
  (HERE / f"results{suffix}.json").write_text(
    json.dumps(results, indent=2) + "\n"
  )
  pictures.draw(scale, trained, speed, HERE / f"figure{suffix}.png")
  text = summary.tables(results["rows"], results["claims"])
  study.fill_in(HERE / "README.md", f"tables of {_SCALE.value}", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
