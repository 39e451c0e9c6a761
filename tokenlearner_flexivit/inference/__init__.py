"""Use of trained models: predictions, latency budgets, exports."""

from tokenlearner_flexivit.inference.answers import (
  Embeddings,
  Label,
  Prediction,
  Similarity,
)
from tokenlearner_flexivit.inference.predictor import Predictor
from tokenlearner_flexivit.inference.trained import Trained

__all__ = [
  "Embeddings",
  "Label",
  "Prediction",
  "Predictor",
  "Similarity",
  "Trained",
]
