"""Models, by name."""

from typing import Any

from flax import linen as nn

from tokenlearner_flexivit.models.bottleneck import BottleneckViViT
from tokenlearner_flexivit.models.token_fuser import TokenFuser
from tokenlearner_flexivit.models.token_learner import TokenLearner
from tokenlearner_flexivit.models.vit import ViT
from tokenlearner_flexivit.models.vivit import ViViT
from tokenlearner_flexivit.models.vivit_factorised import ViViTFactorised

MODELS = {
  "vit": ViT,
  "vivit": ViViT,
  "vivit_factorised": ViViTFactorised,
  "vivit_bottleneck": BottleneckViViT,
}

__all__ = [
  "MODELS",
  "BottleneckViViT",
  "TokenFuser",
  "TokenLearner",
  "ViT",
  "ViViT",
  "ViViTFactorised",
  "create",
]


def create(
  name: str = "vit", variant: str | None = None, **kwargs: Any
) -> nn.Module:
  """Builds a model from a config.

  Args:
    name: one of `MODELS`.
    variant: a named size such as "B/16", or None.
    **kwargs: constructor arguments; they beat those of the variant.

  Returns:
    a linen module.

  Raises:
    ValueError: for an unknown name, variant or argument, listing those known.
  """
  if name not in MODELS:
    raise ValueError(
      f"Unknown model {name!r}. Known: {', '.join(sorted(MODELS))}."
    )
  return MODELS[name].from_variant(variant, **kwargs)
