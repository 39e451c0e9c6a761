"""The figures, most of them those of `analysis` for the first run."""

import pathlib

from experiments import study
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
from tokenlearner_flexivit.figures import drawing

_SHOWN = 3
DPI = 110


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns CKA between the patch sizes by layer, a line for each run."""
  by_layer = claims.cka_by_layer(claims.by_kind(outcome.rows).flexivit)
  layers = list(by_layer)
  by_run = [
    dict(zip(layers, values, strict=True))
    for values in zip(*by_layer.values(), strict=True)
  ]
  mark = layers[claims.middle(layers)], "MLP of the middle block"
  figure = similarity_by_depth.figure({"mean": by_run}, mark)
  return {"figures/depth.png": figure}


def draw(
  done: study.Done, outcome: study.Outcome, folder: pathlib.Path
) -> None:
  """Draws what needs the models; figures/ in the folder gets the PNGs."""
  del outcome
  own = done.asked.own
  first = pathlib.Path(own["flexivit"][0])
  figures = folder / "figures"
  _draw_flexivit(measure.measure_flexivit(first, own["images"]), figures)
  if own["two_dials"]:
    _draw_two_dials(pathlib.Path(own["two_dials"][0]), figures)


def _draw_flexivit(inside: measure.Inside, folder: pathlib.Path) -> None:
  """Draws what `analysis` has of one run; the folder gets the PNGs."""
  trained, images = inside.trained, inside.images[:_SHOWN]
  # The middle one, as the paper's 16 of 48 to 8.
  source = trained.settings[(len(trained.settings) - 1) // 2]
  for name, figure in {
    "similarity": similarity.figure(*inside.alike),
    "attention": attention.figure(
      trained.model, trained.params, images, trained.settings, "relevance"
    ),
    "correspondence": correspondence.figure(
      trained.model,
      trained.params,
      images,
      trained.settings,
      inside.same,
      source=source,
    ),
    "agreement": agreement_figure.draw(inside.agreement),
    "shape_or_texture": shape_or_texture.figure(inside.labels),
  }.items():
    drawing.save(figure, folder / f"{name}.png", dpi=DPI)


def _draw_two_dials(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Draws CKA of the corners of the plane, of one run."""
  trained = measure.read(path)
  sizes = list(dict.fromkeys(s.patch_size for s in trained.settings))
  numbers = list(dict.fromkeys(s.num_tokens for s in trained.settings))
  corners = [
    dials.Setting(size, number)
    for size in (sizes[0], sizes[-1])
    for number in (numbers[0], numbers[-1])
  ]
  alike = measure.alike(trained, corners, trained.batches(500))
  figure = similarity.figure(alike.values, alike.labels)
  drawing.save(figure, folder / "two_dials.png", dpi=DPI)
