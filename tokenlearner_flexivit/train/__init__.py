"""Training: `train_and_evaluate(config, workdir)` and its parts."""

from tokenlearner_flexivit.train.loop import (
  NonFiniteLossError,
  evaluate,
  train_and_evaluate,
)
from tokenlearner_flexivit.train.preemption import PreemptedError

__all__ = [
  "NonFiniteLossError",
  "PreemptedError",
  "evaluate",
  "train_and_evaluate",
]
