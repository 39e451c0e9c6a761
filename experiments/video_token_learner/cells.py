"""What is compared, and how large everything is."""

import dataclasses
from typing import Any

BASELINE = "all"


@dataclasses.dataclass(frozen=True)
class Scale:
  """A size of the study.

  Attributes:
    data: configuration of rendered_scenes, of 16 frames.
    frames: of a clip.
    stride: distance between them.
    side: of the frames in pixels.
    patch_size: in pixels; tubelets have 2 frames.
    width: of the models; MLPs are four times as wide, heads are of 32.
    depth: in blocks; tokens become fewer after half of them.
    batch_size: videos per step.
    steps: of each training.
    dtype: of the computation.
    num_threads: that decode frames.
  """

  data: str
  frames: int
  stride: int
  side: int
  patch_size: int
  width: int
  depth: int
  batch_size: int
  steps: int
  dtype: str
  num_threads: int

  @property
  def grid(self) -> tuple[int, int, int]:
    """Of tubelets: (time, height, width)."""
    cells = self.side // self.patch_size
    return self.frames // 2, cells, cells


SCALES = {
  # 24 trainings in about 90 minutes on two CPU cores.
  "cpu": Scale("video_64", 8, 2, 64, 8, 64, 4, 64, 600, "float32", 2),
  # A ViT-S, 512 tokens; meant for 20 minutes on one modern GPU. Not yet run.
  "gpu": Scale("video_112", 16, 1, 112, 14, 384, 12, 64, 2500, "bfloat16", 16),
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
