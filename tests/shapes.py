"""Checks, while tests run, the shapes that functions declare.

`conftest` makes jaxtyping's import hook wrap the package with it.
"""

import typing

import beartype
import jaxtyping


def _has_shape(annotation):
  if isinstance(annotation, type):
    return issubclass(annotation, jaxtyping.AbstractArray | jaxtyping.PyTree)
  return any(map(_has_shape, typing.get_args(annotation)))


def checked(function):
  """Returns a function that checks what is declared by shape, and no more.

  Arguments of other types are left alone, since the package has errors of its
  own for those that are wrong.
  """
  declared = {
    name: annotation
    for name, annotation in function.__annotations__.items()
    if _has_shape(annotation)
  }
  if not declared:
    return function
  function.__annotations__ = declared
  return beartype.beartype(function)
