"""Zero-shot accuracy: classes told by the names that they have.

The names of the classes, put into templates such as "a photo of a {}", are
embedded as texts, once per evaluation; the class of an image is the one whose
embedding is nearest to its own (CLIP, arXiv 2103.00020, Section 3.1). With
several templates, the embedding of a class is the mean of those of its prompts,
at length 1. Any classification set serves. The metrics are those of the
`classification` evaluator, by logits that are cosines times the temperature.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.evaluators import base, classification, prompts
from tokenlearner_flexivit.models import checks
from tokenlearner_flexivit.tasks import classification as classification_task
from tokenlearner_flexivit.tasks import labels as labels_lib
from tokenlearner_flexivit.tasks import text_towers

# Prompts that are embedded in one call.
_PROMPTS = 256


@dataclasses.dataclass(frozen=True)
class _Classes:
  """Stands in for a task in the sums of a classification."""

  num_classes: int
  probabilities = staticmethod(jax.nn.softmax)
  example_loss = staticmethod(classification_task.softmax_xent)

  def one_hot(self, labels: jax.Array) -> jax.Array:
    """Returns weights of the classes, zeros for a negative label."""
    if labels_lib.are_numbers(labels):
      return jax.nn.one_hot(labels, self.num_classes)
    return labels.astype(jnp.float32)


class Evaluator(base.Evaluator):
  """An evaluator of zero-shot classification.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of the images.
    headline: the metric that settings are compared by.
  """

  metrics = classification.METRICS
  headline = "accuracy"
  needs = ("embed_texts",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    class_names: Sequence[str] | None = None,
    templates: str | Sequence[str] = "name",
    canonicalize: bool = True,
  ):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a task that has `predict`, `tokenize`, `embed_texts` and
        `logits`.
      data: the data section of the config, with `label`.
      class_names: names of the classes in the order of their numbers; None for
        those of the data.
      templates: texts with one {} for a name, or a name of `prompts.NAMED`,
        such as "clip_best".
      canonicalize: whether names and templates lose capitals and punctuation,
        as big_vision does; CLIP's own numbers are without it.

    Raises:
      ValueError: names are missing, repeated or of another number than the
        classes; a template without {}; no examples or labels; or a setting that
        does not fit the images.
    """
    super().__init__(context)
    where = self._where
    templates = prompts.read_templates(templates, f"{where}.templates")
    checks.boolean(canonicalize, f"{where}.canonicalize")
    source = data_lib.open_source(data, f"{where}.data")
    self.sources = (source,)
    names = _class_names(data, source, class_names, where)
    prompts.check_different(names, f"{where}.class_names", plain=canonicalize)
    self._classes = _Classes(len(names))
    self._tokens = self._task.tokenize(
      prompts.fill(names, templates, plain=canonicalize)
    )
    length = self._tokens.shape[-1]
    text_towers.warn_of_equal(
      names, self._tokens.reshape(len(names), -1, length)
    )
    self._images = self._open(data, source, check_labels=self._check_labels)
    self.image_shape = self._images.shape
    self._embed = self._answer_programs()
    self._add = self._program(
      ("zeroshot", self._classes),
      functools.partial(_add, self._task, self._classes, self._parallel),
      num_constants=2,
    )

  def _check_labels(self, labels: np.ndarray, where: str) -> None:
    labels_lib.check(labels, self._classes.num_classes, where, may_lack=True)

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/{accuracy,top5,loss,ece,examples}`.

    Raises:
      ValueError: a label is invalid, or no example has one.
    """
    number = self._classes.num_classes
    owners = np.repeat(np.arange(number), len(self._tokens) // number)
    embedded = prompts.class_embeddings(self._embed_prompts(params), owners)
    classes = self._parallel.place(embedded)
    zeros = self._parallel.place(classification.zero_sums(number))
    sums = dict.fromkeys(self.settings, zeros)
    for batch in self._images:
      inputs, labels = self._inputs(batch), self._labels(batch)
      for setting, embed in self._embed.items():
        answers = {**labels, "zimg": embed(params, inputs)}
        sums[setting] = self._add(sums[setting], answers, params, classes)
    for setting, setting_sums in sums.items():
      metrics = classification.metrics_from_sums(
        jax.device_get(setting_sums), self._where
      )
      for name, value in metrics.items():
        yield f"{setting.name}/{name}", value

  def _embed_prompts(self, params: Any) -> np.ndarray:
    """Returns the embeddings of all prompts, each host for itself."""
    programs = self._task.programs
    if "prompts" not in programs:
      programs["prompts"] = jax.jit(self._task.embed_texts)
    parts = []
    for start in range(0, len(self._tokens), _PROMPTS):
      tokens = self._tokens[start : start + _PROMPTS]
      padding = np.zeros(
        (_PROMPTS - len(tokens), tokens.shape[1]), tokens.dtype
      )
      padded = np.concatenate([tokens, padding])
      embedded = programs["prompts"](params, padded)
      parts.append(jax.device_get(embedded)[: len(tokens)])
    return np.concatenate(parts)

  def _timed(self, params):
    return self._embed, (params, self._inputs(next(iter(self._images))))


def _class_names(
  data: Mapping[str, Any],
  source: data_lib.Source,
  class_names: Sequence[str] | None,
  where: str,
) -> Sequence[str]:
  """Returns the names of the classes, or raises ValueError."""
  count, names = data_lib.classes(data, source, f"{where}.data")
  if class_names is not None:
    configuration.check_list(class_names, f"{where}.class_names")
    _check_order(class_names, names or (), f"{where}.class_names", source.name)
    names = class_names
  if names is None:
    raise ValueError(
      f"{source.name} does not name its classes, which zero-shot evaluation "
      f"reads. Give {where}.class_names, in the order of their numbers."
    )
  if count is not None and len(names) != count:
    raise ValueError(
      f"{where}.class_names names {len(names)} classes, but {source.name} has "
      f"{count}. Name each, in the order of their numbers."
    )
  return names


def _check_order(
  names: Sequence[str], known: Sequence[str], where: str, source: str
) -> None:
  """Raises ValueError for the names of the data in another order."""
  ours, theirs = (
    [str(name).casefold() for name in several] for several in (names, known)
  )
  if ours == theirs or sorted(ours) != sorted(theirs):
    return
  number = next(i for i, name in enumerate(ours) if name != theirs[i])
  raise ValueError(
    f"{where} has the names of {source} in another order: the class {number} "
    f"is {names[number]!r} here and {known[number]!r} there. Give them in the "
    "order of their numbers, or leave them out."
  )


def _add(task, classes, parallel, sums, batch, params, embedded):
  """Adds the sums of one batch; runs on each device."""
  zimg = batch["zimg"]
  zimg /= jnp.linalg.norm(zimg, axis=-1, keepdims=True) + 1e-8
  cosines = jnp.matmul(zimg, embedded.T, precision=jax.lax.Precision.HIGHEST)
  batch = {
    "logits": task.logits(params, cosines),
    "label": batch["label"],
    "mask": batch["mask"],
  }
  return classification.add_sums(classes, parallel, sums, batch)
