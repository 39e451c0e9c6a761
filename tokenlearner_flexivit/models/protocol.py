"""The interface of a model, with defaults for most of it.

Your own model takes about ten lines:

  class SmallCNN(protocol.Model):
    num_classes: int | None = None

    @nn.compact
    def __call__(self, images, *, train=False):
      x = nn.relu(nn.Conv(16, (3, 3), strides=4)(images)).mean(axis=(1, 2))
      out = {"pre_logits": x}
      return nn.Dense(self.num_classes, name="head")(x), out

  models.MODELS["small_cnn"] = SmallCNN  # As config.model.name.
"""

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import token_learner_checks

# What most models answer.
CLASSES = "logits of the classes of a whole input"


class Model(nn.Module):
  """The base of all models.

  `(answer, out) = model.apply({"params": p}, inputs, **setting, train=False)`.
  The keyword arguments of the call beside `train` are the dials that the model
  has, by the names of `dials.KINDS`. `out` is a dict of intermediates, among
  them `pre_logits` [B, D], the representation.

  Attributes:
    input: the entry of an example that the model sees: "image" for [H, W, C],
      "video" for [T, H, W, C].
    answers: in words, what the answer is if there is a head (`num_classes`).
    patch_size: the stored patch embedding's, or None without one.
    token_learner: the fields of its TokenLearner, or None without one.
    scanned_runs: the runs of blocks that a loop executes, see
      `models.stacking`.
  """

  input = "image"
  answers = CLASSES
  patch_size = None
  token_learner = None
  scanned_runs = ()

  @classmethod
  def from_variant(
    cls,
    variant: str | None = None,
    *,
    name: str | None = None,
    **arguments: Any,
  ) -> Self:
    """Builds the model from a config.

    Args:
      variant: a named size; models without named sizes take None.
      name: of the module within another one; see `flax.linen.Module`.
      **arguments: of the constructor.

    Raises:
      ValueError: for a variant, or an unknown argument, listing those known.
    """
    if variant is not None:
      raise ValueError(f"{cls.__name__} has no variants, got {variant!r}.")
    known = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    configuration.check_keys(arguments, known, cls.__name__)
    return cls(**arguments, name=name)

  @property
  def own_patch_size(self) -> tuple[int, int] | None:
    """Returns (height, width) in pixels of a call without patch size."""
    return None

  @property
  def own_setting(self) -> dict[str, Any]:
    """Returns the values of the dials in a call that sets none of them."""
    own = {"patch_size": self.own_patch_size}
    if self.token_learner is not None:
      own["num_tokens"] = self.token_learner["num_tokens"]
    return {name: value for name, value in own.items() if value is not None}

  def check(self, size: Sequence[int], **setting: Any) -> tuple[int, ...]:
    """Checks a call without tracing it.

    Args:
      size: [H, W] or [T, H, W] of an input.
      **setting: values of the dials.

    Returns:
      The grid of patches; empty for a model that has none.

    Raises:
      ValueError: the model has no such dial, or it does not suit the size.
    """
    del size
    known = inspect.signature(type(self).__call__).parameters
    for name, value in setting.items():
      if name not in known:
        raise ValueError(
          f"{type(self).__name__} has no dial {name}, got {value!r}."
        )
    return ()

  def check_run(
    self, shape: Sequence[int], settings: Sequence[Any], *, trains: bool
  ) -> None:
    """Checks the settings of a run, and what no single setting shows.

    Args:
      shape: [H, W, C] or [T, H, W, C] of an input.
      settings: `dials.Setting`s.
      trains: whether the run trains at them, rather than evaluates.

    Raises:
      ValueError: `check` refuses a setting, or the model's TokenLearner never
        gets more tokens than it learns.
    """
    grids = [self.check(shape[:-1], **setting) for setting in settings]
    token_learner_checks.check_tokens_become_fewer(self, shape, grids)
    if trains:
      token_learner_checks.warn_of_sum_pooling(self, settings)

  def dearer_settings(
    self, shape: Sequence[int], settings: Sequence[Any]
  ) -> str | None:
    """Returns in words the settings whose TokenLearner does not pay.

    Args:
      shape: [H, W, C] or [T, H, W, C] of an input.
      settings: `dials.Setting`s.
    """
    return token_learner_checks.dearer_settings(self, shape, settings)

  def seq_len(self, size: Sequence[int], **setting: Any) -> int | None:
    """Returns how many tokens an input becomes; None without tokens."""
    del size, setting
    return None

  def cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds of a forward pass for one input, by XLA.

    What a call does once, whatever its batch, such as resizing a kernel, does
    not count.

    Args:
      shape: [H, W, C] or [T, H, W, C].
      **setting: values of the dials.
    """
    return count(self, tuple(shape), tuple(setting.items()))[0] // 2


@functools.cache
def count(
  model: nn.Module, shape: tuple[int, ...], setting: tuple[tuple[str, Any], ...]
) -> tuple[int, int]:
  """Returns XLA's operations for one input, and those of a call beside them.

  A multiply-add counts as two.
  """
  one, two = (
    2 * round(xla_operations(model, shape, dict(setting), number) / 2)
    for number in (1, 2)
  )
  return two - one, 2 * one - two


def xla_operations(
  model: nn.Module,
  shape: Sequence[int],
  setting: dict[str, Any],
  batch_size: int = 1,
) -> float:
  """Returns XLA's own count of operations for a batch.

  Args:
    model: a Flax module that is called like a `Model`.
    shape: the shape of one input.
    setting: values of the dials.
    batch_size: number of inputs.
  """
  inputs = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), inputs)

  def apply(params, inputs):
    return model.apply(params, inputs, **setting)[0]

  # Counted before compilation, in the model's own operations. After it, the
  # count is of the backend's operations, and on GPUs it lacks the products that
  # became calls of a library (jax issues 16008, 22249).
  return jax.jit(apply).lower(params, inputs).cost_analysis()["flops"]
