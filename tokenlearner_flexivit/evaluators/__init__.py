"""Evaluators: one module per family of metrics, each with one `Evaluator`.

To add one, write a module with a class `Evaluator` that has the members of
the protocol below, and name it in `EVALUATORS`. Its constructor takes a
`Context`; its other parameters are the keys that an entry of `config.evals` may
have beside `type` and its period (`eval_steps`, `eval_epochs` or
`eval_examples`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.evaluators import (
  classification,
  distance,
  ensemble,
  fewshot,
  multilabel,
)
from tokenlearner_flexivit.evaluators.base import Context
from tokenlearner_flexivit.figures.metric import Metric


class EvaluatorProtocol(Protocol):
  """The interface of an evaluator, as the training loop needs it.

  Attributes:
    settings: the settings that it evaluates.
    sources: the data that it reads.
    image_shape: (H, W, C), of videos (T, H, W, C).
    metrics: the display of the metrics that tables show, by name and in order.
    headline: the metric that settings are compared by; higher is better.
  """

  settings: Sequence[dials.Setting]
  sources: Sequence[data_lib.Source]
  image_shape: tuple[int, ...]
  metrics: Mapping[str, Metric]
  headline: str

  @classmethod
  def check_data(cls, data: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a data section that is wrong whatever its data."""

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields the name and value of each metric.

    Metrics of a setting are named `{setting.name}/...`. Those of something
    else, such as a teacher, have its name in place of the setting's. Neither
    name contains a "/". `{setting.name}/examples` is the number of examples
    that the headline is computed from, without those that have no label; the
    interval of an accuracy follows from it.
    """

  def throughput(self, params: Any) -> dict[dials.Setting, float]:
    """Measures images, or videos, per second of each setting."""


EVALUATORS = {
  "classification": classification.Evaluator,
  "distance": distance.Evaluator,
  "ensemble": ensemble.Evaluator,
  "fewshot": fewshot.Evaluator,
  "multilabel": multilabel.Evaluator,
}


def _read(section: dict[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
  """Returns the class that an entry of `config.evals` names, and its keys."""
  # The command line passes None for the default.
  arguments = {k: v for k, v in section.items() if v is not None}
  for key in configuration.duration_keys("eval"):
    arguments.pop(key, None)
  cls = configuration.choose(
    arguments.pop("type", "classification"), EVALUATORS, f"{where}.type"
  )
  if not isinstance(arguments.get("data", {}), Mapping):
    raise ValueError(
      f"{where}.data={arguments['data']!r} must be a section, as config.data."
    )
  return cls, arguments


def check(section: dict[str, Any], where: str) -> None:
  """Raises ValueError for faults of an entry that do not depend on its data.

  Args:
    section: of `config.evals`.
    where: its name for errors.
  """
  cls, arguments = _read(section, where)
  configuration.check_call(cls, arguments, where, ("context",))
  if (data := arguments.get("data")) is not None:
    cls.check_data(data, f"{where}.data")


def create(section: dict[str, Any], context: Context) -> EvaluatorProtocol:
  """Builds the evaluator that an entry of `config.evals` describes.

  Raises:
    ValueError: something is wrong with the entry or its data.
  """
  where = context.where
  cls, arguments = _read(section, where)
  return configuration.call(cls, arguments, where, context=context)
