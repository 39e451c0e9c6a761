"""The figures, most of them those of `analysis` for the first run."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.inside_flexivit import claims, measure
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import (
  agreement_figure,
  attention,
  correspondence,
  shape_or_texture,
  similarity,
  similarity_by_depth,
)

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
  by_run = [
    dict(zip(layers, values, strict=True))
    for values in zip(*by_layer.values(), strict=True)
  ]
  mark = layers[claims.middle(layers)], "MLP of the middle block"
  similarity_by_depth.figure({"mean": by_run}, mark).savefig(path, dpi=_DPI)
