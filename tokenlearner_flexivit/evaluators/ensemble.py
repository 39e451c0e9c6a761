"""Ensembles of one model's settings, compared with single settings.

One set of weights gives an answer per patch size; the mean of their
probabilities is an ensemble. FlexiViT (arXiv 2212.08013) finds that it is
almost always worse than one patch size at the cost of all its members. This
evaluator makes the comparison in one pass: each batch is read, decoded and sent
to the devices once, each setting's program runs on it once, and the ensembles
are computed from the answers.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.evaluators import base, classification, mixture
from tokenlearner_flexivit.figures.metric import Metric

Group = tuple[dials.Setting, ...]


def read_groups(
  groups: Sequence[Sequence[Any]] | None,
  settings: Sequence[dials.Setting],
  where: str,
) -> tuple[Group, ...]:
  """Returns the ensembles that a config names.

  Args:
    groups: the patch sizes of each, such as ((48, 24), (24, 16, 12)). None
      takes every pair of the settings and all of them together.
    settings: the evaluated ones.
    where: name of `groups` for errors.

  Raises:
    ValueError: no group, a group of fewer than two, a repeated group or member,
      a patch size that is not evaluated, or several numbers of learned tokens.
  """
  if len(settings) < 2:
    raise ValueError(
      f"{where}: an ensemble needs at least two patch sizes, but only "
      f"{', '.join(setting.name for setting in settings)} is evaluated. Name "
      "more in patch_sizes."
    )
  if len({setting.num_tokens for setting in settings}) > 1:
    raise ValueError(
      f"{where}: ensembles combine patch sizes at one number of learned "
      "tokens. Name that number, such as num_tokens=(8,)."
    )
  if groups is None:
    sizes = dict.fromkeys((2, len(settings)))
    pairs_and_all = (itertools.combinations(settings, n) for n in sizes)
    return tuple(itertools.chain(*pairs_and_all))
  configuration.check_list(groups, where)
  if not groups:
    raise ValueError(f"{where} is empty; leave it out for all pairs.")
  known = {setting.patch_size: setting for setting in settings}
  checked_groups = {}
  for group in groups:
    sizes = group if isinstance(group, Sequence) else (group,)
    sizes = [dials.as_patch_size(size, where) for size in sizes]
    if len(sizes) < 2 or len(set(sizes)) < len(sizes):
      raise ValueError(
        f"{where}: {group!r} must be two or more different patch sizes."
      )
    for size in sizes:
      if size not in known:
        names = ", ".join(setting.name for setting in settings)
        raise ValueError(
          f"{where}: the patch size {size} of {group!r} is none of those "
          f"evaluated: {names}. Name it in patch_sizes."
        )
    if frozenset(sizes) in checked_groups:
      raise ValueError(f"{where} has {group!r} twice; name each group once.")
    checked_groups[frozenset(sizes)] = tuple(known[size] for size in sizes)
  return tuple(checked_groups.values())


def group_name(group: Group) -> str:
  """Returns the name of an ensemble in metrics, such as "patch24+patch16"."""
  return "+".join(setting.name for setting in group)


class Evaluator(base.Evaluator):
  """An evaluator of a classification task's settings, alone and in ensembles.

  Attributes:
    settings: the settings that are evaluated.
    groups: the ensembles of these settings.
    image_shape: (H, W, C), of videos (T, H, W, C).
    headline: the metric that settings are compared by.
  """

  metrics = MappingProxyType(
    {
      "accuracy": classification.METRICS["accuracy"],
      # For settings that cost no more than the ensemble.
      "single_accuracy": Metric("best single", "%", is_share=True),
      **classification.METRICS,
    }
  )
  headline = "accuracy"
  needs = ("one_hot",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    groups: Sequence[Sequence[Any]] | None = None,
  ):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a task that has `predict`, `one_hot`, `probabilities`,
        `example_loss` and `check_labels`.
      data: the data section of the config.
      groups: as `read_groups` takes them.

    Raises:
      ValueError: no examples, a setting that does not fit the images, or a
        group that `read_groups` refuses.
    """
    super().__init__(context)
    task, where = context.task, context.where
    self.groups = read_groups(groups, self.settings, f"{where}.groups")
    self._open_labelled(data)
    # A setting alone is an ensemble of one.
    self._all = (*((setting,) for setting in self.settings), *self.groups)
    self._members = np.array(
      [[setting in group for setting in self.settings] for group in self._all]
    )
    self._logits = self._answer_programs()
    self._add = self._program(
      ("ensembles", self.settings, self._all),
      functools.partial(_add, task, self._members, self._parallel),
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields the metrics of every setting and of every ensemble.

    These are `{setting.name}/{accuracy,top5,loss,ece,examples}`, and the same
    for ensembles, such as `patch24+patch16/accuracy`. Ensembles also have
    `gmacs`, of all members together, and `single_accuracy` and `single_gmacs`,
    of the setting that is best on these examples among those that cost no more.
    """
    sums = jax.tree.map(
      lambda x: np.zeros((len(self._all), *x.shape), x.dtype),
      classification.zero_sums(self._task.num_classes),
    )
    sums = self._parallel.place(sums)
    for batch in self._images:
      inputs = self._inputs(batch)
      answers = [logits(params, inputs) for logits in self._logits.values()]
      sums = self._add(sums, {**self._labels(batch), "logits": answers})
    sums = jax.device_get(sums)
    metrics = {
      group: classification.metrics_from_sums(
        {k: v[i] for k, v in sums.items()}, self._where
      )
      for i, group in enumerate(self._all)
    }
    macs = {
      setting: self._task.model.cost(self.image_shape, **setting)
      for setting in self.settings
    }
    for group, values in metrics.items():
      if len(group) > 1:
        values |= self._comparison(group, metrics, macs)
      for name, value in values.items():
        yield f"{group_name(group)}/{name}", value

  def _comparison(
    self, group: Group, metrics: Any, macs: dict[dials.Setting, int]
  ) -> dict[str, float]:
    """Returns the cost of a group, and the best single setting at that cost."""
    total = sum(macs[setting] for setting in group)
    best = max(
      (setting for setting in self.settings if macs[setting] <= total),
      key=lambda setting: (metrics[setting,]["accuracy"], -macs[setting]),
    )
    return {
      "gmacs": total / 1e9,
      "single_accuracy": metrics[best,]["accuracy"],
      "single_gmacs": macs[best] / 1e9,
    }

  def _timed(self, params):
    return self._logits, (params, self._inputs(next(iter(self._images))))


def _add(task, members, parallel, sums, batch):
  """Adds one batch to the sums [ensembles, ...]; runs on each device."""
  logits = jnp.stack(batch["logits"], axis=1)
  labels = task.one_hot(batch["label"])

  def ensemble_sums(members):
    mean = mixture.mean_logits(logits, task.probabilities, members)
    return classification.batch_sums(
      mean,
      task.probabilities(mean),
      labels,
      task.example_loss(mean, labels),
      batch["mask"],
    )

  new = jax.lax.map(ensemble_sums, jnp.asarray(members))
  return jax.tree.map(jnp.add, sums, parallel.sum(new))
