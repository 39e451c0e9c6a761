"""The figures, most of them those of `analysis` for the first run."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure

from experiments.inside_flexivit import claims, measure
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import (
  agreement_figure,
  attention,
  correspondence,
  shape_or_texture,
  similarity,
)

_BLUE, _GREY = "#0072b2", "#999999"
_SHOWN = 3
_DPI = 110


def of_flexivit(inside: measure.Inside, folder: pathlib.Path) -> None:
  """Draws what `analysis` has of one run; the folder gets the PNGs."""
  of, images = inside.of, inside.images[:_SHOWN]
  # The middle one, as the paper's 16 of 48 to 8.
  source = of.settings[(len(of.settings) - 1) // 2]
  for name, figure in {
    "similarity": similarity.figure(*inside.alike),
    "attention": attention.figure(
      of.model, of.params, images, of.settings, "relevance"
    ),
    "correspondence": correspondence.figure(
      of.model, of.params, images, of.settings, inside.same, source=source
    ),
    "agreement": agreement_figure.draw(inside.agreement),
    "shape_or_texture": shape_or_texture.figure(inside.labels),
  }.items():
    figure.savefig(folder / f"{name}.png", dpi=_DPI)


def of_two_dials(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Draws CKA of the corners of the plane, of one run."""
  of = measure.read(path)
  sizes = list(dict.fromkeys(s.patch_size for s in of.settings))
  numbers = list(dict.fromkeys(s.num_tokens for s in of.settings))
  corners = [
    dials.Setting(size, number)
    for size in (sizes[0], sizes[-1])
    for number in (numbers[0], numbers[-1])
  ]
  alike = measure.alike(of, corners, of.batches(500))
  figure = similarity.figure(alike.values, alike.labels)
  figure.savefig(folder / "two_dials.png", dpi=_DPI)


def depth(flexi: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Draws CKA between the patch sizes by layer, a line for each run."""
  by_layer = claims.depth_of(flexi)
  layers = list(by_layer)
  values = np.array(list(by_layer.values())).T
  figure = mpl_figure.Figure(figsize=(7.5, 4), layout="constrained")
  axes = figure.subplots()
  for run in values if len(values) > 1 else ():
    axes.plot(run, "-", color=_GREY, lw=1, label="a seed")
  axes.plot(values.mean(axis=0), "o-", color=_BLUE, lw=2, label="mean")
  axes.axvline(claims.middle(layers), color="black", ls=":", lw=1)
  axes.annotate(
    "MLP of the middle block",
    (claims.middle(layers), axes.get_ylim()[0]),
    textcoords="offset points",
    xytext=(4, 4),
  )
  axes.set_xticks(range(len(layers)), [_short(name) for name in layers])
  axes.set_xlabel("layer")
  axes.set_ylabel("CKA, mean over pairs of patch sizes")
  axes.set_title("How alike one model's patch sizes are, by depth")
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  handles, labels = axes.get_legend_handles_labels()
  shown = dict(zip(labels, handles, strict=True))
  axes.legend(shown.values(), shown, frameon=False)
  figure.savefig(path, dpi=_DPI)


def _short(name: str) -> str:
  """Names the layer "encoder/block01/+mlp" as the MLP of block 2."""
  if not name.startswith("encoder/"):
    return "patches"
  _, block, part = name.split("/")
  part = {"+sa": "attention", "+mlp": "MLP"}[part]
  return f"block {int(block.removeprefix('block')) + 1}\n{part}"
