"""The text of the README: claims, then a section for each figure."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import study
from experiments.inside_flexivit import claims
from tokenlearner_flexivit.figures import table

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


def command(paths: Mapping[str, Sequence[pathlib.Path]], number: int) -> str:
  """The command of these results, wherever the runs were."""
  given = " ".join(
    f"--{kind}={','.join(f'WORKDIR/{path.name}' for path in of_kind)}"
    for kind, of_kind in paths.items()
    if of_kind
  )
  return f"python -m experiments.inside_flexivit.run {given} --images={number}"


def sections(
  flexi: Sequence[Mapping[str, Any]],
  judged: Sequence[study.Row],
  has_two_dials: bool,
) -> str:
  """The README's results.

  Args:
    flexi: of `measure.of_flexivit`.
    judged: of `claims.claims`.
    has_two_dials: whether there is a figure of them.
  """
  parts = [
    "Runs: " + ", ".join(run["run"] for run in flexi) + ". Numbers are means "
    "over them; figures of one model are of the first. "
    "[results.json](results.json) has the command with all runs.",
    study.table_of_claims(judged),
  ]
  for name, title, text in (*_SECTIONS, *([_TWO_DIALS] * has_two_dials)):
    parts += [f"### {title}", text, f"![{title}](figures/{name}.png)"]
    if name == "depth":
      parts.append(_by_layer(claims.depth_of(flexi), "CKA", 1))
    if name == "correspondence":
      places = {
        k: [run["places"][k] for run in flexi] for k in flexi[0]["places"]
      }
      parts.append(_by_layer(places, "at the same place, %", 100))
    if name == "agreement":
      parts.append(_ensembles(flexi[0]))
  return "\n\n".join(parts)


def _by_layer(
  values: Mapping[str, Sequence[float]], what: str, unit: float
) -> str:
  rows = []
  for layer, by_run in values.items():
    seeds = study.spread(unit * value for value in by_run)
    pattern = ".1f" if unit > 1 else ".3f"
    shown = study.plus_minus(seeds["mean"], seeds["std"], pattern)
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
