"""What the evaluators of a model's settings share."""

import abc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, parallel
from tokenlearner_flexivit.evaluators import images

Programs = Mapping[dials.Setting, Callable[..., Any]]


class Evaluator(abc.ABC):
  """A program per setting, and how fast each is.

  Attributes:
    settings: the settings that are evaluated.
  """

  def __init__(
    self,
    task: Any,
    settings: Sequence[dials.Setting],
    patch_sizes: Sequence[Any] | None,
    num_tokens: Sequence[Any] | None,
    batch_size: int,
    kind: str,
    where: str,
  ):
    """Chooses the settings: those of training, or others for either dial.

    Args:
      task: predicts.
      settings: the settings of training.
      patch_sizes: evaluates these instead, also sizes never trained on.
      num_tokens: likewise, numbers of learned tokens; None is all patches.
      batch_size: over all hosts.
      kind: "pmap" or "shard_map".
      where: name of the config section for errors.
    """
    sizes = dict.fromkeys(setting.patch_size for setting in settings)
    numbers = dict.fromkeys(setting.num_tokens for setting in settings)
    if patch_sizes is not None:
      sizes = [
        dials.as_patch_size(size, f"{where}.patch_sizes")
        for size in patch_sizes
      ]
    if num_tokens is not None:
      numbers = [
        dials.as_num_tokens(number, f"{where}.num_tokens")
        for number in num_tokens
      ]
    self.settings = tuple(
      map(dials.Setting._make, itertools.product(sizes, numbers))
    )
    self._task = task
    self._batch_size = batch_size
    self._kind = kind
    self._where = where

  def _open(
    self, data: dict[str, Any], source: data_lib.Source, **options: Any
  ) -> images.Images:
    """Returns the images of a split; see there for options and errors."""
    return images.Images(
      data,
      source,
      model=self._task.model,
      settings=self.settings,
      batch_size=self._batch_size,
      kind=self._kind,
      where=self._where,
      **options,
    )

  def _check_classes(self, source: data_lib.Source) -> None:
    """Raises ValueError for classes that the model does not know."""
    if (source.num_classes or 0) > self._task.num_classes:
      raise ValueError(
        f"{self._where}.data has {source.num_classes} classes, but the model "
        f"knows {self._task.num_classes}."
      )

  def _open_labelled(self, data: dict[str, Any]) -> data_lib.Source:
    """Opens a split: `_images`, `num_examples` and `image_shape`.

    Returns:
      its source.

    Raises:
      ValueError: it has classes that the model does not know; or see `Images`.
    """
    source = data_lib.open_source(data)
    self._check_classes(source)
    self._images = self._open(data, source)
    self.num_examples = self._images.num_examples
    self.image_shape = self._images.shape
    return source

  def _parallelize(self, function: Callable[..., Any], **options: Any) -> Any:
    return parallel.one_at_a_time(
      parallel.parallelize(function, self._kind, **options)
    )

  @abc.abstractmethod
  def _timed(self, params: Any) -> tuple[Programs, tuple[Any, ...]]:
    """Returns the programs that `throughput` times, and their arguments."""

  def throughput(self, params: Any, repeats: int = 5) -> dict[Any, float]:
    """Measures images per second of each setting's program.

    The settings take turns, so that a slow moment of the machine hits all.

    Args:
      params: as in `run`.
      repeats: the median of so many runs is taken.

    Returns:
      Images per second over all devices, by setting.
    """
    programs, arguments = self._timed(params)
    seconds = {setting: [] for setting in self.settings}
    for repeat in range(repeats + 1):
      for setting, program in programs.items():
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        if repeat:  # The first run may compile.
          seconds[setting].append(time.perf_counter() - start)
    return {
      setting: self._batch_size / statistics.median(times)
      for setting, times in seconds.items()
    }
