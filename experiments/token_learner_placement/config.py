"""One cell of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/token_learner_placement/config.py:cell=at1_2,seed=0,scale=cpu

`steps=1200` trains for so many steps, instead of the scale's.
"""

import dataclasses
from typing import Any

import ml_collections

from experiments import recipe
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost

TOKENS = 16  # Where the number of tokens is not what is compared.
PLACEMENTS = {"at0": 0.0, "at1/4": 0.25, "at1/2": 0.5, "at3/4": 0.75}
NUMBERS = (4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A model to train.

  Attributes:
    name: in tables and folders.
    text: what it is, for people.
    placement: share of the baseline's blocks before TokenLearner; None for
      the baseline itself.
    num_tokens: S.
    version: see `models.TokenLearner`.
    fuser: whether with TokenFuser.
    deeper: whether blocks are added after TokenLearner until the model costs
      as much as the baseline.
  """

  name: str
  text: str
  placement: float | None = None
  num_tokens: int = TOKENS
  version: str = "1.1"
  fuser: bool = False
  deeper: bool = False

  def model(self, depth: int) -> dict[str, Any]:
    """The keys of config.model that make it, at the baseline's depth.

    Without the blocks that `deeper` adds.
    """
    if self.placement is None:
      return dict(depth=depth)
    return dict(
      depth=depth,
      token_learner=dict(
        layer=round(self.placement * depth),
        num_tokens=self.num_tokens,
        version=self.version,
        fuser=self.fuser,
      ),
    )


def _all() -> list[Cell]:
  half = dict(placement=0.5)
  cells = [Cell("baseline", "ViT, all tokens to the end")]
  cells += [
    Cell(
      name.replace("/", "_"), f"{TOKENS} tokens {name[:2]} {name[2:]}", share
    )
    for name, share in PLACEMENTS.items()
  ]
  cells += [
    Cell(f"tokens{n}", f"{n} tokens at 1/2", num_tokens=n, **half)
    for n in NUMBERS
    if n != TOKENS
  ]
  cells += [
    Cell("v1_0", f"{TOKENS} tokens at 1/2, v1.0", version="1.0", **half),
    Cell("fuser", f"{TOKENS} tokens at 1/2, TokenFuser", fuser=True, **half),
  ]
  cells += [
    Cell(
      f"average{n}",
      f"{n} averages at 1/2",
      num_tokens=n,
      version="average",
      **half,
    )
    for n in (8, TOKENS)
  ]
  cells += [
    Cell(
      "deeper",
      f"{TOKENS} tokens before the last block, then as many blocks as cost "
      "the same as the baseline",
      placement=5 / 6,  # The paper's, of B/16.
      deeper=True,
    )
  ]
  return cells


CELLS = {cell.name: cell for cell in _all()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(recipe.Scale):
  """Sets the size of the study; depth is that of the baseline.

  Attributes:
    patch_size: in pixels.
  """

  patch_size: int


SCALES = {
  # 39 runs in 65 minutes on two CPU cores.
  "cpu": Scale(
    data="64",
    side=60,
    patch_size=6,
    width=96,
    depth=4,
    batch_size=64,
    steps=600,
  ),
  # A ViT-S, 144 tokens; 20 minutes on one modern GPU. Not yet run.
  "gpu": Scale(
    data="96",
    side=96,
    patch_size=8,
    width=384,
    depth=12,
    batch_size=256,
    steps=3000,
  ),
}


def model_section(cell: Cell, scale: Scale) -> dict:
  """Returns config.model."""
  section = recipe.model_section(scale, scale.patch_size)
  section |= cell.model(scale.depth)
  if cell.deeper:
    shape = (scale.side, scale.side, 3)
    plain = {k: v for k, v in section.items() if k != "token_learner"}
    budget = cost.macs(models.create(**plain), shape)
    while cost.macs(models.create(**_deeper(section)), shape) <= budget:
      section = _deeper(section)
  return section


def _deeper(section: dict) -> dict:
  return section | dict(depth=section["depth"] + 1)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  scale, cell, args = recipe.read_argument(
    arg, SCALES, lambda scale: CELLS, {}, cell="baseline", steps=0
  )
  if args["steps"] and not args["runlocal"]:
    scale = dataclasses.replace(scale, steps=args["steps"])
  c = recipe.config(scale, args["seed"])
  recipe.add_textures(c, scale)
  c.eval_steps = scale.steps
  c.model = model_section(cell, scale)
  return c
