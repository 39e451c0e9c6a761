"""Draws the sheet of samples in README.md.

python -m tokenlearner_flexivit.data.rendered_scenes.samples
"""

import argparse
import pathlib

from tokenlearner_flexivit.data.rendered_scenes import (
  draw,
  examples,
  scene,
  shapes,
  textures,
)
from tokenlearner_flexivit.figures import drawing

_ROWS, _COLUMNS = 4, 6
_DEFAULT = pathlib.Path(__file__).parent / "samples.png"


def sheet(path: pathlib.Path, side: int = 96, seed: int = 0) -> None:
  """Writes the first test images with their labels.

  Args:
    path: PNG to write.
    side: side of an image in pixels.
    seed: seed of the dataset.
  """
  figure = drawing.Figure(figsize=(10.5, 7.9), layout="constrained")
  axes = figure.subplots(_ROWS, _COLUMNS)
  for index, axis in enumerate(axes.flat):
    rng = scene.generator(seed, "test", index)
    sampled = scene.sample(rng)
    image, _ = draw.draw(sampled, side, int(rng.integers(2**31)))
    labels = examples.labels(sampled)
    colour = list(scene.COLOURS)[labels["colour"]]
    axis.imshow(image)
    axis.set_title(
      f"{list(textures.SCALES)[labels['scale']]} "
      f"{textures.NAMES[labels['label']]}\n"
      f"{scene.SIZES[labels['size']]} {colour} "
      f"{shapes.NAMES[labels['shape']]},\n"
      f"{scene.ORIENTATIONS[labels['orientation']]}",
      fontsize=9,
    )
    axis.axis("off")
  drawing.save(figure, path, dpi=80)


def main() -> None:
  """Reads the command line and writes the sheet."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, default=_DEFAULT)
  parser.add_argument("--size", type=int, default=96, help="pixels")
  arguments = parser.parse_args()
  sheet(arguments.out, arguments.size)


if __name__ == "__main__":
  main()
