"""What every variant costs, beside the figures that others published.

python -m experiments.cost.run

Nothing is trained, nor even run: the figures are closed forms, each checked
against the operations that XLA counts in the same model.
"""

import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import app, logging
from matplotlib import figure as mpl_figure
from matplotlib import lines, ticker

from experiments.cost import published
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.models import cost

HERE = pathlib.Path(__file__).parent
WITHIN = 0.02  # How far our figure may be from another.


def closed_form(setting: published.Setting) -> dict[str, Any]:
  """A row as far as arithmetic goes; deviations are relative."""
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
  """What XLA counts, and how far a row is from that."""
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


def published_claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """One claim for every figure that somebody published."""
  claims = []
  for row in rows:
    where = f"{row['model']} at {row['image_size']} px"
    if row["table"] == "flexivit":
      where = f"FlexiViT-{where}, patch size {row['patch_size']}"
    for what, expected, measured in (
      ("parameters in 10^6", row["published_params_m"], row["params"] / 1e6),
      ("multiply-adds in 10^9", row["published_gmacs"], row["gmacs"]),
    ):
      if expected:
        claims.append(
          {
            "claim": f"{where}: {what}",
            "source": row["source"],
            "expected": f"{expected:g} within {WITHIN:.0%}",
            "measured": measured,
            "holds": abs(measured / expected - 1) <= WITHIN,
          }
        )
  return claims


def xla_claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The closed forms against what JAX and XLA find, over all rows."""

  def claim(text, expected, measured, within):
    return {
      "claim": f"{text}, largest deviation of {len(rows)} rows",
      "source": "this project's goal",
      "expected": expected,
      "measured": measured,
      "holds": measured <= within,
    }

  def largest(key):
    return max(abs(row[key]) for row in rows)

  return [
    claim(
      "parameters in closed form are those of init",
      "0",
      max(abs(row["params"] - row["params_of_init"]) for row in rows),
      0,
    ),
    claim(
      "operations in closed form are XLA's count",
      f"<= {WITHIN}",
      largest("xla_deviation"),
      WITHIN,
    ),
    claim(
      "matrix products alone are XLA's count of a batch of one",
      f"<= {WITHIN}",
      largest("xla_deviation_of_matmul"),
      WITHIN,
    ),
  ]


def _percent(deviation: float | None, digits: int = 1) -> str:
  if deviation is None:
    return ""
  return f"{round(100 * deviation, digits) + 0.0:+.{digits}f} %"  # No -0.0.


def _plain(value: float | None) -> str:
  return "" if value is None else f"{value:g}"


def tables(rows: list[dict[str, Any]]) -> str:
  """The tables of the README."""
  by_table = {}
  for row in rows:
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
  parts = (variants, list(flexi.values()), papers, params, videos)
  return "\n\n".join(map(table.markdown, parts))


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws cost against patch size, with and without learned tokens."""
  figure = mpl_figure.Figure(figsize=(7, 5), layout="constrained")
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
      lines.Line2D([], [], color="#555555", linestyle=style, label=label)
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
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlim(54, 6.6)
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axes.set_xlabel("patch size in pixels, of a 240-pixel image (log scale)")
  axes.set_ylabel("multiply-adds per image in 10⁹ (log scale)")
  axes.set_title("Two dials of cost: patch size and learned tokens")
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
  """Writes results.json and figure.png; prints the tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  start = time.perf_counter()
  rows = []
  for setting in published.settings():
    row = closed_form(setting)
    rows.append(row | check(setting, row))
  results = {
    "command": "python -m experiments.cost.run",
    "seeds": [],
    "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "seconds": time.perf_counter() - start,
    "rows": rows,
    "claims": xla_claims(rows) + published_claims(rows),
  }
  (HERE / "results.json").write_text(
    json.dumps(results, indent=2) + "\n", encoding="utf-8"
  )
  draw(rows, HERE / "figure.png")
  print(tables(rows))


if __name__ == "__main__":
  app.run(main)
