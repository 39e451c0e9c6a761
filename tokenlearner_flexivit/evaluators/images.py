"""The images of an evaluator: checked, batched, and sent to the devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Shaped

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.parallel import Parallel, hosts
from tokenlearner_flexivit.tasks import views

# Before the names of entries that `truth_pp` makes.
TRUTH = "truth_"


class Images:
  """The batches of a split; each iteration is one pass over it.

  Batches lie on the devices and have the requested entries and `mask`. The
  devices do the end of the preprocessing, so that images are sent as uint8.

  Attributes:
    num_examples: of the split, each counted once.
    shape: (H, W, C) of an image, (T, H, W, C) of a video or of one view of it.
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
    labels: Callable[[], Shaped[np.ndarray, "num_examples ..."]] | None = None,
    check_labels: Callable[[Shaped[np.ndarray, "B ..."], str], None]
    | None = None,
    label_key: str = "label",
    truth_pp: str | None = None,
    before_batch: Callable[[], None] = lambda: None,
  ):
    """Checks the first example, and that a few others are like it.

    Args:
      data: the data section of the config.
      source: the data that this section names, or a part of them.
      model: the one that will read the images.
      settings: those that the model will run at.
      batch_size: over all hosts.
      parallel: places and runs on the devices.
      where: name of the evaluator's section for errors.
      entries: those that an example must have, beside the model's input.
      optional: further entries, which are used if an example has them.
      labels: returns the `label` of every example for the batches; called when
        they are needed.
      check_labels: a function of the examples' own labels and their source in
        words, which raises ValueError for invalid ones.
      label_key: the entry that holds these labels.
      truth_pp: another preprocessing of the same examples, whose entries join
        the batches with "truth_" in front of their names.
      before_batch: called before each batch on all hosts; it ends the pass by
        raising an error on all of them.

    Raises:
      ValueError: the batch size does not suit the devices, there is no example,
        it lacks an entry or has an invalid label, or a setting does not fit the
        images.
    """
    parallel.check_batch_size(batch_size, f"{where}.batch_size")
    self.num_examples = len(source)
    self.example = data_lib.peek(data, source, f"{where}.data")
    data_lib.check_sample(data, source, self.example, f"{where}.data")
    entries = (model.input, *entries)
    data_lib.check_entries(self.example, entries, f"{where}.data.pp")
    present = [key for key in optional if key in self.example]
    self._keys = tuple(dict.fromkeys([*entries, *present, "mask"]))
    truth = {**data, "pp": truth_pp}
    if truth_pp is not None:
      at = f"{where}.truth"
      own = data_lib.peek(truth, source, at)
      data_lib.check_sample(truth, source, own, at)
      self.example |= {f"{TRUTH}{key}": value for key, value in own.items()}
      data_lib.check_entries(self.example, [label_key], at)
    views.check_values(self.example[model.input], f"{where}.data.pp")
    self.shape = views.shape_of_one(self.example[model.input].shape, model)
    for setting in settings:
      model.check(self.shape[:-1], **setting)
    self._where = where
    self._check_labels = check_labels
    self._label_key = label_key
    has_labels = label_key in self._keys or truth_pp is not None
    if check_labels is not None and has_labels:
      check_labels(self.example[label_key][None], f"{where}.data.pp")
    self._parallel = parallel
    self._labels = labels
    self._has_truth = truth_pp is not None
    self._before_batch = before_batch

    self._batches = data_lib.eval_batches(
      data,
      batch_size=batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      source=source,
      skip_device_ops=True,
      also={} if truth_pp is None else {TRUTH: truth},
      where=f"{where}.data",
    )
    device_ops = data_lib.device_ops(data, f"{where}.data")
    self._finish = parallel.run(
      lambda _, batch: device_ops(batch), sharded_output=True
    )

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    # Unused, but pmap of JAX 0.10 takes the next argument for an empty one.
    unused = self._parallel.place(np.int32(0))
    batches = self._parallel.prefetch(self._host_batches())
    for _ in range(len(self._batches)):
      self._before_batch()
      # An example that one host cannot read ends the pass on all.
      with hosts.together():
        batch = next(batches)
      # One batch at a time: as float32 it is four times as large.
      yield self._finish(unused, batch)

  def _host_batches(self) -> Iterator[dict[str, np.ndarray]]:
    labels = None if self._labels is None else self._labels()
    for number, batch in enumerate(self._batches):
      batch = {
        key: value
        for key, value in batch.items()
        if key in self._keys or (self._has_truth and key.startswith(TRUTH))
      }
      if labels is not None:
        size = len(batch["mask"])
        first = (number * jax.process_count() + jax.process_index()) * size
        rows = np.arange(first, first + size)
        # Padding after the last example is masked, whatever its label.
        batch["label"] = labels[np.minimum(rows, self.num_examples - 1)]
      elif self._check_labels is not None and self._label_key in batch:
        real = batch[self._label_key][batch["mask"] > 0]
        self._check_labels(real, f"{self._where}.data")
      yield batch


def seen_pixels(
  valid: Float[Array, "b 2"] | None, images: Array
) -> Int32[Array, "b 2"]:
  """Returns height and width of the parts of images that are no padding."""
  size = jnp.asarray(images.shape[1:3], jnp.int32)[None]
  if valid is None:
    return jnp.broadcast_to(size, (len(images), 2))
  pixels = jnp.round(valid * size.astype(jnp.float32)).astype(jnp.int32)
  return jnp.maximum(pixels, 1)  # Padding of the last batch shows nothing.
