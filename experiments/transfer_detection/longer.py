r"""Average precision on the way of a longer training of all patch sizes.

python -m experiments.transfer_detection.longer --workdir=/tmp/curves --seeds=0

Trains `boxes_any_size` of run.py for more steps, in its workdir, and evaluates
it several times: it tells what a better detector would take. The same command
goes on where it stopped.
"""

from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_detection import config, pictures
from tokenlearner_flexivit.figures import drawing, table
from tokenlearner_flexivit.run import metric_log

_COLORS = ("#e69f00", "#d55e00", "#cc79a7", "#0072b2")


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each evaluation at each patch size."""
  logs = [
    {
      record["step"]: record
      for record in metric_log.read(done.folder(config.LONGER, seed))
      if any(key.startswith("test/") for key in record)
    }
    for seed in done.asked.seeds
  ]
  return [
    {"step": step, "patch_size": size}
    | {
      metric: seeds.spread(
        log[step][f"test/patch{size}/{metric}"] for log in logs
      )
      for metric in pictures.METRICS
    }
    for step in logs[0]
    for size in done.scale.box_sizes
  ]


def by_size(rows: list[study.Row], metric: str) -> dict[int, curves.Curve]:
  """Returns the values of the seeds by step, for each patch size."""
  measured = {}
  for row in rows:
    curve = measured.setdefault(row["patch_size"], {})
    curve[row["step"]] = row[metric]["by_seed"]
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Judges the precision after the last step, at the smallest patch size."""
  fine = outcome.scale.box_sizes[-1]
  curve = by_size(outcome.rows, "AP50_seen")[fine]
  last = max(curve)
  values = [100 * value for value in curve[last]]
  return [
    seeds.claim(
      f"after {last} steps, AP50 of seen names at {fine} is above "
      f"{config.SEEN_GOAL} %",
      "this project's goal",
      f"> {config.SEEN_GOAL} %",
      f"{curves.percent(curve, last):.1f} %",
      [value - config.SEEN_GOAL for value in values],
    )
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: figure, and a table per metric."""
  parts = [f"![average precisions by step](longer{outcome.suffix}.png)"]
  for metric, title in pictures.METRICS.items():
    measured = by_size(outcome.rows, metric)
    parts.append(
      table.markdown(
        [
          {
            f"{title} in %, after steps": step,
            **{
              f"/{size}": f"{curves.percent(curve, step):.1f}"
              for size, curve in measured.items()
            },
          }
          for step in measured[outcome.scale.box_sizes[0]]
        ]
      )
    )
  return {f"longer training of {outcome.scale_name}": "\n\n".join(parts)}


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file: average precisions over steps."""
  figure = drawing.Figure(figsize=(17, 4.8), layout="constrained")
  panels = figure.subplots(1, len(pictures.METRICS))
  for axes, (metric, title) in zip(
    panels, pictures.METRICS.items(), strict=True
  ):
    measured = by_size(outcome.rows, metric)
    for (size, curve), color in zip(measured.items(), _COLORS, strict=True):
      values = [curves.percent(curve, step) for step in curve]
      axes.plot(
        list(curve), values, "o-", color=color, label=f"patch size {size}"
      )
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    study.tidy(axes)
  panels[0].set_ylabel("%")
  study.legend_below(figure, panels[0])
  return {f"longer{outcome.suffix}.png": figure}


STUDY = study.Study(
  name="transfer_detection",
  module="experiments.transfer_detection.longer",
  file="longer",
  scales={"cpu": config.SCALES["cpu"]},
  cells=lambda _, scale: config.needs_of_longer(scale),
  arguments=study.in_workdir,
  is_whole=lambda asked: 0 in asked.seeds,
  rows=rows,
  claims=claims,
  tables=tables,
  figures=figures,
)

if __name__ == "__main__":
  STUDY.start()
