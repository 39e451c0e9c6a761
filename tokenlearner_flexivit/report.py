"""The report of a run: a table, a JSON file and a picture of every setting."""

import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from tokenlearner_flexivit import experiment as experiment_lib
from tokenlearner_flexivit import metric_log, progress, table
from tokenlearner_flexivit import workdir as workdir_lib
from tokenlearner_flexivit.analysis import flops, plane, token_maps, video_maps

Row = dict[str, Any]
# What costs are of. A video may be seen in several views, an image is one.
_VIEW = {"image": "image", "video": "view"}


def _cost(model, image_shape, setting) -> Row:
  grid = model.check(image_shape[:-1], *setting)
  patch_size = (setting.patch_size or model.patch_size)[-2:]
  return {
    **setting._replace(patch_size=patch_size).row,
    # Of the image, or view, before TokenLearner, and a cls token.
    "seq_len": math.prod(grid) + int(model.pool == "tok"),
    "gmacs": flops.macs(model, image_shape, *setting) / 1e9,
  }


def cost_table(experiment: experiment_lib.Experiment) -> str:
  """The cost of every setting, for the start of a run."""
  drawn_from, model = experiment.dials, experiment.task.model
  rows = []
  for setting, share in zip(
    drawn_from.settings, drawn_from.shares, strict=True
  ):
    row = _cost(model, experiment.image_shape, setting)
    rows.append(
      {
        **_shown_setting(row),
        f"GMACs/{_VIEW[model.input]}": f"{row['gmacs']:.4g}",
        "share of steps": f"{share:.2f}",
      }
    )
  return table.markdown(rows)


def one_line(
  experiment: experiment_lib.Experiment,
  name: str,
  values: dict[str, float],
  step: int,
  seconds: float,
) -> str:
  """One evaluation as a line: the headline of each setting in percent."""
  evaluator = experiment.evaluators[name]
  shown = "  ".join(
    f"{setting.name.removeprefix('patch')}: "
    f"{100 * values[f'{setting.name}/{evaluator.headline}']:.2f}"
    for setting in evaluator.settings
  )
  title = f"{name} {evaluator.headline} in %"
  return f"step {step}  {title}  {shown}  ({seconds:.1f} s)"


def setting_rows(
  experiment: experiment_lib.Experiment,
  name: str,
  params: Any,
  values: dict[str, float],
) -> list[Row]:
  """Joins the metrics of an evaluator with costs and measured throughput.

  Args:
    experiment: the run.
    name: of the evaluator.
    params: replicated.
    values: what it yielded.

  Returns:
    A row per setting, as in report.json. Of a model for videos `seq_len` and
    `gmacs` are of one view, and `images_per_s` counts videos with all views.
  """
  evaluator = experiment.evaluators[name]
  throughput = evaluator.throughput(params)
  rows = []
  for setting in evaluator.settings:
    row = _cost(experiment.task.model, evaluator.image_shape, setting)
    prefix = f"{setting.name}/"
    row |= {
      key.removeprefix(prefix): value
      for key, value in values.items()
      if key.startswith(prefix)
    }
    rows.append(row | {"images_per_s": throughput[setting]})
  return rows


def other_rows(
  experiment: experiment_lib.Experiment, name: str, values: dict[str, float]
) -> list[Row]:
  """The metrics of what is no setting, such as a teacher or an ensemble.

  Args:
    experiment: the run.
    name: of the evaluator.
    values: what it yielded.

  Returns:
    A row for each: its `name`, and its metrics.
  """
  settings = {setting.name for setting in experiment.evaluators[name].settings}
  rows = {}
  for key, value in values.items():
    owner, _, metric = key.partition("/")
    if owner not in settings:
      rows.setdefault(owner, {"name": owner})[metric] = value
  return list(rows.values())


def markdown(rows: Sequence[Row], kind: str = "image") -> str:
  """The rows as a table, accuracies in percent, spreads beside their means.

  Args:
    rows: see `setting_rows`.
    kind: what the model sees, "image" or "video".
  """
  return table.markdown(
    [
      {
        **_shown_setting(row),
        "GMACs": f"{row['gmacs']:.4g}",
        **dict(_shown_metrics(row)),
        # Videos with all their views may be few.
        f"{kind}s/s": f"{(s := row['images_per_s']):.{0 if s >= 10 else 2}f}",
      }
      for row in rows
    ]
  )


def _shown_setting(row: Row) -> dict[str, Any]:
  """The first columns of a row; numbers of tokens only if they are chosen."""
  shown = {"patch size": row["patch_size"], "tokens": row["seq_len"]}
  if row["num_tokens"] is not None:
    shown["learned"] = row["num_tokens"]
  return shown


def _markdown_of_others(rows: Sequence[Row]) -> str:
  return table.markdown(
    [
      {
        "": row["name"],
        **({"GMACs": f"{row['gmacs']:.4g}"} if "gmacs" in row else {}),
        **dict(_shown_metrics(row)),
      }
      for row in rows
    ]
  )


def _shown_metrics(row: Row) -> Iterator[tuple[str, str]]:
  """Yields column and cell of each metric of a row."""
  titles = {
    "accuracy": "accuracy",
    "single_accuracy": "best single",  # At no more than an ensemble's cost.
    "top5": "top-5",
    "mAP": "mAP",
    "agree1": "agree@1",
    "agree5": "agree@5",
  }
  titles |= {key: key for key in row if key.endswith(("shot", "shot_tuned"))}
  for key, title in titles.items():
    if key in row:
      spread = row.get(f"{key}_std")
      behind = "" if spread is None else f" ± {100 * spread:.2f}"
      yield f"{title} %", f"{100 * row[key]:.2f}{behind}"
  titles = {"loss": "loss", "ece": "ECE", "kl": "KL", "binary_kl": "binary KL"}
  titles["logsoftmax_euclidean"] = "log-softmax L2"
  for key, title in titles.items():
    if key in row:
      yield title, f"{row[key]:.4f}"


def draw(
  rows: Sequence[Row],
  path: pathlib.Path,
  title: str,
  headline: str,
  kind: str = "image",
) -> None:
  """Draws a metric against patch size, cost, tokens and throughput.

  Args:
    rows: see `setting_rows`.
    path: of the picture.
    title: of the picture.
    headline: the metric.
    kind: what the model sees, "image" or "video".
  """
  names = [
    str(r["patch_size"])
    if isinstance(r["patch_size"], int)
    else "x".join(map(str, r["patch_size"]))
    for r in rows
  ]
  accuracy = [100 * r[headline] for r in rows]
  macs = [1e3 * r["gmacs"] for r in rows]
  speed = [r["images_per_s"] for r in rows]
  panels = (
    ("patch size in pixels", range(len(rows)), "#0072b2"),
    (f"multiply-adds per {_VIEW[kind]} in 10⁶", macs, "#d55e00"),
    (f"tokens per {_VIEW[kind]}", [r["seq_len"] for r in rows], "#009e73"),
    (f"{kind}s per second, measured", speed, "#cc79a7"),
  )
  # Without pyplot: a notebook keeps its backend, and no window is needed.
  figure = mpl_figure.Figure(figsize=(9, 6.5), layout="constrained")
  grid = figure.subplots(2, 2, sharey=True)
  for axes, (label, values, color) in zip(grid.flat, panels, strict=True):
    axes.plot(values, accuracy, "o-", color=color)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.margins(x=0.08, y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    if label.startswith("patch"):
      axes.set_xticks(values, names)
      continue
    axes.set_xscale("log")
    # Few plain numbers: the default labels of a short range overlap.
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    for name, x, y in zip(names, values, accuracy, strict=True):
      axes.annotate(
        f"/{name}",
        (x, y),
        textcoords="offset points",
        xytext=(0, 7),
        ha="center",
      )
  for axes in grid[:, 0]:
    axes.set_ylabel(f"{headline} in %")
  figure.suptitle(title)
  figure.savefig(path, dpi=120)


def _joined(tables: dict[str, list[Row]], first: str) -> list[Row]:
  """The rows of one evaluator, with metrics of others as `name/metric`."""
  rows = [dict(row) for row in tables[first]]
  for name, others in tables.items():
    for row, other in itertools.product(rows, others if name != first else ()):
      if all(other[k] == row[k] for k in ("patch_size", "num_tokens")):
        row |= {f"{name}/{k}": v for k, v in other.items() if k not in row}
  return rows


def write(
  experiment: experiment_lib.Experiment,
  workdir: pathlib.Path,
  params: Any,
  results: dict[str, dict[str, float]],
) -> dict[str, Any] | None:
  """Writes report.md, report.json and a picture; prints the table.

  The picture is patch_sizes.png, or plane.png where there are several numbers
  of learned tokens.

  The first evaluator of accuracy, or just the first, is the report's; others
  get a table each, and a place in its rows of report.json.

  Args:
    experiment: the run.
    workdir: gets the files.
    params: the evaluated parameters, replicated.
    results: metrics by evaluator and name.

  Returns:
    What report.json holds, or None if the config has no evaluator.
  """
  if not results:
    return None
  tables = {
    name: setting_rows(experiment, name, params, values)
    for name, values in results.items()
  }
  if jax.process_index() > 0:
    return None
  others = {
    name: rows
    for name, values in results.items()
    if (rows := other_rows(experiment, name, values))
  }
  log = [r for r in metric_log.read(workdir) if "train_seconds" in r]
  # A ConfigDict sorts its keys: no name may push the accuracy aside.
  first = min(
    tables,
    key=lambda n: (
      experiment.evaluators[n].headline != "accuracy",
      n in others,  # Ensembles after plain accuracy.
    ),
  )
  report = {
    "evaluation": first,
    "headline": experiment.evaluators[first].headline,
    "num_examples": experiment.evaluators[first].num_examples,
    "image_shape": list(experiment.evaluators[first].image_shape),
    "settings": _joined(tables, first),
    "evals": tables,
    "others": others,  # Of what is no setting: teachers, ensembles.
    "train": {
      "steps": log[-1]["step"] if log else 0,
      "seconds": log[-1]["train_seconds"] if log else 0.0,
    },
    "num_params": sum(x.size for x in jax.tree.leaves(params)),
    "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "date": time.strftime("%Y-%m-%d"),
    "config": experiment.config,
  }
  workdir_lib.write_json(workdir / workdir_lib.REPORT_FILE, report)
  data = experiment.config["data"]["name"]
  rows = tables[first]
  headline = experiment.evaluators[first].headline
  kind = experiment.task.model.input
  # Of one number of tokens there is no plane.
  if len({row["num_tokens"] for row in rows}) > 1:
    title = f"{data}: one model, {len(rows)} settings"
    plane.draw(rows, workdir / "plane.png", title, headline)
    pictures = "![accuracy by patch size and learned tokens](plane.png)\n\n"
  else:
    title = f"{data}: one model, {len(rows)} patch sizes"
    draw(rows, workdir / "patch_sizes.png", title, headline, kind)
    pictures = "![accuracy against patch size and cost](patch_sizes.png)\n\n"
  maps = {"image": token_maps, "video": video_maps}[kind]
  if maps.draw_run(
    workdir / "token_maps.png",
    experiment.config,
    experiment.task.model,
    params,
  ):
    pictures += "![where learned tokens look](token_maps.png)\n\n"
    if kind == "video":
      pictures += "![the same in time](token_maps.gif)\n\n"
  sections = []
  for name, rows in tables.items():
    count = experiment.evaluators[name].num_examples
    shown = markdown(rows, kind)
    if name in others:
      shown += f"\n\n{_markdown_of_others(others[name])}"
    sections.append(f"## {name} ({count} {kind}s)\n\n{shown}\n")
    progress.say(f"\n{name}, {count} {kind}s:\n{shown}")
  train = report["train"]
  text = (
    f"# {title}\n\n{report['num_params']:,} parameters, {train['steps']} steps "
    f"in {progress.duration(train['seconds'])} on {report['hardware']}.\n\n"
    f"{pictures}GMACs are multiply-adds per {_VIEW[kind]} (in the FlexiViT "
    f"paper's GFLOPs, twice as many); {kind}s/s is one batch's evaluation on "
    "this hardware, median of interleaved runs.\n\n"
  )
  (workdir / "report.md").write_text(
    text + "\n".join(sections), encoding="utf-8"
  )
  progress.say(f"\nReport: {workdir / 'report.md'}")
  return report
