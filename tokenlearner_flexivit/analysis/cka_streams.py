"""CKA of representations that were computed elsewhere, as streams of batches.

`cka` runs models that take the same images. Streams serve for models that need
different images, or that are not of this library. An array of features does not
identify the examples of its rows, so every batch has ids, which must be the
same in all streams.

Letters: n examples of a batch, R representations.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit.analysis import cka as cka_lib


class Features(NamedTuple):
  """The representations of a batch by a model.

  Attributes:
    ids: [n], identifiers of the examples, such as their `id` or the paths of
      files. Labels can serve, but they reveal only a change of order that
      changes labels.
    values: by name of the representation, [n, ...].
    mask: [n], 0 for padding; None without padding.
  """

  ids: Sequence[Any] | np.ndarray
  values: Mapping[str, np.ndarray | jax.Array]
  mask: np.ndarray | None = None


def cka(
  streams: Mapping[str, Iterable[Features]],
  progress: Callable[[int], None] = lambda number: None,
) -> tuple[np.ndarray, cka_lib.Labels]:
  """Compares all representations of all streams with one another.

  Args:
    streams: by name; their batches are of the same examples in the same order.
    progress: called after each batch with the number of examples so far.

  Returns:
    CKA, float64 [R, R], and the R pairs (name of the stream, name in it).

  Raises:
    ValueError: the streams differ in their examples or their order (says in
      which batch), one ends before another, names change, or no batch has
      four examples.
  """
  compute = jax.jit(_kernels)
  sums, labels = cka_lib.Sums(progress), []
  for number, batch in enumerate(itertools.zip_longest(*streams.values())):
    parts = dict(zip(streams, batch, strict=True))
    ended = [name for name, part in parts.items() if part is None]
    if ended:
      raise ValueError(
        f"The stream {ended[0]!r} ends after {number} batches, others do not. "
        "All have to be of the same examples, in batches of the same size."
      )
    parts = {
      name: _without_filling(part, f"Batch {number} of the stream {name!r}")
      for name, part in parts.items()
    }
    _check_same_examples(parts, number)
    names = [(name, key) for name, part in parts.items() for key in part.values]
    if labels and names != labels:
      raise ValueError(f"Batch {number} has {names}, those before {labels}.")
    labels = names
    if len(parts[labels[0][0]].ids) >= cka_lib.MIN_EXAMPLES:
      sums.add([compute(list(p.values.values())) for p in parts.values()])
  return sums.cka(), labels


def _kernels(features: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack(
    [
      cka_lib.kernel(cka_lib.all_tokens(x.astype(jnp.float32)))
      for x in features
    ]
  )


def _without_filling(part: Features, where: str) -> Features:
  """Returns the batch without padding, arrays in the order of their names."""
  ids = np.asarray(part.ids)
  values = {key: jnp.asarray(part.values[key]) for key in sorted(part.values)}
  sizes = {key: len(x) for key, x in values.items()}
  if set(sizes.values()) != {len(ids)}:
    raise ValueError(f"{where} has {len(ids)} ids, but examples {sizes}.")
  if part.mask is None:
    return Features(ids, values)
  real = np.asarray(part.mask) > 0
  return Features(ids[real], {key: x[real] for key, x in values.items()})


def _check_same_examples(parts: Mapping[str, Features], number: int) -> None:
  (first, expected), *others = parts.items()
  for name, part in others:
    if not np.array_equal(part.ids, expected.ids):
      raise ValueError(
        f"Batch {number} of the streams {first!r} and {name!r} is not of the "
        "same examples in the same order: the ids begin with "
        f"{expected.ids[:4].tolist()} and {part.ids[:4].tolist()}. Compute "
        "both without shuffling, in batches of the same size."
      )
