"""The joint answer of several models: the mean of their probabilities."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float


def mean_logits(
  logits: Float[Array, "B N C"],
  link: Callable[[jax.Array], jax.Array],
  members: Bool[Array, " N"] | None = None,
) -> Float[Array, "B C"]:
  """Returns the logits of the mean of the probabilities.

  It is computed from logarithms, so a class whose probability float32 cannot
  hold still has a finite logit.

  Args:
    logits: N > 0 answers to each example.
    link: from logits to probabilities, softmax or sigmoid of `jax.nn`.
    members: a mask of the answers to average; None averages all.

  Returns:
    Logits that `link` maps to the mean. Those of softmax are the logarithms of
    the probabilities.
  """
  where = None if members is None else members[None, :, None]
  log_mean = functools.partial(jax.nn.logmeanexp, axis=1, where=where)
  if link is jax.nn.softmax:
    return log_mean(jax.nn.log_softmax(logits))
  if link is jax.nn.sigmoid:
    log_present = log_mean(jax.nn.log_sigmoid(logits))
    return log_present - log_mean(jax.nn.log_sigmoid(-logits))
  raise ValueError(f"The link {link} is neither softmax nor sigmoid.")
