"""Joins what the runs report, with speed measured by turns."""

import statistics

import jax
import jax.numpy as jnp

from benchmarks import timing
from experiments import study
from experiments.two_dials import cells, config, planes
from tokenlearner_flexivit import dials, models, table


def throughput(
  scale: cells.Scale, rounds: int = 15
) -> dict[dials.Setting, float]:
  """Measures the forward pass of every setting of one model, by turns.

  Returns:
    Images per second, the median.
  """
  images = jnp.zeros((64, scale.crop, scale.crop, 3))
  cell = cells.of(scale)["two_dials"]
  model = models.create(**config.model_section(cell, scale), num_classes=12)
  params = model.init(jax.random.key(0), images[:1])["params"]
  apply = jax.jit(
    lambda params, images, setting: model.apply(
      {"params": params}, images, *setting
    )[0],
    static_argnums=2,
  )
  seconds = timing.by_turns(
    {s: lambda s=s: apply(params, images, s) for s in scale.settings}, rounds
  )
  return {s: len(images) / statistics.median(t) for s, t in seconds.items()}


def rows(
  scale: cells.Scale,
  trained: dict[str, planes.Plane],
  images_per_s: dict[dials.Setting, float],
) -> list[study.Row]:
  """All numbers, a row for each setting."""
  cost, fixed = planes.costs(scale), planes.of_fixed(scale, trained)
  both, flexi = trained["two_dials"], trained["patch_size"]
  return [
    {
      "patch_size": setting.patch_size[0],
      "num_tokens": setting.num_tokens,
      "gmacs": cost[setting],
      "images_per_s": images_per_s[setting],
      "two_dials": study.spread(both[setting]),
      "fixed": study.spread(fixed[setting]),
      "flexivit": study.spread(flexi[setting]) if setting in flexi else None,
    }
    for setting in scale.settings
  ]


def tables(rows: list[study.Row], found: list[study.Row]) -> str:
  """The tables of the README: settings, then claims."""

  def shown(values):
    if values is None:
      return ""
    return f"{100 * values['mean']:.1f} ± {100 * values['std']:.1f}"

  return "\n\n".join(
    [
      table.markdown(
        [
          {
            "patch size": row["patch_size"],
            "tokens": row["num_tokens"],
            "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
            "images/s": f"{row['images_per_s']:.0f}",
            "both dials, %": shown(row["two_dials"]),
            "trained for it alone, %": shown(row["fixed"]),
            "FlexiViT alone, %": shown(row["flexivit"]),
          }
          for row in rows
        ]
      ),
      table.markdown(
        [
          {
            "statement": claim["claim"],
            "expected": claim["expected"],
            "here": claim["measured"],
            "holds": "yes" if claim["holds"] else "no",
          }
          for claim in found
        ]
      ),
    ]
  )
