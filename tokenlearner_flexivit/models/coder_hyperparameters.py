"""The arguments of a `LabelCoder`, what is wrong with them, what it costs.

Letters: h w grid, N = h w patches, p pixels of a patch, L length of the code, C
labels of pixels, I instances, D width, d features of a word.
"""

import math
from collections.abc import Sequence
from typing import Any

from tokenlearner_flexivit.models import (
  checks,
  fsq,
  layer_costs,
  protocol,
  tiling,
)
from tokenlearner_flexivit.models import posemb as posembs

QUANTIZERS = ("fsq", "vq")
CODE_DROPOUTS = ("none", "ordered", "random")


class CoderHyperparameters(protocol.Model):
  """The base of `LabelCoder`, which describes its attributes: them, checked."""

  num_labels: int
  num_instances: int
  width: int
  encoder_depth: int
  decoder_depth: int
  mlp_dim: int
  num_heads: int
  patch_size: Any = (16, 16)
  posemb_grid: Any = (32, 32)
  posemb: str = "learn"
  code_grid: Any = None
  code_len: int | None = None
  quantizer: str = "fsq"
  levels: Any = (7, 5, 5, 5, 5)
  num_words: int = 4096
  word_dim: int | None = None
  encoder_context: bool = True
  decoder_context: bool = True
  code_dropout: str = "none"
  head_zeroinit: bool = True
  dtype: Any = "float32"

  answers = "logits of the labels and the instances of every pixel"

  def __post_init__(self):
    sizes = ("width", "encoder_depth", "decoder_depth", "mlp_dim", "num_heads")
    for name in (*sizes, "num_words"):
      checks.whole(getattr(self, name), name)
    for name in ("num_labels", "num_instances"):
      checks.whole(getattr(self, name), name, least=2)
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not divisible by num_heads={self.num_heads}."
      )
    self.patch_size = tiling.to_pair(self.patch_size, "patch_size")
    self.posemb_grid = tiling.to_pair(self.posemb_grid, "posemb_grid")
    checks.choice(self.posemb, "posemb", posembs.POSEMBS)
    if self.posemb == "sincos2d":
      posembs.check_sincos_width(self.width)
    if (self.code_grid is None) == (self.code_len is None):
      raise ValueError(
        f"code_grid={self.code_grid!r} and code_len={self.code_len!r}: set one "
        "of them, such as code_grid=(16, 16)."
      )
    if self.code_grid is not None:
      self.code_grid = tiling.to_pair(self.code_grid, "code_grid")
    else:
      checks.whole(self.code_len, "code_len")
    checks.choice(self.quantizer, "quantizer", QUANTIZERS)
    self.levels = fsq.check_levels(self.levels)
    if self.word_dim is not None:
      checks.whole(self.word_dim, "word_dim")
    for name in ("encoder_context", "decoder_context", "head_zeroinit"):
      checks.boolean(getattr(self, name), name)
    checks.choice(self.code_dropout, "code_dropout", CODE_DROPOUTS)
    self.dtype = checks.dtype(self.dtype)
    super().__post_init__()

  @property
  def image_size(self) -> tuple[int, int]:
    """Returns (H, W), the only size of images and labels."""
    return tuple(
      p * n for p, n in zip(self.patch_size, self.posemb_grid, strict=True)
    )

  @property
  def length(self) -> int:
    """Returns L."""
    return self.code_len or math.prod(self.code_grid)

  @property
  def num_codes(self) -> int:
    """Returns the number of different words."""
    is_fsq = self.quantizer == "fsq"
    return fsq.num_codes(self.levels) if is_fsq else self.num_words

  def check(self, size: Sequence[int], **setting: Any) -> tuple[int, int]:
    """Returns the grid of patches; raises ValueError for another image size."""
    super().check(size, **setting)
    if tuple(size) != self.image_size:
      shown = ("x".join(map(str, s)) for s in (self.image_size, size))
      raise ValueError(
        "The model of labels sees images of {}, not {}: its posemb_grid times "
        "its patch_size.".format(*shown)
      )
    return self.posemb_grid

  def seq_len(self, size: Sequence[int], **setting: Any) -> int:
    """Returns N."""
    return math.prod(self.check(size, **setting))

  def cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds of encoding and decoding an image's labels."""
    encoding = self._ends_macs(shape[-1], self.encoder_context)
    blocks = self._blocks_cost(self.encoder_depth)
    return encoding + blocks + self.decoding_cost(shape, **setting)

  def decoding_cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds of decoding an image's code."""
    self.check(shape[:-1], **setting)
    ends = self._ends_macs(shape[-1], self.decoder_context)
    return ends + self._blocks_cost(self.decoder_depth)

  def _ends_macs(self, channels: int, has_context: bool) -> int:
    """Returns those of the maps, of the image and of the code's layer."""
    n, pixels = math.prod(self.posemb_grid), math.prod(self.patch_size)
    kinds = self.num_labels + self.num_instances
    kinds += channels if has_context else 0
    if self.code_grid is None:
      resize = self.length * n * self.width
    else:
      (h, w), (rows, columns) = self.posemb_grid, self.code_grid
      resize = rows * h * w * self.width * (rows != h)
      resize += rows * columns * w * self.width * (columns != w)
    word = len(self.levels) if self.quantizer == "fsq" else self._word_dim
    return (
      n * pixels * kinds * self.width
      + resize
      + (self.length * self.width * word)
    )

  def _blocks_cost(self, depth: int) -> int:
    n = math.prod(self.posemb_grid)
    block = layer_costs.block(n, self.width, self.mlp_dim, self.num_heads)
    return block.macs * depth

  @property
  def _word_dim(self) -> int:
    return self.word_dim or self.width
