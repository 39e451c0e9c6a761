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

Ops never write into the arrays they are given, so that sources may hand out
the same array twice.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

Example = dict[str, Any]

_OPS: dict[str, Callable[..., Example]] = {}
_STAND_INS: dict[tuple[Callable, Callable], Callable[..., Example]] = {}


def register_op(fn: Callable[..., Example]) -> Callable[..., Example]:
  """Makes `fn` usable in preprocessing strings, under its own name.

  Annotations of the parameters are checked against the arguments when a string
  is parsed, so they must be types that `isinstance` takes.

  Args:
    fn: function of an example, and of `rng` if it is random; see above.

  Returns:
    `fn` itself, so that an op can also be called directly.

  Raises:
    ValueError: another function has that name already.
  """
  known = _OPS.get(fn.__name__, fn)
  # A notebook may run the cell with the same op again.
  if (known.__module__, known.__qualname__) != (fn.__module__, fn.__qualname__):
    raise ValueError(
      f"There is a preprocessing op {fn.__name__!r} already, in "
      f"{known.__module__}."
    )
  _OPS[fn.__name__] = fn
  return fn


def register_stand_in(
  op: Callable[..., Example],
  stand_in: Callable[..., Example],
  *,
  before: Callable[..., Example],
) -> None:
  """Makes `stand_in` take the place of an op where a certain other one follows.

  So an op may spare work that the next makes needless. Together the two must
  do what `op` and `before` do.

  Args:
    op: a registered op with a keyword parameter `key`.
    stand_in: function with the same parameters.
    before: a registered op that comes next and has the same `key`.
  """
  _STAND_INS[op, before] = stand_in


@dataclasses.dataclass(frozen=True)
class _Step:
  text: str
  fn: Callable[..., Example]
  is_random: bool
  args: tuple[Any, ...]
  kwargs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """A parsed preprocessing string; call it on an example.

  It holds the functions rather than their names, so that it can be pickled to
  worker processes that have not registered the same ops.

  Attributes:
    text: the string.
    steps: its ops with their arguments.
  """

  text: str
  steps: tuple[_Step, ...]

  @property
  def is_random(self) -> bool:
    """Whether any op draws random numbers."""
    return any(step.is_random for step in self.steps)

  def __call__(
    self, example: Example, rng: np.random.Generator | None = None
  ) -> Example:
    """Returns the preprocessed example.

    Args:
      example: dict of arrays, scalars and encoded images (bytes).
      rng: generator that all random ops draw from, in order; may be None where
        no op is random.
    """
    for step in self.steps:
      args = (rng, *step.args) if step.is_random else step.args
      try:
        example = step.fn(example, *args, **step.kwargs)
      except MemoryError:
        raise  # None of the example's.
      except Exception as error:
        raise ValueError(
          f"{step.text} in the preprocessing {self.text!r}: {error}"
        ) from error
    return example


def parse(text: str) -> Preprocess:
  """Parses a preprocessing string.

  Args:
    text: ops joined by `|`. An op is a name, or a call with literal arguments
      (numbers, strings, tuples, lists, True, False, None).

  Returns:
    The preprocessing as a callable.

  Raises:
    ValueError: on a syntax error, an unknown op or arguments that the op does
      not take. The message holds the whole string and names the op.
  """

  def fail(message: str):
    return ValueError(f"{message}\nIn the preprocessing {text!r}.")

  try:
    # `|` is Python's left-associative operator, so Python's own parser does
    # the work, and quotes or nested tuples need no rules of ours.
    node = ast.parse(text.strip(), mode="eval").body
  except SyntaxError as error:
    # The caret shows the place better than the words of Python's message do.
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
    if stand_in and step.kwargs.get("key") == after.kwargs.get("key"):
      steps[i] = dataclasses.replace(step, fn=stand_in)
  return Preprocess(text, tuple(steps))


def _parse_op(node: ast.expr, fail: Callable[[str], ValueError]) -> _Step:
  """Returns the step of one op; `fail` makes the error to raise."""
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

  fn = _OPS[name]
  signature = inspect.signature(fn)
  is_random = "rng" in signature.parameters
  given = (None, None) if is_random else (None,)
  own = list(signature.parameters.values())[len(given) :]
  usage = f"{name}{inspect.Signature(own)}"
  try:
    bound = signature.bind(*given, *args, **kwargs)
  except TypeError as error:
    raise fail(f"{source}: {error}. The op is {usage}.") from None
  for parameter in own:
    if parameter.name not in bound.arguments:
      continue
    value = bound.arguments[parameter.name]
    values = value if parameter.kind == parameter.VAR_POSITIONAL else (value,)
    for value in values:
      if not _matches(value, parameter.annotation):
        raise fail(
          f"{source}: {parameter.name} cannot be {value!r}. The op is {usage}."
        )
  return _Step(source, fn, is_random, args, kwargs)


def _matches(value: Any, annotation: Any) -> bool:
  """Whether a literal has the annotated type; ints pass as floats."""
  if annotation is inspect.Parameter.empty:
    return True
  if isinstance(value, bool) and annotation is not bool:
    return False  # To Python True is an int.
  if isinstance(value, int) and isinstance(1.0, annotation):
    return True
  return isinstance(value, annotation)
