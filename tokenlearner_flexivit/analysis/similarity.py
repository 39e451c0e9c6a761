r"""Where in a model its settings make the same of images: CKA, as a picture.

FlexiViT (arXiv 2212.08013, Figure 6) compares the layers of one model at
several patch sizes. For the newest checkpoint of a run, at its own settings:

  python -m tokenlearner_flexivit.analysis.similarity --workdir=WORKDIR \
    --output=similarity.png [--patch_sizes=24,12,6] [--num_images=2000]

`cka` has the numbers; the picture shows CKA of every layer at every setting
with every other, and the layers as points, near where their CKA is high.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from sklearn import manifold

from tokenlearner_flexivit import arguments, dials, progress
from tokenlearner_flexivit.analysis import cka, command, runs

Label = tuple[str, str]
_MARKERS = "osD^vP*X<>"


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
    ValueError: too few, or CKA that is not known (NaN).
  """
  if len(values) < 4:
    raise ValueError(
      f"t-SNE needs 4 representations or more, got {len(values)}. Give more "
      "settings or names."
    )
  if np.isnan(values).any():
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


def figure(values: np.ndarray, labels: Sequence[Label]) -> mpl_figure.Figure:
  """Draws the map of CKA, and the layers as points.

  Args:
    values: CKA [R, R].
    labels: of `cka.cka`: sides, each with its layers in order.
  """
  drawn = mpl_figure.Figure(figsize=(10, 4.7), layout="constrained")
  left, right = drawn.subplots(1, 2, width_ratios=(1.1, 1))
  sides = list(dict.fromkeys(side for side, _ in labels))
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
  left.set_xticks(middles, sides, rotation=30, ha="right")
  left.set_yticks(middles, sides)
  left.set_xlabel("setting; within each from the first layer to the last")
  left.set_title("CKA of every layer with every other", fontsize=11)
  drawn.colorbar(image, ax=left, label="CKA")

  points = embedding(values)
  colours = matplotlib.colormaps["viridis"]
  for k, (side, start, end) in enumerate(zip(sides, starts, ends, strict=True)):
    x, y = points[start:end].T
    right.plot(x, y, "-", color="#bbbbbb", lw=0.8, zorder=0)
    depth = np.linspace(0, 1, end - start)
    right.scatter(
      x,
      y,
      c=depth,
      cmap=colours,
      marker=_MARKERS[k % len(_MARKERS)],
      edgecolors="black",
      linewidths=0.4,
      label=side,
    )
  right.set_aspect("equal", adjustable="datalim")
  right.set_xticks([])
  right.set_yticks([])
  right.set_title("t-SNE of arc-cosine distances", fontsize=11)
  right.set_xlabel("dark: the first layer; bright: the last")
  right.legend(frameon=False, fontsize=9)
  right.spines[["top", "right"]].set_visible(False)
  return drawn


def of_settings(
  model: Any,
  params: Any,
  settings: Sequence[dials.Setting],
  names: Sequence[str] | None = None,
  tokens: str = "all",
) -> Mapping[str, cka.Side]:
  """Returns the sides of one model at several settings, by their names."""
  if names is None:
    # The cls token is not there before the first block.
    names = layers(model)[1:] if tokens == "cls" else layers(model)
  return {
    setting.name: cka.Side(model, params, setting, names, tokens)
    for setting in settings
  }


def main(argv: list[str] | None = None) -> None:
  """Compares the settings of a run; bad input is an error of one line."""
  parser = command.parser(
    "similarity", "Draws how alike the layers are at several settings."
  )
  add = parser.add_argument
  command.add_num_tokens(add)
  command.add_split(add, 2000)
  add("--names", type=arguments.names, help="entries of the model's out")
  add("--tokens", default="all", help="all, mean or cls")
  add("--batch_size", type=int, default=100, help="by default 100")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    sides = of_settings(
      opened.model, opened.params, opened.settings, args.names, args.tokens
    )

    def batches():
      for batch in runs.read_batches(
        opened.data, args.num_images, args.batch_size
      ):
        opened.check(batch["image"])
        yield batch

    values, labels = cka.cka(
      batches(), sides, lambda number: progress.say(f"{number} images")
    )
    figure(values, labels).savefig(args.output, dpi=150)
    numbers = pathlib.Path(args.output).with_suffix(".npz")
    np.savez(numbers, cka=values, labels=labels)
  print(f"CKA of {len(labels)} layers: {args.output}, {numbers}")


if __name__ == "__main__":
  main()
