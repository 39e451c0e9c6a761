r"""The similarity of a model's layers and settings, as a picture of CKA.

FlexiViT (arXiv 2212.08013, Figure 6) compares the layers of one model at
several patch sizes. For the newest checkpoint of a run, at its own settings:

  python -m tokenlearner_flexivit.analysis.similarity --workdir=WORKDIR \
    --output=similarity.png [--patch_sizes=24,12,6] [--num_images=2000] \
    [--other=WORKDIR_OR_SOURCE]

`cka` has the numbers; the picture shows CKA of every layer at every setting
with every other, and the layers as points, near where their CKA is high. Of two
settings or more `similarity_depth.png` shows CKA between them by layer, see
`similarity_by_depth`. With `--other` a second model sees the same images at the
same settings.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import manifold

from tokenlearner_flexivit import arguments, dials, paths, terminal
from tokenlearner_flexivit.analysis import cka, command, similarity_by_depth
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.figures import drawing
from tokenlearner_flexivit.inference import runs

Label = tuple[str, str]
# Of a setting: its marker, and from the eleventh on another edge too.
_MARKERS = "osD^vP*X<>"
_EDGES = ("black", "#d55e00", "#56b4e9", "#cc79a7")
_STYLES = tuple(itertools.product(_EDGES, _MARKERS))


def layers(model: Any) -> tuple[str, ...]:
  """Returns the names in `out` of a model's depth: after each half block."""
  blocks = [
    f"encoder/block{i:02d}/{part}"
    for i in range(model.depth)
    for part in ("+sa", "+mlp")
  ]
  return ("with_posemb", *blocks)


def embedding(values: np.ndarray) -> np.ndarray:
  """Places representations on a plane by t-SNE of their arc-cosine distances.

  Args:
    values: CKA [R, R], R of four or more.

  Returns:
    [R, 2].

  Raises:
    ValueError: too few, or CKA that is not known (NaN, or not finite).
  """
  _check_number(len(values))
  if not np.isfinite(values).all():
    raise ValueError(
      "Some of the representations are the same for all images, so their CKA "
      "is not known. Leave them out."
    )
  distances = cka.arc_cosine_distance((values + values.T) / 2)
  np.fill_diagonal(distances, 0)
  placed = manifold.TSNE(
    metric="precomputed",
    init="random",
    perplexity=min(30, (len(values) - 1) / 3),
    random_state=0,
  )
  return placed.fit_transform(distances)


def _check_number(number: int) -> None:
  """Raises ValueError for fewer representations than t-SNE can place."""
  if number < 4:
    raise ValueError(
      f"t-SNE needs 4 representations or more, got {number}. Give more "
      "settings or names."
    )


def figure(values: np.ndarray, labels: Sequence[Label]) -> drawing.Figure:
  """Draws the map of CKA, and the layers as points.

  Args:
    values: CKA [R, R].
    labels: of `cka.cka`: sides, each with its layers in order.

  Raises:
    ValueError: more sides than can be told apart, or see `embedding`.
  """
  sides = list(dict.fromkeys(side for side, _ in labels))
  if len(sides) > len(_STYLES):
    raise ValueError(
      f"{len(sides)} settings cannot be told apart in a picture. Give "
      f"{len(_STYLES)} or fewer."
    )
  columns = -(-len(sides) // 16)  # Of the legend.
  drawn = drawing.Figure(
    figsize=(8.7 + 1.3 * columns, 4.5), layout="constrained"
  )
  left, right = drawn.subplots(1, 2, width_ratios=(1.1, 1))
  starts = [
    next(i for i, (other, _) in enumerate(labels) if other == side)
    for side in sides
  ]
  image = left.imshow(values, vmin=0, vmax=1, cmap="viridis")
  for edge in starts[1:]:
    left.axhline(edge - 0.5, color="white", lw=1)
    left.axvline(edge - 0.5, color="white", lw=1)
  ends = [*starts[1:], len(labels)]
  middles = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
  slant = dict(rotation=30, ha="right")
  if len(sides) > 6:
    slant = dict(rotation=90)
  left.set_xticks(middles, sides, **slant)
  left.set_yticks(middles, sides)
  left.set_xlabel("setting; within each from the first layer to the last")
  left.set_ylabel("setting; within each from the first layer down to the last")
  left.set_title("CKA of every layer with every other", fontsize=11)
  drawn.colorbar(image, ax=left, label="CKA")

  points = embedding(values)
  colours = drawing.colormaps["viridis"]
  for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
    x, y = points[start:end].T
    right.plot(x, y, "-", color="#bbbbbb", lw=0.8, zorder=0)
    depth = np.linspace(0, 1, end - start)
    edge, marker = _STYLES[k]
    right.scatter(
      x,
      y,
      c=depth,
      cmap=colours,
      marker=marker,
      edgecolors=edge,
      linewidths=0.4 if edge == _EDGES[0] else 1.2,
    )
  right.set_aspect("equal", adjustable="datalim")
  right.set_xticks([])
  right.set_yticks([])
  right.set_title("t-SNE of arc-cosine distances", fontsize=11)
  right.set_xlabel("dark: the first layer; bright: the last")
  right.legend(
    handles=[_key(*style) for style in _STYLES[: len(sides)]],
    labels=sides,
    frameon=False,
    fontsize=9,
    ncols=columns,
    loc="upper left",
    bbox_to_anchor=(1, 1),
  )
  right.spines[["top", "right"]].set_visible(False)
  return drawn


def _key(edge: str, marker: str) -> drawing.lines.Line2D:
  """Returns a grey marker for the legend, since colours stand for depth."""
  return drawing.lines.Line2D(
    [], [], ls="", marker=marker, mfc="#bbbbbb", mec=edge, ms=7
  )


def sides_at(
  model: Any,
  params: Any,
  settings: Sequence[dials.Setting],
  names: Sequence[str] | None = None,
  tokens: str = "all",
  prefix: str = "",
) -> dict[str, cka.Side]:
  """Returns the sides of one model at several settings, by their names.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    settings: of the dials.
    names: as in `cka.Side`; None for `layers`.
    tokens: as in `cka.Side`.
    prefix: of the names of the sides, to distinguish models.
  """
  if names is None:
    # The cls token does not exist before the first block.
    names = layers(model)[1:] if tokens == "cls" else layers(model)
  return {
    prefix + setting.name: cka.Side(model, params, setting, names, tokens)
    for setting in settings
  }


class _Sides:
  """The sides of a model, and of an optional second one, to compare."""

  def __init__(self, args: argparse.Namespace, opened: command.Opened):
    """Opens the second model, if there is one.

    Raises:
      ValueError, OSError: see `command.open_other`.
    """
    ways = opened.settings, args.names, args.tokens
    self._models = [opened.model]
    self._by_model = [sides_at(opened.model, opened.params, *ways)]
    self._titles = ["between settings"]
    self._opened = opened
    if args.other is not None:
      other = command.open_other(args.other)
      _warn_of_other_values(args.other, opened.data, other.data)
      self._models.append(other.model)
      self._titles = command.short_names(args.workdir or args.init, args.other)
      self._by_model = [
        sides_at(run.model, run.params, *ways, prefix=f"{title}, ")
        for run, title in zip((opened, other), self._titles, strict=True)
      ]

  @property
  def by_name(self) -> dict[str, cka.Side]:
    """Returns the sides of all models by name."""
    return {k: side for sides in self._by_model for k, side in sides.items()}

  def check(self, images: np.ndarray) -> None:
    """Raises ValueError for a setting that does not fit one of the models."""
    for model in self._models:
      self._opened._replace(model=model).check(images)

  def curves(
    self, values: np.ndarray, labels: Sequence[Label]
  ) -> dict[str, list[similarity_by_depth.Curve]]:
    """Returns CKA by depth: between settings, and between the models.

    The curves cover only layers that all of them have.
    """
    pairs = {
      title: list(itertools.combinations(sides, 2))
      for title, sides in zip(self._titles, self._by_model, strict=True)
    }
    if len(self._by_model) > 1:
      pairs["one with the other"] = list(zip(*self._by_model, strict=True))
    curves = [
      (title, similarity_by_depth.layer_means(values, labels, both))
      for title, both in pairs.items()
      if both
    ]
    common = [
      layer
      for layer in dict.fromkeys(layer for _, layer in labels)
      if all(layer in curve for _, curve in curves)
    ]
    if not common:
      return {}
    return {
      title: [{layer: curve[layer] for layer in common}]
      for title, curve in curves
    }


def _warn_of_other_values(
  name: str, data: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
  """Warns if a second model was trained on images of other values."""
  if not (data.get("pp") and other.get("pp")):
    return
  if differ := statistics.differ(other["pp"], data["pp"]):
    terminal.say(
      f"WARNING: {name} is used to images {differ[0]}, but gets those of the "
      f"first model, {differ[1]}, so its representations are others."
    )


def main(argv: list[str] | None = None) -> None:
  """Compares the settings of a run; bad input gives an error of one line."""
  parser = command.parser(
    "similarity", "Draws how alike the layers are at several settings."
  )
  add = parser.add_argument
  command.add_num_tokens(add)
  command.add_split(add, 2000)
  add("--names", type=arguments.names, help="entries of the model's out")
  add("--tokens", default="all", help="all, mean or cls")
  add("--batch_size", type=int, default=100, help="by default 100")
  add(
    "--other",
    metavar="WORKDIR_OR_SOURCE",
    help="a second model, as a run or as in --init; it sees the same images, "
    "preprocessed for the first",
  )
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    sides = _Sides(args, opened)
    # Checked before minutes are spent on settings that cannot be drawn.
    _check_number(sum(len(side.names) for side in sides.by_name.values()))

    def batches():
      for batch in runs.read_batches(
        opened.data, args.num_images, args.batch_size
      ):
        sides.check(batch["image"])
        yield batch

    values, labels = cka.cka(
      batches(),
      sides.by_name,
      lambda number: terminal.say(terminal.counted(number, "image")),
    )
    output = args.output
    numbers = output.with_suffix(".npz")
    # First: values that are not known cannot be drawn.
    with paths.whole(numbers) as partial, partial.open("wb") as file:
      np.savez(file, cka=values, labels=labels)
    drawing.save(figure(values, labels), output, dpi=150)
    written = [str(output), str(numbers)]
    curves = sides.curves(values, labels)
    if curves:
      by_depth = output.with_name(f"{output.stem}_depth.png")
      drawing.save(similarity_by_depth.figure(curves), by_depth, dpi=150)
      written.append(str(by_depth))
  number = terminal.counted(len(labels), "layer")
  print(f"CKA of {number}: {', '.join(written)}")


if __name__ == "__main__":
  main()
