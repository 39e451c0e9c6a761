"""The dials of a model: what may be chosen per call, and how it is drawn."""

from tokenlearner_flexivit.dials.config import default_dispatch, from_config
from tokenlearner_flexivit.dials.drawing import Dial, Dials, cost_by_size
from tokenlearner_flexivit.dials.setting import (
  KINDS,
  Kind,
  Setting,
  as_num_tokens,
  as_patch_size,
  positions,
)

__all__ = [
  "KINDS",
  "Dial",
  "Dials",
  "Kind",
  "Setting",
  "as_num_tokens",
  "as_patch_size",
  "cost_by_size",
  "default_dispatch",
  "from_config",
  "positions",
]
