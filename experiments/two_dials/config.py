"""One training of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/two_dials/config.py:cell=two_dials,seed=0,scale=cpu
"""

import dataclasses

import ml_collections

from experiments import recipe
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.models.token_learner import ALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(recipe.Scale):
  """Sets the size of the study; TokenLearner stands after half of the blocks.

  Attributes:
    sizes: patch sizes, from large to small.
    numbers: of learned tokens, from many to few; "all" is not among them.
    long_steps: of trainings for many settings; `steps` are of those for one.
  """

  sizes: tuple[int, ...]
  numbers: tuple[int, ...]
  long_steps: int

  @property
  def settings(self) -> tuple[dials.Setting, ...]:
    """Returns every position of both dials."""
    return tuple(
      dials.Setting((size, size), number)
      for size in self.sizes
      for number in (ALL, *self.numbers)
    )


SCALES = {
  # About 100 minutes on two CPU cores.
  "cpu": Scale(
    data="64",
    side=60,
    sizes=(15, 10, 6),
    numbers=(8, 4),
    width=64,
    depth=4,
    batch_size=64,
    steps=800,
    long_steps=3200,
  ),
  # A ViT-S; meant for 20 minutes a seed on one modern GPU. Not yet run.
  "gpu": Scale(
    data="120",
    side=120,
    sizes=(30, 20, 10),
    numbers=(16, 8),
    width=384,
    depth=12,
    batch_size=256,
    steps=1500,
    long_steps=6000,
    dtype="bfloat16",
    num_threads=16,
  ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A training.

  Attributes:
    name: in tables and folders.
    text: what it is, for people.
    sizes: patch sizes that it trains at.
    numbers: of learned tokens that it trains with; without "all" its
      TokenLearner is always on, with "all" alone it has none.
    long: whether it takes `long_steps`.
  """

  name: str
  text: str
  sizes: tuple[int, ...]
  numbers: tuple[int | str, ...]
  long: bool = False


def fixed(setting: dials.Setting) -> str:
  """Returns the name of the model that is trained at a setting alone."""
  return f"fixed{setting.patch_size[0]}_{setting.num_tokens}"


def cells_by_name(scale: Scale) -> dict[str, Cell]:
  """Returns the cells of a scale by name."""
  both = scale.sizes, (ALL, *scale.numbers)
  cells = [
    Cell("two_dials", "both dials", *both, long=True),
    Cell("same_steps", "both dials, as few steps as for one setting", *both),
    Cell("patch_size", "FlexiViT alone", scale.sizes, (ALL,), long=True),
  ]
  for setting in scale.settings:
    size, number = setting.patch_size[0], setting.num_tokens
    text = f"ViT of patch size {size}, {number} tokens"
    cells.append(Cell(fixed(setting), text, (size,), (number,)))
  return {cell.name: cell for cell in cells}


def model_section(cell: Cell, scale: Scale) -> dict:
  """Returns config.model."""
  # As in flexivit_curves: the buffers of the smallest size.
  section = recipe.model_section(scale, cell.sizes[-1])
  learned = [number for number in cell.numbers if number != ALL]
  if learned:
    section["token_learner"] = dict(
      layer=scale.depth // 2, num_tokens=max(learned)
    )
  return section


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(depth=2, long_steps=2)
  scale, cell, args = recipe.read_argument(
    arg, SCALES, cells_by_name, small, cell="two_dials"
  )
  steps = scale.long_steps if cell.long else scale.steps
  c = recipe.config(scale, args["seed"], steps)
  recipe.add_textures(c, scale)
  c.model = model_section(cell, scale)
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  if len(cell.numbers) > 1:
    # TokenLearner is off in half of the steps, as many as train it.
    learned = len(cell.numbers) - 1
    c.flexi.num_tokens = dict(
      values=cell.numbers, weights=(learned, *[1] * learned)
    )
  return c
