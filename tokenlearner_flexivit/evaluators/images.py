"""The images that an evaluator sees: checked, batched, sent to the devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import views


class Images:
  """The batches of a split. Each iteration is a pass; see `eval_batches`.

  Batches lie on the devices and have the entries asked for and `mask`. The
  devices do the end of the preprocessing, so that images come as uint8.

  Attributes:
    num_examples: of the split, each counted once.
    shape: (H, W, C) of an image, (T, H, W, C) of a video or one view of it.
    example: the first example, preprocessed.
  """

  def __init__(
    self,
    data: dict[str, Any],
    source: data_lib.Source,
    *,
    model: Any,
    settings: Sequence[dials.Setting],
    batch_size: int,
    parallel: Parallel,
    where: str,
    entries: Sequence[str] = ("label",),
    optional: Sequence[str] = (),
    labels: Callable[[], np.ndarray] | None = None,
    check_labels: Callable[[np.ndarray, str], None] | None = None,
  ):
    """Checks the first example, and of a few others that they are alike.

    Args:
      data: the data section of the config.
      source: what it names, or a part of it.
      model: that will see the images.
      settings: under which it will.
      batch_size: over all hosts.
      parallel: places and runs on the devices.
      where: name of the evaluator's section for errors.
      entries: of an example, without which it does not fit, as without the
        model's input.
      optional: further ones, taken along if they are there.
      labels: returns [num_examples, ...], which batches get as `label`; called
        when they are needed.
      check_labels: a function of the examples' own labels [B, ...] and where
        they come from; raises ValueError for those that are none.

    Raises:
      ValueError: the batch size does not suit the devices, there is no example
        or not one of its entries or its label is none, or a setting does not
        fit the images.
    """
    parallel.check_batch_size(batch_size, f"{where}.batch_size")
    self.num_examples = len(source)
    self.example = data_lib.peek(data, source, f"{where}.data")
    data_lib.check_sample(data, source, self.example, f"{where}.data")
    entries = (model.input, *entries)
    data_lib.check_entries(self.example, entries, f"{where}.data.pp")
    there = [key for key in optional if key in self.example]
    self._keys = tuple(dict.fromkeys([*entries, *there, "mask"]))
    views.check_values(self.example[model.input], f"{where}.data.pp")
    self.shape = views.shape_of_one(self.example[model.input].shape, model)
    for setting in settings:
      model.check(self.shape[:-1], **setting)
    self._where = where
    self._check_labels = check_labels
    if check_labels is not None and "label" in self._keys:
      check_labels(self.example["label"][None], f"{where}.data.pp")
    self._parallel = parallel
    self._labels = labels
    self._batches = data_lib.eval_batches(
      data,
      batch_size=batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      source=source,
      skip_device_ops=True,
      where=f"{where}.data",
    )

    device_ops = data_lib.device_ops(data, f"{where}.data")
    self._finish = parallel.run(
      lambda _, batch: device_ops(batch), sharded_output=True
    )

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    # Of no use, but pmap of JAX 0.10 takes the next argument for an empty one.
    unused = self._parallel.place(np.int32(0))
    for batch in self._parallel.prefetch(self._host_batches()):
      # One batch at a time: finished, it is four times as large.
      yield self._finish(unused, batch)

  def _host_batches(self) -> Iterator[dict[str, np.ndarray]]:
    labels = None if self._labels is None else self._labels()
    for number, batch in enumerate(self._batches):
      batch = {key: batch[key] for key in self._keys}
      if labels is not None:
        size = len(batch["mask"])
        first = (number * jax.process_count() + jax.process_index()) * size
        rows = np.arange(first, first + size)
        # Behind the last example comes filling, masked whatever its label.
        batch["label"] = labels[np.minimum(rows, self.num_examples - 1)]
      elif self._check_labels is not None and "label" in batch:
        real = batch["label"][batch["mask"] > 0]
        self._check_labels(real, f"{self._where}.data")
      yield batch
