"""The matrix products of a program, timed alone: the limit of its speed."""

import collections
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tokenlearner_flexivit.models import timing


def find(function: Callable[..., Any], *args: Any) -> collections.Counter:
  """Counts the products of a function that is traced.

  Args:
    function: to be traced; loops are not supported.
    *args: arrays or shapes.

  Returns:
    How often each product occurs, by (its two operands, its parameters).
  """
  found = collections.Counter()

  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive is jax.lax.dot_general_p:
        operands = [v.aval for v in eqn.invars]
        # The layouts and shardings that it may have are no part of a product.
        known = ("dimension_numbers", "precision", "preferred_element_type")
        parameters = tuple((name, eqn.params[name]) for name in known)
        shapes = tuple((x.shape, x.dtype) for x in operands)
        found[shapes, parameters] += 1
      params = dict(eqn.params)
      if platforms := params.pop("branches_platforms", None):
        params["branches"] = params["branches"][_own_branch(platforms)]
      for value in jax.tree.leaves(
        tuple(params.values()), is_leaf=lambda x: hasattr(x, "eqns")
      ):
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          walk(inner)

  walk(jax.make_jaxpr(function)(*args).jaxpr)
  return found


def _own_branch(platforms: tuple[tuple[str, ...] | None, ...]) -> int:
  """Returns the position of this platform's form, or of the default, None."""
  names = {jax.default_backend()}
  if "gpu" in names:
    names |= {"cuda", "rocm"}
  return next(
    i for i, own in enumerate(platforms) if own is None or names & set(own)
  )


def seconds(found: collections.Counter, rounds: int) -> float:
  """Returns how long all products take, one after the other.

  Args:
    found: by `find`.
    rounds: how often each is timed; the median counts.
  """
  key = jax.random.key(0)
  programs = {}
  for product in found:
    shapes, parameters = product
    operands = [jax.random.normal(key, *shape) for shape in shapes]
    run = jax.jit(
      lambda x, y, parameters=parameters: jax.lax.dot_general(
        x, y, **dict(parameters)
      )
    )
    programs[product] = lambda run=run, operands=operands: run(*operands)
  times = timing.by_turns(programs, rounds)
  return sum(found[p] * statistics.median(t) for p, t in times.items())


def peak_flops(dtype: str, size: int) -> float:
  """Operations per second of a large matrix product, the best of ten.

  Measured rather than looked up: it is the limit that this machine, as it is
  now, sets to a network of matrix products.

  Args:
    dtype: of the matrices.
    size: their rows and columns.
  """
  x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
  product = jax.jit(lambda a, b: a @ b)
  seconds = timing.by_turns({"product": lambda: product(x, x)}, rounds=10)[
    "product"
  ]
  return 2 * size**3 / min(seconds)
