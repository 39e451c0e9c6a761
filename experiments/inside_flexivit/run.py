r"""Looks into trained models: FlexiViT's section on internal representations.

  python -m experiments.inside_flexivit.run \
    --flexivit=/tmp/curves/cpu_flexi_0,/tmp/curves/cpu_flexi_1

Takes runs that `experiments.flexivit_curves` and `experiments.two_dials` have
trained, seeds of one model each. Nothing is trained. The results are written
beside the first run unless there are three seeds, models of each kind and 2,000
images.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments import seeds, study
from experiments.inside_flexivit import claims, measure, pictures
from tokenlearner_flexivit.figures import table

_IMAGES = 2000
# By flag what is measured of each run.
_KINDS = {
  "flexivit": lambda path, number: measure.measure_flexivit(
    path, number
  ).numbers(),
  "fixed": measure.measure_fixed,
  "two_dials": measure.measure_two_dials,
}

# Name of the figure, its title, and what it shows.
_SECTIONS = (
  (
    "depth",
    "Alike by depth",
    "CKA of a layer at one patch size with the same layer at another, tokens "
    "at all positions, mean over the pairs of patch sizes. The paper: similar "
    "up to the MLP of block 6 of 12, apart after it, together again in the "
    "last block.",
  ),
  (
    "similarity",
    "All layers at all patch sizes",
    "CKA of every layer with every other one, from the position embedding to "
    "what the head sees, and their arc-cosine distances on a plane (t-SNE).",
  ),
  (
    "attention",
    "What answers rest on",
    "Gradient-weighted relevance of patches for the most likely class.",
  ),
  (
    "correspondence",
    "Tokens that correspond",
    "Cosine similarity of the token in the middle with all tokens at each "
    "patch size, after the last block; and how often the most similar token is "
    "that at the same place. The table is the mean over the pairs of patch "
    "sizes after each block.",
  ),
  (
    "agreement",
    "Ensembles and agreement",
    "An ensemble is the mean of the probabilities of two patch sizes or of "
    "all. `scale` is the size of the texture: 0 fine, 1 medium, 2 coarse. "
    "Right only at fine settings: at each of the smaller half of the patch "
    "sizes and at none of the larger half; of an odd number the middle one "
    "counts for neither.",
  ),
  (
    "shape_or_texture",
    "Shape or texture",
    "The model was trained on textures; the shape of an object is drawn "
    "independently of it.",
  ),
)
_TWO_DIALS = (
  "two_dials",
  "Both dials",
  "CKA of every layer with every other one at the largest and the smallest "
  "patch size, with all tokens and with the fewest learned ones.",
)


def _flags(values: flags.FlagValues) -> list[flags.FlagHolder]:
  where = dict(flag_values=values)
  return [
    flags.DEFINE_list(
      "flexivit", None, "Workdirs of FlexiViT's seeds.", required=True, **where
    ),
    flags.DEFINE_list("fixed", [], "Of ViTs of one patch size each.", **where),
    flags.DEFINE_list("two_dials", [], "Of seeds with both dials.", **where),
    flags.DEFINE_integer(
      "images", _IMAGES, "Test images.", lower_bound=100, **where
    ),
  ]


def rows(done: study.Done) -> Iterable[study.Row]:
  """Yields what is found in each model.

  Raises:
    app.UsageError: one is there twice.
  """
  own = done.asked.own
  for kind in _KINDS:
    runs = [pathlib.Path(path).resolve() for path in own[kind]]
    if len(set(runs)) < len(runs):
      raise app.UsageError(f"--{kind}={','.join(own[kind])} has a run twice.")
  for kind, measured in _KINDS.items():
    for path in map(pathlib.Path, own[kind]):
      yield measured(path, own["images"])
      print(f"{path.name}: done", flush=True)


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, then a section for each figure."""
  runs = claims.by_kind(outcome.rows)
  flexi = runs.flexivit
  parts = [
    "Runs: " + ", ".join(run["run"] for run in flexi) + ". Numbers are means "
    "over them; figures of one model are of the first. "
    "[results.json](results.json) has the command with all runs.",
    seeds.table_of_claims(outcome.claims),
  ]
  for name, title, text in (*_SECTIONS, *([_TWO_DIALS] * bool(runs.two_dials))):
    parts += [f"### {title}", text, f"![{title}](figures/{name}.png)"]
    if name == "depth":
      parts.append(_by_layer(claims.cka_by_layer(flexi), "CKA", 1))
    if name == "correspondence":
      places = {
        k: [run["places"][k] for run in flexi] for k in flexi[0]["places"]
      }
      parts.append(_by_layer(places, "at the same place, %", 100))
    if name == "agreement":
      parts.append(_ensembles(flexi[0]))
  return {"results": "\n\n".join(parts)}


def _by_layer(
  values: Mapping[str, Sequence[float]], what: str, unit: float
) -> str:
  rows = []
  for layer, by_run in values.items():
    spread = seeds.spread(unit * value for value in by_run)
    pattern = ".1f" if unit > 1 else ".3f"
    shown = seeds.plus_minus(spread["mean"], spread["std"], pattern)
    rows.append({"layer": f"`{layer}`", f"{what}, mean ± std": shown})
  return table.markdown(rows)


def _ensembles(run: Mapping[str, Any]) -> str:
  return table.markdown(
    [
      {
        "ensemble": row["name"],
        "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
        "accuracy %": f"{100 * row['accuracy']:.1f}",
        "best alone at no more": row["single"],
        "its accuracy %": f"{100 * row['single_accuracy']:.1f}",
      }
      for row in run["agreement"]["ensembles"]
    ]
  )


STUDY = study.Study(
  name="inside_flexivit",
  own_flags=_flags,
  seeds=lambda asked: [pathlib.Path(run).name for run in asked.own["flexivit"]],
  workdir=lambda asked: pathlib.Path(asked.own["flexivit"][0]).parent,
  is_whole=lambda asked: (
    len(asked.own["flexivit"]) >= len(study.SEEDS)
    and all(asked.own[kind] for kind in _KINDS)
    and asked.own["images"] >= _IMAGES
  ),
  rows=rows,
  claims=claims.claims,
  tables=tables,
  figures=pictures.figures,
  dpi=pictures.DPI,
  pictures=pictures.draw,
)

if __name__ == "__main__":
  STUDY.start()
