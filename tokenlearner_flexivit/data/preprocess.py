"""The preprocessing string: a registry of ops and the parser of the string.

A string such as

    "decode|inception_crop(240)|flip_lr|value_range(-1,1)|keep('image','label')"

names ops, applied from left to right to one example: a dict of NumPy arrays.
The string is data, not code: it is logged, stored with the checkpoint and used
again by inference. It is parsed with `ast`, arguments are literals, and every
mistake that can be seen without data is raised by `parse`.

An op is a function that takes an example and returns a new one. A random op
has a second parameter named `rng`, its only source of randomness:

    @register_op
    def jitter(example, rng, amount: float = 0.1, *, key: str = "image"):
      ...

Ops never write into their input arrays, so that sources may hand out the same
array twice.

`Preprocess.split` separates the ops at the end of a string that may run on a
device, so that images leave the host as uint8.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

from tokenlearner_flexivit.data.steps import (
  Example,
  Preprocess,
  Step,
  as_names,
  followers_in,
)

# Keyword-only parameters of ops that name entries to move along.
_FOLLOWERS = frozenset({"masks", "boxes"})


@dataclasses.dataclass(frozen=True)
class _Op:
  """A registered op; see `register_op`."""

  fn: Callable[..., Example]
  checks: tuple[Callable[..., None], ...]
  entries: tuple[str, ...] | None
  writes: tuple[str, ...]
  has_followers: bool
  moves: bool
  mirrors: bool
  on_device: bool
  bound: tuple[str, ...]


_OPS: dict[str, _Op] = {}
_STAND_INS: dict[tuple[Callable, Callable], Callable[..., Example]] = {}


def register_op(
  fn: Callable[..., Example] | None = None,
  *,
  check: Callable[..., None] | Sequence[Callable[..., None]] = (),
  entries: Sequence[str] | None = None,
  writes: Sequence[str] = (),
  moves: bool = False,
  mirrors: bool = False,
  on_device: bool = False,
  bound: Sequence[str] = (),
) -> Callable[..., Any]:
  """Makes `fn` usable in preprocessing strings, under its own name.

  This is a decorator, with or without the keyword arguments. When a string is
  parsed, arguments are checked against the annotations of the parameters, which
  must be types that `isinstance` takes.

  The keyword-only parameters `masks` and `boxes` of an op name entries that it
  moves along with its image, and `box_label` goes with `boxes`; see
  `ops.geometry`.

  Args:
    fn: function of an example, and of `rng` if it is random.
    check: function with some of the parameters of `fn`, by name, or several.
      They raise ValueError for impossible arguments when a string is parsed.
    entries: names of the parameters that name the entries which the op reads
      or writes. By default an op with a parameter `key` touches that entry
      alone, and an op without it may touch all.
    writes: names of entries that the op writes besides, whatever its arguments.
    moves: whether the result shows another part of the image, or shows it at
      other places: a crop, a mirror image, a rotation. A resize does not move.
    mirrors: whether the result may show left as right.
    on_device: whether the op computes every pixel from that pixel alone, for
      batches of JAX arrays as well as for an example.
    bound: names of keyword-only parameters that a string cannot give;
      `Preprocess.bound` does.

  Returns:
    `fn` itself, so that an op can also be called directly.

  Raises:
    ValueError: another function has that name already.
  """
  if fn is None:
    return functools.partial(
      register_op,
      check=check,
      entries=entries,
      writes=writes,
      moves=moves,
      mirrors=mirrors,
      on_device=on_device,
      bound=bound,
    )
  if entries is None and "key" in inspect.signature(fn).parameters:
    entries = ("key",)
  known = _OPS[fn.__name__].fn if fn.__name__ in _OPS else fn
  # A notebook may run the cell that registers an op again.
  if (known.__module__, known.__qualname__) != (fn.__module__, fn.__qualname__):
    raise ValueError(
      f"There is a preprocessing op {fn.__name__!r} already, in "
      f"{known.__module__}."
    )
  entries = None if entries is None else tuple(entries)
  checks = (check,) if callable(check) else tuple(check)
  has_followers = not _FOLLOWERS.isdisjoint(inspect.signature(fn).parameters)
  _OPS[fn.__name__] = _Op(
    fn,
    checks,
    entries,
    tuple(writes),
    has_followers,
    moves,
    mirrors,
    on_device,
    tuple(bound),
  )
  return fn


def register_stand_in(
  op: Callable[..., Example],
  stand_in: Callable[..., Example],
  *,
  before: Callable[..., Example],
) -> None:
  """Makes `stand_in` replace an op wherever the op `before` follows it.

  So an op may save work that the next op makes needless. `stand_in` and
  `before` together must give the result of `op` and `before`.

  Args:
    op: a registered op with a keyword parameter `key`.
    stand_in: function with the same parameters.
    before: the registered op that comes next, with the same `key`.
  """
  _STAND_INS[op, before] = stand_in


def parse(text: str) -> Preprocess:
  """Parses a preprocessing string.

  Args:
    text: ops joined by `|`, on one line or several. An op is a name, or a call
      with literal arguments (numbers, strings, tuples, lists, True, False,
      None).

  Returns:
    The preprocessing as a callable.

  Raises:
    ValueError: on a syntax error, an unknown op, or arguments that the op does
      not take or cannot use. The message holds the whole string and names the
      op.
  """

  def fail(message: str):
    return ValueError(f"{message}\nIn the preprocessing {text!r}.")

  try:
    # `|` is Python's left-associative operator, so Python's own parser does
    # the work, and quotes or nested tuples need no further rules.
    line = " ".join(text.splitlines()).strip()
    node = ast.parse(line, mode="eval").body
  except SyntaxError as error:
    # The caret shows the place better than Python's message.
    shown = (error.text or text).rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    raise fail(f"Cannot be parsed: {error.msg}\n  {shown}\n  {caret}") from None

  nodes = []
  while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    nodes.append(node.right)
    node = node.left
  nodes.append(node)
  steps = [_parse_op(n, fail) for n in reversed(nodes)]
  for i, (step, after) in enumerate(itertools.pairwise(steps)):
    stand_in = _STAND_INS.get((step.fn, after.fn))
    if stand_in and step.entries == after.entries:
      steps[i] = dataclasses.replace(step, fn=stand_in)
  return Preprocess(text, tuple(steps))


def _parse_op(node: ast.expr, fail: Callable[[str], ValueError]) -> Step:
  """Returns the step of one op; `fail` returns the error to raise."""
  source = ast.unparse(node)
  call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
  if not isinstance(call.func, ast.Name):
    raise fail(f"{source!r} is not an op: expected a name or name(arguments).")

  name = call.func.id
  if name not in _OPS:
    close = difflib.get_close_matches(name, _OPS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    known = ", ".join(sorted(_OPS))
    raise fail(f"Unknown op {name!r}.{hint} The ops are: {known}.")

  try:
    args = tuple(ast.literal_eval(arg) for arg in call.args)
    kwargs = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    if None in kwargs:
      raise ValueError("**mapping is no literal argument.")
  except ValueError:
    raise fail(f"{source}: arguments must be literals.") from None

  op = _OPS[name]
  signature = _writable(op)
  is_random = "rng" in signature.parameters
  placeholders = (None, None) if is_random else (None,)  # Example and rng.
  own = list(signature.parameters.values())[len(placeholders) :]
  usage = f"{name}{inspect.Signature(own)}"
  try:
    bound = signature.bind(*placeholders, *args, **kwargs)
  except TypeError as error:
    raise fail(f"{source}: {error}. The op is {usage}.") from None
  for parameter in own:
    if parameter.name not in bound.arguments:
      continue
    value = bound.arguments[parameter.name]
    values = value if parameter.kind == parameter.VAR_POSITIONAL else (value,)
    for value in values:
      if not _matches(value, parameter.annotation) or not _is_finite(value):
        raise fail(
          f"{source}: {parameter.name} cannot be {value!r}. The op is {usage}."
        )
  bound.apply_defaults()
  for check in op.checks:
    checked = inspect.signature(check).parameters.keys()
    try:
      check(**{k: v for k, v in bound.arguments.items() if k in checked})
    except ValueError as error:
      raise fail(f"{source}: {error}. The op is {usage}.") from None
  entries, followers = op.entries, ()
  if entries is not None:
    followers = followers_in(kwargs) if op.has_followers else ()
    values = (as_names(bound.arguments[name]) for name in entries)
    entries = (*itertools.chain(*values), *op.writes, *followers)
  return Step(
    source,
    op.fn,
    op.fn,
    is_random,
    args,
    kwargs,
    entries,
    followers,
    op.moves,
    op.mirrors,
    op.on_device,
    op.bound,
  )


def _writable(op: _Op) -> inspect.Signature:
  """Returns the signature of an op without what a string cannot give."""
  signature = inspect.signature(op.fn)
  parameters = signature.parameters.values()
  return signature.replace(
    parameters=[p for p in parameters if p.name not in op.bound]
  )


def _matches(value: Any, annotation: Any) -> bool:
  """Tells whether a literal has the annotated type; ints pass as floats."""
  if annotation is inspect.Parameter.empty:
    return True
  if isinstance(value, bool):  # In Python True is an int.
    return bool in (annotation, *typing.get_args(annotation))
  if isinstance(value, int) and isinstance(1.0, annotation):
    return True
  return isinstance(value, annotation)


def _is_finite(value: Any) -> bool:
  """Tells whether a literal holds no infinite number, such as 1e999."""
  if isinstance(value, tuple | list):
    return all(map(_is_finite, value))
  return not isinstance(value, float) or math.isfinite(value)
