"""The compiled programs of a model: one per setting and batch size."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.models import checks
from tokenlearner_flexivit.parallel import compiled
from tokenlearner_flexivit.tasks import views

# Of the answers to a batch.
_MAX_BYTES = 1 << 28


class Outputs(NamedTuple):
  """The answers of a classifier to n images.

  Attributes:
    logits: of the classes.
    probabilities: of the classes.
    pre_logits: the representation; None for a model that has none.
  """

  logits: Float32[np.ndarray, "n C"]
  probabilities: Float32[np.ndarray, "n C"]
  pre_logits: Float32[np.ndarray, "n D"] | None


def largest_batch(trained: trained_lib.Trained) -> int:
  """Returns how many inputs may run at once: 64 images, or 4 videos.

  There are fewer if their answers, such as the logits of all pixels, would take
  more than 256 MiB.
  """
  most = 64 if trained.video is None else 4
  settings = trained.known_settings
  if trained.classifies or not settings:
    return most
  about = about_lib.about_answer(trained, settings[0])
  size = sum(
    math.prod(array["shape"][1:]) * np.dtype(array["dtype"]).itemsize
    for array in about.values()
  )
  fitting = max(1, _MAX_BYTES // max(1, size))
  return min(most, 1 << (fitting.bit_length() - 1))


class Programs:
  """The programs of a model on one device, for any number of images.

  There are programs for 1, 2, 4, ..., `max_batch` images, compiled when they
  are first needed. Smaller batches are padded to the next of these sizes, and
  larger ones are split at `max_batch`.

  Attributes:
    max_batch: the largest number of images that run at once.
    params: of the model, on the device.
  """

  def __init__(
    self,
    trained: trained_lib.Trained,
    max_batch: int,
    input_shape: tuple[int, ...],
  ):
    """Puts the parameters on the device.

    Args:
      trained: the model.
      max_batch: the largest number of images that run at once.
      input_shape: of one prepared image or video, with its views.

    Raises:
      ValueError: `max_batch` is not positive.
    """
    checks.whole(max_batch, "max_batch")
    self.max_batch = max_batch
    self._model = trained.model
    self._input_shape = input_shape
    self._task = trained.task
    self._classifies = trained.classifies
    self.params = jax.device_put(trained.params, jax.devices()[0])
    self._in_use = self._task.in_use(self.params)
    self._applied: dict[dials.Setting, Any] = {}
    self._compiled: dict[tuple[dials.Setting, int, str | None], Any] = {}

  def apply(
    self, setting: dials.Setting
  ) -> Callable[[Any, jax.Array], tuple[Any, jax.Array | None]]:
    """Returns the model at a setting, jitted.

    The function takes parameters and images float32 [B, H, W, C] of the model's
    size, or videos [B, T, H, W, C] or [B, views, T, H, W, C]. It returns the
    model's answer, such as logits [B, C], and pre_logits [B, D], or None if the
    model has none, both float32 and means over the views.
    """
    if setting not in self._applied:

      def apply(params, images):
        def answer(images):
          answer, out = self._model.apply(
            {"params": params}, images, **setting, train=False
          )
          outputs = answer, out.get("pre_logits")
          return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)

        return views.average(answer, images, self._model)

      self._applied[setting] = jax.jit(apply)
    return self._applied[setting]

  def run(
    self,
    batches: Iterable[np.ndarray],
    setting: dials.Setting,
    representation: str | None = None,
  ) -> Any:
    """Runs the model on batches.

    Args:
      batches: float32 [n, *input_shape], each of at most `max_batch` images.
      setting: of the dials.
      representation: the entry of the model's `out` to return, as
        `Task.representation` takes it; None for the answers.

    Returns:
      `Outputs` of a classifier, else the answer of the task; or the
      representation, float32 [n, D].

    Raises:
      ValueError: there is no image, or the model has no such representation.
    """
    done = list(self.stream(batches, setting, representation))
    if not done:
      raise ValueError("There is no image.")
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)

  def stream(
    self,
    batches: Iterable[np.ndarray],
    setting: dials.Setting,
    representation: str | None = None,
  ) -> Iterator[Any]:
    """Yields the result of `run` for each batch, of which two are in memory."""
    running = None
    for batch in batches:
      # It runs while the next batch is preprocessed.
      started = len(batch), self._start(batch, setting, representation)
      if running:
        yield _fetch(*running)
      running = started
    if running:
      yield _fetch(*running)

  def bucket(self, number: int) -> int:
    """Returns the batch size of the program that takes so many images."""
    return min(1 << max(0, number - 1).bit_length(), self.max_batch)

  def batch_sizes(self, number: int) -> Mapping[int, int]:
    """Returns how many batches of each size a call with so many images has."""
    whole, rest = divmod(number, self.max_batch)
    sizes = collections.Counter({self.max_batch: whole})
    if rest:
      sizes[self.bucket(rest)] += 1
    return +sizes

  def memory_bytes(self, setting: dials.Setting, batch_size: int) -> int | None:
    """Returns a program's memory in bytes; None if the compiler reports none.

    Args:
      setting: of the dials.
      batch_size: number of images, which `bucket` rounds up.
    """
    program = self._program(setting, self.bucket(batch_size))
    return compiled.memory_bytes(program)

  def _start(
    self,
    batch: np.ndarray,
    setting: dials.Setting,
    representation: str | None,
  ) -> Any:
    size = self.bucket(len(batch))
    if size > len(batch):
      filled = np.zeros((size, *batch.shape[1:]), np.float32)
      filled[: len(batch)] = batch
      batch = filled
    program = self._program(setting, size, representation)
    return program(self._in_use, batch)

  def _program(
    self,
    setting: dials.Setting,
    batch_size: int,
    representation: str | None = None,
  ) -> Any:
    """Returns the compiled program of a setting and number of images."""
    key = setting, batch_size, representation
    if key not in self._compiled:

      def outputs(params, images):
        task, batch = self._task, {self._model.input: images}
        if representation is not None:
          return task.representation(params, batch, setting, representation)
        if not self._classifies:
          return task.predict(params, batch, setting)
        logits, pre_logits = self.apply(setting)(params, images)
        return Outputs(logits, task.probabilities(logits), pre_logits)

      shape = batch_size, *self._input_shape
      images = jax.ShapeDtypeStruct(shape, jnp.float32)
      lowered = jax.jit(outputs).lower(self._in_use, images)
      self._compiled[key] = lowered.compile()
    return self._compiled[key]


def _fetch(number: int, outputs: Any) -> Any:
  """Waits for a program, and returns its outputs without the padding."""
  return jax.tree.map(lambda x: x[:number], jax.device_get(outputs))
