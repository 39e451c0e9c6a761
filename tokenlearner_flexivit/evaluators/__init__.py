"""Evaluators: one module per family of metrics, each with one `Evaluator`.

To add one, write a subclass of `Evaluator`, here or anywhere, and name it in
`EVALUATORS`. Its constructor takes a `Context`; its other parameters are the
keys that an entry of `config.evals` may have beside those of all: `type`, its
period (`eval_steps`, `eval_epochs` or `eval_examples`), `batch_size`, and lists
of values of dials, `patch_sizes` and `num_tokens`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.evaluators import (
  classification,
  detection,
  distance,
  ensemble,
  fewshot,
  knn,
  multilabel,
  panoptic,
  retrieval,
  segmentation,
  similarity,
  zeroshot,
)
from tokenlearner_flexivit.evaluators.base import Context, Evaluator

__all__ = ["EVALUATORS", "Context", "Evaluator", "check", "create"]

EVALUATORS = {
  "classification": classification.Evaluator,
  "detection": detection.Evaluator,
  "distance": distance.Evaluator,
  "ensemble": ensemble.Evaluator,
  "fewshot": fewshot.Evaluator,
  "knn": knn.Evaluator,
  "multilabel": multilabel.Evaluator,
  "panoptic": panoptic.Evaluator,
  "retrieval": retrieval.Evaluator,
  "segmentation": segmentation.Evaluator,
  "similarity": similarity.Evaluator,
  "zeroshot": zeroshot.Evaluator,
}


def _read(
  section: dict[str, Any], where: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
  """Reads an entry of `config.evals`.

  Returns:
    the class that it names, the arguments of its constructor, and those of
    `Context.choose`.
  """
  cls = configuration.choose(
    configuration.value(section, "type", "classification"),
    EVALUATORS,
    f"{where}.type",
  )
  taken = ("type", *configuration.duration_keys("eval"))
  arguments = {k: v for k, v in section.items() if k not in taken}
  if not isinstance(configuration.value(arguments, "data", {}), Mapping):
    raise ValueError(
      f"{where}.data={arguments['data']!r} must be a section, as config.data."
    )
  shared = ["batch_size", *(kind.key for kind in dials.KINDS.values())]
  own = inspect.signature(cls).parameters.keys() - {"context"}
  configuration.check_keys(arguments, own | set(shared), where)
  # The command line passes None for the default.
  arguments = {k: v for k, v in arguments.items() if v is not None}
  choice = {key: arguments.pop(key) for key in shared if key in arguments}
  return cls, arguments, choice


def check(section: dict[str, Any], where: str) -> None:
  """Raises ValueError for faults of an entry that do not depend on its data.

  Args:
    section: of `config.evals`.
    where: its name for errors.
  """
  cls, arguments, _ = _read(section, where)
  configuration.check_call(cls, arguments, where, ("context",))
  cls.check(arguments, where)


def _suits(cls: type[Evaluator], task: Any) -> bool:
  """Tells whether a task has what an evaluator needs of it."""
  return all(hasattr(task, name) for name in cls.needs)


def create(section: dict[str, Any], context: Context) -> Evaluator:
  """Builds the evaluator that an entry of `config.evals` describes.

  Args:
    section: the entry.
    context: with the settings and the batch size of training.

  Raises:
    ValueError: something is wrong with the entry or its data.
  """
  where = context.where
  cls, arguments, choice = _read(section, where)
  if not _suits(cls, context.task):
    fitting = [
      name
      for name, other in EVALUATORS.items()
      if _suits(other, context.task)
      and getattr(other, "headline", None) == context.task.headline
    ]
    kind = section.get("type") or "classification"
    raise ValueError(
      f"{where}.type={kind!r} cannot evaluate {type(context.task).__name__}, "
      "the task of config.task."
      + "".join(f" Set {where}.type={name!r}." for name in fitting[:1])
    )
  context = context.choose(**choice)
  return configuration.call(cls, arguments, where, context=context)
