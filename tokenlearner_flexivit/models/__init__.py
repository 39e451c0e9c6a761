"""Models, by name."""

import operator
from typing import Any

from flax import linen as nn

from tokenlearner_flexivit.models.label_coder import LabelCoder
from tokenlearner_flexivit.models.owl_vit import OwlViT
from tokenlearner_flexivit.models.segmenter import Segmenter
from tokenlearner_flexivit.models.text_transformer import TextTransformer
from tokenlearner_flexivit.models.token_fuser import TokenFuser
from tokenlearner_flexivit.models.token_learner import TokenLearner
from tokenlearner_flexivit.models.two_towers import TwoTowers
from tokenlearner_flexivit.models.uvim import UViM
from tokenlearner_flexivit.models.video.bottleneck import BottleneckViViT
from tokenlearner_flexivit.models.video.vivit import ViViT
from tokenlearner_flexivit.models.video.vivit_factorised import ViViTFactorised
from tokenlearner_flexivit.models.vit import ViT

MODELS = {
  "vit": ViT,
  "label_coder": LabelCoder,
  "owl_vit": OwlViT,
  "segmenter": Segmenter,
  "two_towers": TwoTowers,
  "uvim": UViM,
  "vivit": ViViT,
  "vivit_factorised": ViViTFactorised,
  "vivit_bottleneck": BottleneckViViT,
}

__all__ = [
  "MODELS",
  "BottleneckViViT",
  "LabelCoder",
  "OwlViT",
  "Segmenter",
  "TextTransformer",
  "TokenFuser",
  "TokenLearner",
  "TwoTowers",
  "UViM",
  "ViT",
  "ViViT",
  "ViViTFactorised",
  "create",
  "input_shape",
]


def create(
  name: str | None = None, variant: str | None = None, **kwargs: Any
) -> nn.Module:
  """Builds a model from a config.

  Args:
    name: one of `MODELS`; None for "vit".
    variant: a named size such as "B/16", or None.
    **kwargs: constructor arguments; they beat those of the variant.

  Returns:
    a linen module.

  Raises:
    ValueError: for an unknown name, variant or argument, listing those known;
      for one that is missing or of a wrong type.
  """
  name = "vit" if name is None else name
  if not isinstance(name, str) or name not in MODELS:
    raise ValueError(
      f"Unknown model {name!r}. Known: {', '.join(sorted(MODELS))}."
    )
  try:
    return MODELS[name].from_variant(variant, **kwargs)
  except TypeError as error:
    raise ValueError(f"The model {name!r} cannot be built: {error}.") from error


def input_shape(model: nn.Module, channels: int = 3) -> tuple[int, ...]:
  """Returns the shape of an input that suits the stored buffers of a model.

  Args:
    model: an instance of one of `MODELS`.
    channels: number of channels of its images.

  Returns:
    (H, W, channels), or (T, H, W, channels) for a model for videos.
  """
  grid = model.posemb_grid
  # A model for videos may cut them frame by frame.
  patch_size = (1, *model.patch_size)[-len(grid) :]
  return (*map(operator.mul, patch_size, grid), channels)
