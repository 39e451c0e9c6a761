"""What every variant costs, beside the figures that others published.

python -m experiments.cost.run

Nothing is trained, nor even run: the figures are closed forms, each checked
against the operations that XLA counts in the same model.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import seeds, study
from experiments.cost import published
from tokenlearner_flexivit.figures import drawing, table
from tokenlearner_flexivit.models import cost

WITHIN = 0.02  # How far our figure may be from another.


def closed_form(setting: published.Setting) -> dict[str, Any]:
  """Returns a row as far as arithmetic goes; deviations are relative."""
  model = setting.model
  seq_lens = model.seq_lens(setting.size, setting.patch_size)
  count = cost.operations(model, *setting.call)
  row = {
    "table": setting.table,
    "model": setting.name,
    "image_size": setting.image_size,
    "patch_size": setting.patch_size or model.patch_size[-1],
    "tokens": seq_lens[0],
    "params": cost.num_params(model),
    "gmacs": cost.macs(model, *setting.call) / 1e9,
    "operations": count,
    "published_params_m": setting.params_m,
    "published_gmacs": setting.gmacs,
    "source": setting.source,
  }
  if setting.num_frames:
    row["num_frames"] = setting.num_frames
  if setting.params_m:
    row["params_deviation"] = row["params"] / setting.params_m / 1e6 - 1
  if setting.gmacs:
    row["gmacs_deviation"] = row["gmacs"] / setting.gmacs - 1
  if setting.table == "flexivit":
    for s in (16, 8):
      learner = dict(layer=model.depth // 2, num_tokens=s)
      learned = model.clone(token_learner=learner)
      row[f"gmacs_{s}_tokens"] = cost.macs(learned, *setting.call) / 1e9
  return row


def check(setting: published.Setting, row: dict[str, Any]) -> dict[str, Any]:
  """Returns what XLA counts, and how far a row is from that."""
  image_shape, _ = setting.call
  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  params = jax.eval_shape(setting.model.init, jax.random.key(0), images)
  counted = cost.xla_operations(setting.model, *setting.call)
  return {
    "params_of_init": sum(p.size for p in jax.tree.leaves(params)),
    "xla_operations": counted,
    "xla_deviation": sum(row["operations"].values()) / counted - 1,
    "xla_deviation_of_matmul": row["operations"]["matmul"] / counted - 1,
  }


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each setting."""
  del done
  closed = [(s, closed_form(s)) for s in published.settings()]
  return [row | check(setting, row) for setting, row in closed]


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns claims of all rows, then one for every published figure."""
  return _claims_on_closed_forms(outcome.rows) + _claims_on_published(
    outcome.rows
  )


def _claims_on_published(rows: Sequence[study.Row]) -> list[study.Row]:
  judged = []
  for row in rows:
    where = f"{row['model']} at {row['image_size']} px"
    if row["table"] == "flexivit":
      where = f"FlexiViT-{where}, patch size {row['patch_size']}"
    for what, expected, measured in (
      ("parameters in 10^6", row["published_params_m"], row["params"] / 1e6),
      ("multiply-adds in 10^9", row["published_gmacs"], row["gmacs"]),
    ):
      if expected:
        judged.append(
          seeds.claim(
            f"{where}: {what}",
            row["source"],
            f"{expected:g} within {WITHIN:.0%}",
            measured,
            WITHIN - abs(measured / expected - 1),
          )
        )
  return judged


def _claims_on_closed_forms(rows: Sequence[study.Row]) -> list[study.Row]:
  """Judges the closed forms by what JAX and XLA find, over all rows."""
  largest = {
    key: max(abs(row[key]) for row in rows)
    for key in ("xla_deviation", "xla_deviation_of_matmul")
  }
  init_deviation = max(
    abs(row["params"] - row["params_of_init"]) for row in rows
  )
  return [
    seeds.claim(
      f"{text}, largest deviation of {len(rows)} rows",
      "this project's goal",
      expected,
      measured,
      within - measured,
    )
    for text, expected, measured, within in (
      ("parameters in closed form are those of init", "0", init_deviation, 0),
      (
        "operations in closed form are XLA's count",
        f"<= {WITHIN}",
        largest["xla_deviation"],
        WITHIN,
      ),
      (
        "matrix products alone are XLA's count of a batch of one",
        f"<= {WITHIN}",
        largest["xla_deviation_of_matmul"],
        WITHIN,
      ),
    )
  ]


def _percent(deviation: float | None, digits: int = 1) -> str:
  if deviation is None:
    return ""
  return f"{round(100 * deviation, digits) + 0.0:+.{digits}f} %"  # No -0.0.


def _plain(value: float | None) -> str:
  return "" if value is None else f"{value:g}"


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the tables of the README."""
  by_table = {}
  for row in outcome.rows:
    by_table.setdefault(row["table"], []).append(row)

  variants = [
    {
      "variant": f"{row['model']}, {row['image_size']} px",
      "tokens": row["tokens"],
      "10⁶ parameters": f"{row['params'] / 1e6:.2f}",
      "timm": _plain(row["published_params_m"]),
      "10⁹ multiply-adds": f"{row['gmacs']:.2f}",
      "timm's": _plain(row["published_gmacs"]),
      "deviation": _percent(row.get("gmacs_deviation")),
      "10⁹ operations": f"{sum(row['operations'].values()) / 1e9:.2f}",
      "XLA's": f"{row['xla_operations'] / 1e9:.2f}",
      "no matrix product": f"{-100 * row['xla_deviation_of_matmul']:.2f} %",
    }
    for row in by_table["variants"]
  ]
  flexi = {}
  for row in by_table["flexivit"]:
    cells = flexi.setdefault(
      row["patch_size"],
      {"patch size": row["patch_size"], "tokens": row["tokens"]},
    )
    cells[row["model"]] = f"{row['gmacs']:.2f}"
    cells[f"{row['model']}, 16"] = f"{row['gmacs_16_tokens']:.2f}"
    cells[f"{row['model']}, 8"] = f"{row['gmacs_8_tokens']:.2f}"
  papers = [
    {
      "model": row["model"],
      "pixels": row["image_size"],
      "published": _plain(row["published_gmacs"]),
      "ours": f"{row['gmacs']:.2f}",
      "deviation": _percent(row["gmacs_deviation"]),
    }
    for row in by_table["papers"]
  ]
  params = [
    {
      "model": row["model"],
      "published": _plain(row["published_params_m"]),
      "ours": f"{row['params'] / 1e6:.2f}",
      "deviation": _percent(row["params_deviation"], 2),
    }
    for row in by_table["params"]
  ]
  videos = [
    {
      "model": row["model"],
      "pixels": row["image_size"],
      "tokens": row["tokens"],
      "10⁶ parameters": f"{row['params'] / 1e6:.1f}",
      "reported": _plain(row["published_gmacs"]),
      "ours": f"{row['gmacs']:.1f}",
      "deviation": _percent(row.get("gmacs_deviation")),
      "10⁹ operations": f"{sum(row['operations'].values()) / 1e9:.1f}",
      "XLA's": f"{row['xla_operations'] / 1e9:.1f}",
    }
    for row in by_table["videos"]
  ]
  shown = dict(
    variants=variants,
    flexivit=list(flexi.values()),
    papers=papers,
    params=params,
    videos=videos,
  )
  return {
    f"table of {name}": table.markdown(part) for name, part in shown.items()
  }


def draw(rows: Sequence[study.Row]) -> drawing.Figure:
  """Returns cost against patch size, with and without learned tokens."""
  figure = drawing.Figure(figsize=(7, 5), layout="constrained")
  axes = figure.subplots()
  colors = {"S": "#0072b2", "B": "#009e73", "L": "#d55e00"}
  styles = {"gmacs": "-", "gmacs_16_tokens": "--", "gmacs_8_tokens": ":"}
  for variant, color in colors.items():
    mine = [
      row
      for row in rows
      if (row["table"], row["model"]) == ("flexivit", variant)
    ]
    for key, style in styles.items():
      axes.plot(
        [row["patch_size"] for row in mine],
        [row[key] for row in mine],
        style,
        color=color,
        marker="o" if key == "gmacs" else None,
        markersize=4,
      )
    axes.annotate(
      f"ViT-{variant}",
      (mine[-1]["patch_size"], mine[-1]["gmacs"]),
      textcoords="offset points",
      xytext=(8, 0),
      va="center",
      color=color,
      weight="bold",
    )
  axes.legend(
    handles=[
      drawing.lines.Line2D(
        [], [], color="#555555", linestyle=style, label=label
      )
      for style, label in zip(
        styles.values(),
        ("all tokens", "16 learned tokens", "8 learned tokens"),
        strict=True,
      )
    ],
    title="in the second half of the blocks",
    loc="upper left",
    frameon=False,
  )
  axes.set_xscale("log")
  axes.set_yscale("log")
  # Coarse patches, which are cheap, on the left; 15 would run into 16.
  shown = [p for p in published.PATCH_SIZES if p != 15]
  axes.set_xticks(shown, [str(p) for p in shown])
  axes.xaxis.set_minor_locator(drawing.ticker.NullLocator())
  axes.set_xlim(54, 6.6)
  axes.yaxis.set_major_formatter(drawing.ticker.FormatStrFormatter("%g"))
  axes.set_xlabel("patch size in pixels, of a 240-pixel image (log scale)")
  axes.set_ylabel("multiply-adds per image in 10⁹ (log scale)")
  axes.set_title("Two dials of cost: patch size and learned tokens")
  study.tidy(axes)
  return figure


STUDY = study.Study(
  name="cost",
  is_whole=lambda asked: True,
  rows=rows,
  claims=claims,
  tables=tables,
  figures=lambda outcome: {"figure.png": draw(outcome.rows)},
)

if __name__ == "__main__":
  STUDY.start()
