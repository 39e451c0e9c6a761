"""Finds the network inside a file of PyTorch, by its patch embedding.

Training frameworks, wrappers and the models of a library put prefixes before
the names of a network: "module.", "_orig_mod.", "backbone.", "vit.".
"""

import dataclasses
import re
from collections.abc import Mapping

from tokenlearner_flexivit.interop import (
  hugging_face_names,
  timm_names,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves, shorten

# Names of patch embeddings, after what their library's own models prefix.
_PATCH_EMBEDDINGS = (
  ("", timm_names.KERNEL),
  (
    r"(?:(?:vit|deit|dinov2|dinov2_with_registers|ijepa|vivit)\.)?",
    hugging_face_names.KERNEL,
  ),
  (r"(?:(?:owlvit|owlv2)\.)?", tower_names.KERNEL),
)


# Beginnings of names that stand behind the prefix of a library's model; heads
# stand before it.
_NETWORK = ("embeddings.", "encoder.", "layernorm.", "pooler.", "vision_model.")


@dataclasses.dataclass(frozen=True)
class Root:
  """The place of a network in a file.

  Attributes:
    leaves: its arrays, without the prefix; heads included.
    full_names: the name in the file of each.
    framework: what stood before all names.
    library: what stood between that and the names of the network.
    outside: names of arrays that are not of the network.
  """

  leaves: Leaves
  full_names: Mapping[str, str]
  framework: str = ""
  library: str = ""
  outside: tuple[str, ...] = ()

  def full_name(self, name: str) -> str:
    """Returns the name in the file of an array, which it may lack."""
    if name in self.full_names:
      return self.full_names[name]
    library = self.library if name.startswith(_NETWORK) else ""
    return f"{self.framework}{library}{name}"

  @property
  def notes(self) -> tuple[str, ...]:
    """Returns what a user must know, in words."""
    if not self.outside:
      return ()
    return (
      "left out what is not behind the prefix of the network,"
      f" {self.framework!r}: {shorten(sorted(self.outside))}",
    )


def find(leaves: Leaves, where: str) -> Root:
  """Returns the one network of a file; all arrays if no prefix is known.

  Args:
    leaves: by their names in the file.
    where: the file, for errors.

  Raises:
    ValueError: several networks, such as a model and its moving average.
  """
  roots = {}
  for library, kernel in _PATCH_EMBEDDINGS:
    pattern = re.compile(rf"((?:.*?\.)??){library}{re.escape(kernel)}")
    for name in leaves:
      if match := pattern.fullmatch(name):
        roots[name.removesuffix(kernel)] = match[1]
  if len(roots) > 1:
    both = " and ".join(repr(f"{prefix}...") for prefix in sorted(roots))
    raise ValueError(
      f"{where} holds several networks: {both}. Save the arrays of one of them"
      " alone, without the others."
    )
  if not roots:
    return Root(leaves, {})
  ((prefix, framework),) = roots.items()
  library = prefix.removeprefix(framework)
  inside, full_names, outside = {}, {}, []
  for name in leaves:
    if prefix and name.startswith(prefix):
      bare = name.removeprefix(prefix)
    elif name.startswith(framework) and (library or not framework):
      bare = name.removeprefix(framework)
    else:
      outside.append(name)
      continue
    if bare in inside:
      raise ValueError(
        f"{where} holds both {full_names[bare]!r} and {name!r}, which would be"
        " the same array of one network."
      )
    inside[bare], full_names[bare] = leaves[name], name
  return Root(inside, full_names, framework, library, tuple(outside))
