"""One training of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/video_token_learner/config.py:cell=learned8,seed=0,scale=cpu
"""

import dataclasses
from typing import Any

import ml_collections

from experiments import recipe

BASELINE = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(recipe.Scale):
  """Sets the size of the study; tokens become fewer after half of the blocks.

  Attributes:
    frames: of a clip, of the 16 of a video.
    stride: distance between them.
    patch_size: in pixels; tubelets have 2 frames.
  """

  frames: int
  stride: int
  patch_size: int

  @property
  def grid(self) -> tuple[int, int, int]:
    """Returns the grid of tubelets (time, height, width)."""
    cells = self.side // self.patch_size
    return self.frames // 2, cells, cells


SCALES = {
  # 24 trainings in about 90 minutes on two CPU cores.
  "cpu": Scale(
    data="video_64",
    frames=8,
    stride=2,
    side=64,
    patch_size=8,
    width=64,
    depth=4,
    batch_size=64,
    steps=600,
    dtype="float32",
  ),
  # A ViT-S, 512 tokens; meant for 20 minutes on one modern GPU. Not yet run.
  "gpu": Scale(
    data="video_112",
    frames=16,
    stride=1,
    side=112,
    patch_size=14,
    width=384,
    depth=12,
    batch_size=64,
    steps=2500,
    dtype="bfloat16",
    num_threads=16,
  ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A model to train.

  Attributes:
    name: in tables and folders.
    text: what it is, for people.
    num_tokens: of each layer of tubelets; None for all.
    version: see `models.TokenLearner`.
    first: whether tokens become fewer before all blocks, rather than after
      half of them.
  """

  name: str
  text: str
  num_tokens: int | None = None
  version: str = "1.1"
  first: bool = False

  def token_learner(self, depth: int) -> dict[str, Any] | None:
    """Returns `token_learner` of config.model."""
    if self.num_tokens is None:
      return None
    return dict(
      layer=0 if self.first else depth // 2,
      num_tokens=self.num_tokens,
      version=self.version,
    )


CELLS = {
  cell.name: cell
  for cell in (
    Cell(BASELINE, "ViViT, all tokens to the end"),
    Cell("learned16", "16 learned tokens per frame", 16),
    Cell("learned8", "8 learned tokens per frame", 8),
    Cell("fixed8", "8 fixed tokens: averages of rectangles", 8, "average"),
    Cell("frame", "1 token: the average of the frame", 1, "average"),
    Cell("learned8_first", "8 learned, before all blocks", 8, first=True),
    Cell("fixed8_first", "8 fixed, before all blocks", 8, "average", True),
    Cell("frame_first", "1 average, before all blocks", 1, "average", True),
  )
}


def model_section(cell: Cell, scale: Scale) -> dict:
  """Returns config.model."""
  section = recipe.model_section(scale, scale.patch_size) | dict(
    name="vivit",
    patch_size=(2, scale.patch_size, scale.patch_size),
    posemb_grid=scale.grid,
  )
  learner = cell.token_learner(scale.depth)
  return section | ({} if learner is None else dict(token_learner=learner))


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  # 16 positions of a frame, as many as the most tokens.
  small = dict(depth=2, frames=4, side=16, patch_size=4)
  scale, cell, args = recipe.read_argument(
    arg, SCALES, lambda scale: CELLS, small, cell=BASELINE
  )
  c = recipe.config(scale, args["seed"])
  c.checkpoint_steps = 200

  # No flips: they would make one action another.
  last = "value_range(-1,1,key='video')|keep('video','label')"
  clip = f"{scale.frames},{scale.stride}"
  data = dict(
    name=f"rendered_scenes/{scale.data}",
    features=("video", "label"),  # The others take time to parse.
  )
  if args["runlocal"]:
    data = dict(name=f"fake:16x{scale.side}x{scale.side}x3:10:16")
  c.data = dict(
    **data,
    split="train",
    pp=f"decode_video|temporal_crop({clip})|{last}",
    num_threads=scale.num_threads,
  )
  c.model = model_section(cell, scale)
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        **data,
        split="test",
        pp=f"decode_video|temporal_central_crop({clip})|{last}",
      ),
      batch_size=8 if args["runlocal"] else 40,
    )
  )
  return c
