r"""The similarity of representations by minibatch CKA.

Centred kernel alignment compares the representations of the same examples in
two layers, independent of rotation and scale. This is the minibatch estimator
of Nguyen, Raghu and Kornblith (arXiv 2010.15327, Section 3.1): the
unbiased HSIC_1 of each batch, summed over the batches, so that memory does not
grow with their number:

  CKA(X, Y) = sum_b HSIC_1(X_b X_b', Y_b Y_b') /
    sqrt(sum_b HSIC_1(X_b X_b', X_b X_b') * sum_b HSIC_1(Y_b Y_b', Y_b Y_b'))

Representations may have different features, so they may be of different layers,
patch sizes or models. `cka` runs models that take the same images;
`cka_streams` compares representations that were computed elsewhere.

Letters: n examples of a batch, F features, R representations.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import outputs

# HSIC_1 divides by n - 3.
MIN_EXAMPLES = 4
# Variation below this part of the size of a representation counts as rounding.
# Float32 keeps seven digits, and sums in another order for another row of the
# batch lose about one; a larger value would drop features that vary.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)

Labels = list[tuple[str, str]]
# Entries that have the cls token before the others.
_WITH_CLS = ("sa", "+sa", "mlp", "+mlp", "encoded")


@dataclasses.dataclass(frozen=True)
class Side:
  """A model at a setting, with the representations to compare.

  Attributes:
    model: a `models.ViT`.
    params: its parameters.
    setting: of the dials.
    names: entries of its `out`, such as "encoder/block05/+mlp".
    tokens: "all" compares the tokens at every position, "mean" their mean,
      "cls" the cls token, for entries that have it. Entries without tokens are
      used unchanged.
  """

  model: Any
  params: Any
  setting: dials.Setting
  names: Sequence[str]
  tokens: str = "all"

  def __post_init__(self):
    """Raises ValueError for a repeated name."""
    for name in self.names:
      if list(self.names).count(name) > 1:
        raise ValueError(
          f"names={tuple(self.names)} has {name!r} twice. Give each once."
        )

  def features(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns float32 [n, F] of each name; traceable.

    Args:
      params: of the model, so that they need not be constants of a program.
      images: [n, H, W, C].

    Raises:
      ValueError: a name that the model lacks (the error lists those it has),
        unknown `tokens`, or "cls" for a model or an entry without a cls token.
    """
    ways = {"all": all_tokens, "mean": _mean_token, "cls": _cls_token}
    if self.tokens not in ways:
      raise ValueError(f"tokens={self.tokens!r} must be one of {list(ways)}.")
    if self.tokens == "cls" and not self.model.has_cls:
      raise ValueError(
        "tokens='cls', but this model has no cls token: its pool is "
        f"{self.model.pool!r}."
      )
    out = outputs.named(
      self.model, params, images, self.setting, tuple(self.names)
    )
    if self.tokens == "cls":
      for name, x in out.items():
        if x.ndim > 2 and name.split("/")[-1] not in _WITH_CLS:
          raise ValueError(
            f"tokens='cls', but {name!r} has no cls token: it comes after the "
            "position embedding. Take entries of blocks, or 'encoded'."
          )
    return {name: ways[self.tokens](x) for name, x in out.items()}


def all_tokens(x: jax.Array) -> jax.Array:
  """Returns [n, ...] as [n, F]."""
  return x.reshape(len(x), -1)


def _mean_token(x: jax.Array) -> jax.Array:
  return x.mean(axis=range(1, x.ndim - 1)) if x.ndim > 2 else x


def _cls_token(x: jax.Array) -> jax.Array:
  return x[:, 0] if x.ndim == 3 else x.reshape(len(x), -1)


def hsic(kernels: jax.Array) -> jax.Array:
  """Returns unbiased HSIC_1 of all pairs of kernels (Song et al. 2012, eq. 5).

  Args:
    kernels: [R, n, n], symmetric.

  Returns:
    [R, R].

  Raises:
    ValueError: fewer than four examples.
  """
  n = kernels.shape[-1]
  if n < MIN_EXAMPLES:
    raise ValueError(
      f"CKA needs batches of at least {MIN_EXAMPLES} examples, this one has "
      f"{n}."
    )
  kernels = kernels * (1 - jnp.eye(n, dtype=kernels.dtype)[None])
  flat = kernels.reshape(len(kernels), -1)
  rows = kernels.sum(axis=-1)
  sums = rows.sum(axis=-1)
  precise = functools.partial(jnp.matmul, precision="highest")
  return (
    precise(flat, flat.T)
    + jnp.outer(sums, sums) / ((n - 1) * (n - 2))
    - 2 / (n - 2) * precise(rows, rows.T)
  ) / (n * (n - 3))


def kernel(features: jax.Array) -> jax.Array:
  """Returns the linear kernel [n, n] of examples [n, F].

  The features are centred, which affects HSIC_1 only by reducing rounding.
  Features that vary by no more than rounding have a kernel of zeros.
  """
  # Relative to the first example: common parts cancel exactly, and a small
  # variation loses no digits, as it would relative to a rounded mean.
  centred = features - features[:1]
  centred = centred - centred.mean(axis=0, keepdims=True)
  size = jnp.linalg.norm(features)
  varies = jnp.linalg.norm(centred) > _ROUNDING * size
  centred = jnp.where(varies, centred, 0)
  return jnp.matmul(centred, centred.T, precision="highest")


class Sums:
  """The sums over batches of HSIC_1 of all pairs of representations."""

  def __init__(self, progress: Callable[[int], None]):
    """Begins with no batch; `progress` is as in `cka`."""
    self._hsic = jax.jit(hsic)
    self._progress = progress
    self._total: Any = 0.0
    self._number = 0

  def add(self, kernels: Sequence[jax.Array]) -> None:
    """Adds the kernels of a batch, each [some of R, n, n]."""
    values = self._hsic(jnp.concatenate(kernels))
    self._total = self._total + np.asarray(values, np.float64)
    self._number += kernels[0].shape[-1]
    self._progress(self._number)

  def cka(self) -> np.ndarray:
    """Returns CKA [R, R]; raises ValueError if no batch was added."""
    if not self._number:
      raise ValueError(
        "CKA compares how examples differ from one another. It needs batches "
        f"of at least {MIN_EXAMPLES} examples, and got none."
      )
    return normalised(self._total)


def cka(
  batches: Iterable[np.ndarray | jax.Array | Mapping[str, Any]],
  sides: Mapping[str, Side],
  progress: Callable[[int], None] = lambda number: None,
) -> tuple[np.ndarray, Labels]:
  """Compares all representations of all sides with one another.

  Each batch goes once through every side, on the device, which returns only
  kernels. So the order of the examples is the same for all.

  Args:
    batches: of images [n, H, W, C], or those of `data.eval_batches`, with
      `image` and `mask`: padding is not counted. A batch of fewer than four
      examples, as the last may be, is left out.
    sides: by name.
    progress: called after each batch with the number of images so far.

  Returns:
    CKA, float64 [R, R], and the R pairs (name of the side, name in `out`).

  Raises:
    ValueError: no batch of four examples, or an error of `Side.features`.
  """

  @functools.cache
  def kernels_at(name):
    def compute(params, images):
      features = sides[name].features(params, images)
      return jnp.stack([kernel(x) for x in features.values()])

    return jax.jit(compute)

  params = {name: jax.device_put(side.params) for name, side in sides.items()}
  sums = Sums(progress)
  for batch in batches:
    images = _real_images(batch)
    if len(images) < MIN_EXAMPLES:
      continue
    images = jnp.asarray(images)
    sums.add([kernels_at(name)(params[name], images) for name in sides])
  labels = [
    (name, entry) for name, side in sides.items() for entry in side.names
  ]
  return sums.cka(), labels


def _real_images(batch: Any) -> Any:
  if not isinstance(batch, Mapping):
    return batch
  images, mask = batch["image"], batch.get("mask")
  return images if mask is None else images[np.asarray(mask) > 0]


def normalised(hsic_sums: np.ndarray) -> np.ndarray:
  """Returns CKA [R, R] of summed HSIC_1 [R, R].

  Representations that do not vary over the examples have no CKA: NaN.
  """
  own = np.diag(hsic_sums)
  # HSIC_1 of a kernel with itself is negative only by rounding.
  own = np.sqrt(np.where(own > 0, own, np.nan))
  return hsic_sums / np.outer(own, own)


def arc_cosine_distance(values: np.ndarray) -> np.ndarray:
  """Returns arccos of CKA, in [0, pi / 2].

  Unlike 1 - CKA it satisfies the triangle inequality (Williams et al., arXiv
  2110.14739). Estimates outside of [0, 1] are clipped.
  """
  return np.arccos(np.clip(values, 0, 1))
