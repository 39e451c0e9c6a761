"""Joins what the runs report, with speed measured by turns."""

from experiments import study
from experiments.two_dials import cells, planes
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.inference import Predictor

_BATCH_SIZE = 64


def speed(predictor: Predictor, rounds: int = 15) -> dict[dials.Setting, float]:
  """Measures the model at every setting of its training, by turns.

  Args:
    predictor: of the run with both dials.
    rounds: how often each is measured.

  Returns:
    Images per second in batches of 64, from prepared images to logits.
  """
  found = predictor.profile(batch_size=_BATCH_SIZE, repeats=rounds)
  return {
    dials.Setting.of_row(row): 1000 * _BATCH_SIZE / row["forward_ms"]
    for row in found
  }


def rows(
  scale: cells.Scale,
  trained: dict[str, planes.Plane],
  images_per_s: dict[dials.Setting, float],
) -> list[study.Row]:
  """All numbers, a row for each setting."""
  cost, fixed = planes.costs(scale), planes.of_fixed(scale, trained)
  both, few = trained["two_dials"], trained["same_steps"]
  flexi = trained["patch_size"]
  return [
    {
      "patch_size": setting.patch_size[0],
      "num_tokens": setting.num_tokens,
      "gmacs": cost[setting],
      "images_per_s": images_per_s[setting],
      "two_dials": study.spread(both[setting]),
      "same_steps": study.spread(few[setting]),
      "fixed": study.spread(fixed[setting]),
      "flexivit": study.spread(flexi[setting]) if setting in flexi else None,
    }
    for setting in scale.settings
  ]


def tables(rows: list[study.Row], found: list[study.Row]) -> str:
  """The tables of the README: settings, then claims."""

  def shown(values):
    return "" if values is None else study.percent(values, 1, "")

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
            "with as few steps": shown(row["same_steps"]),
            "trained for it alone, %": shown(row["fixed"]),
            "FlexiViT alone, %": shown(row["flexivit"]),
          }
          for row in rows
        ]
      ),
      study.table_of_claims(found),
    ]
  )
