"""The similarity of each layer between settings, by depth.

FlexiViT (arXiv 2212.08013, Figure 6) finds patch sizes similar in the first
half of a ViT-B, different after it and similar again in the last block. This
module draws that as a line: CKA of each layer at one setting with the same
layer at another, the mean over the pairs of settings.

Letters: R representations.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tokenlearner_flexivit.figures import drawing

Label = tuple[str, str]
Curve = Mapping[str, float]
_COLORS = ("#0072b2", "#d55e00", "#009e73")
# With "+" after the residual connection, without it the branch that is added.
_PARTS = {
  "sa": "attention\nalone",
  "+sa": "attention",
  "mlp": "MLP\nalone",
  "+mlp": "MLP",
}


def layer_means(
  values: np.ndarray,
  labels: Sequence[Label],
  pairs: Iterable[tuple[str, str]] | None = None,
) -> dict[str, float]:
  """Returns the mean CKA of each layer with the same layer of another side.

  Args:
    values: CKA [R, R].
    labels: of `cka.cka`, the R pairs (side, layer).
    pairs: of sides; None for all pairs.

  Returns:
    The means by layer, in order, for layers that all sides have.

  Raises:
    ValueError: there is no pair.
  """
  places = {label: i for i, label in enumerate(map(tuple, labels))}
  if pairs is None:
    pairs = itertools.combinations(dict.fromkeys(s for s, _ in labels), 2)
  pairs = list(pairs)
  if not pairs:
    raise ValueError("One side has no other to compare with. Give two or more.")
  means = {}
  for layer in dict.fromkeys(layer for _, layer in labels):
    cells = [(places.get((a, layer)), places.get((b, layer))) for a, b in pairs]
    if not any(None in cell for cell in cells):
      means[layer] = float(np.mean([values[cell] for cell in cells]))
  return means


def figure(
  curves: Mapping[str, Sequence[Curve]], mark: tuple[str, str] | None = None
) -> drawing.Figure:
  """Draws CKA by layer.

  Args:
    curves: by title, one curve per run. Of several, the mean is drawn, and each
      beside it, thin and grey. All have the same layers.
    mark: a layer, and the text to put at it.

  Raises:
    ValueError: no curves or more than three, or their layers differ.
  """
  layers = {tuple(run) for runs in curves.values() for run in runs}
  if len(layers) != 1 or len(curves) > len(_COLORS):
    raise ValueError(
      f"{len(curves)} curves, of {len(layers)} different lists of layers: give "
      f"1 to {len(_COLORS)}, of the same layers."
    )
  (layers,) = layers
  drawn = drawing.Figure(
    figsize=(max(7.5, 0.42 * len(layers)), 4.2), layout="constrained"
  )
  axes = drawn.subplots()
  for (name, runs), color in zip(curves.items(), _COLORS, strict=False):
    lines = np.array([list(run.values()) for run in runs])
    for line in lines if len(lines) > 1 else ():
      axes.plot(line, "-", color="#999999", lw=1, label="a seed")
    mean = lines.mean(axis=0)
    axes.plot(mean, "o-", color=color, lw=2, label=name)
  if mark:
    axes.axvline(layers.index(mark[0]), color="black", ls=":", lw=1)
    axes.annotate(
      mark[1],
      (layers.index(mark[0]), axes.get_ylim()[0]),
      textcoords="offset points",
      xytext=(4, 4),
    )
  texts = [_short(layer) for layer in layers]
  many = len(layers) > 11
  axes.set_xticks(
    range(len(layers)),
    [text.replace("\n", " ") if many else text for text in texts],
    rotation=90 if many else 0,
    fontsize=9,
  )
  axes.set_xlabel("layer")
  axes.set_ylabel("CKA, mean over pairs of settings")
  axes.set_title("How alike the same layer is, by depth")
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  handles, labels = axes.get_legend_handles_labels()
  shown = dict(zip(labels, handles, strict=True))
  if len(shown) > 1:
    axes.legend(shown.values(), shown, frameon=False)
  return drawn


def _short(layer: str) -> str:
  """Returns a short name of a layer, MLP of block 2 for "block01/+mlp"."""
  match = re.fullmatch(r"encoder/block(\d+)/(\+?(?:sa|mlp))", layer)
  if match:
    return f"block {int(match[1]) + 1}\n{_PARTS[match[2]]}"
  return {"with_posemb": "patches"}.get(layer, layer.replace("/", "\n"))
