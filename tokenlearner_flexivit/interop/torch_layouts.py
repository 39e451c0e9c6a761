"""Renames arrays of PyTorch's models by tables, and changes their layout.

A dense kernel is [in, out] in flax and [out, in] in torch, a convolution's is
[p, q, C, D] and [D, C, p, q], that of tubelets [t, p, q, C, D] and
[D, C, t, p, q], and attention has an axis for its heads in flax only.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tokenlearner_flexivit.interop.leaves import Leaf, Leaves, concatenate

BLOCK = "Transformer/encoderblock_{}/"
ATTENTION = BLOCK + "MultiHeadDotProductAttention_0/"
MLP = BLOCK + "MlpBlock_0/"
MAP = "MAPHead_0/MultiHeadDotProductAttention_0/"


@dataclasses.dataclass(frozen=True)
class Table:
  """The names of a family of models.

  {} stands for the index of a block. Of several names for one of ours all are
  read and the last is written.

  Attributes:
    modules: our name, their name and kind of each module: "conv", "dense",
      "norm", or of attention "heads" and "out".
    arrays: our name and their name of each array alone.
    scales: their name of each LayerScale, and of the layer whose result it
      multiplies, into which it is folded.
  """

  modules: Sequence[tuple[str, str, str]]
  arrays: Sequence[tuple[str, str]] = ()
  scales: Sequence[tuple[str, str]] = ()

  def their_name(self, ours: str) -> str:
    """Returns the name of an array of ours in their files."""
    index = re.search(r"/(?:encoder)?block_(\d+)/", ours)
    names = {name: theirs for name, theirs, _ in self._rows(_depth(index))}
    return names.get(ours, ours)

  def read(self, leaves: Leaves, where: str, num_heads: int) -> Leaves:
    """Converts their arrays to our names and layouts.

    Args:
      leaves: by their names; those of unknown meaning keep their names.
      where: the file, for errors.
      num_heads: attention heads, which no array shows.

    Raises:
      ValueError: a LayerScale that is of another layer.
    """
    leaves = _fold(leaves, self.scales, where)
    blocks = [re.search(r"\.(\d+)\.", name) for name in leaves]
    depth = min(max(map(_depth, blocks), default=1), len(leaves))
    table = {theirs: (ours, kind) for ours, theirs, kind in self._rows(depth)}
    ours = {}
    for theirs, leaf in leaves.items():
      name, kind = table.get(theirs, (theirs, "same"))
      ours[name] = _to_ours(leaf, kind, num_heads)
    return ours

  def write(self, leaves: Leaves, whose: str) -> Leaves:
    """Converts our arrays to their names and layouts.

    Args:
      leaves: by our names.
      whose: the library and model, for errors.

    Raises:
      ValueError: the table has no name for an array.
    """
    table = {
      ours: (theirs, kind) for ours, theirs, kind in self._rows(len(leaves))
    }
    torch = {}
    for name, leaf in leaves.items():
      if name not in table:
        raise ValueError(
          f"{whose} has no parameter like {name!r}, so these cannot be saved"
          " in its format. Use format='native'."
        )
      theirs, kind = table[name]
      torch[theirs] = _to_theirs(leaf, kind)
    return torch

  def _rows(self, depth: int) -> Iterator[tuple[str, str, str]]:
    """Yields (our name, their name, kind) of every array of a model."""
    for ours, theirs in self.arrays:
      yield ours, theirs, "same"
    for ours, theirs, kind in self.modules:
      kernel, bias = kind, "heads_bias" if kind == "heads" else "same"
      if kind == "norm":
        kernel = "same"
      first = "scale" if kind == "norm" else "kernel"
      for i in range(depth) if "{}" in ours else (0,):
        yield f"{ours}/{first}".format(i), f"{theirs}.weight".format(i), kernel
        yield f"{ours}/bias".format(i), f"{theirs}.bias".format(i), bias


def _depth(index: re.Match | None) -> int:
  """Returns how many blocks there are, by the number of one."""
  return int(index[1]) + 1 if index else 1


def _fold(
  leaves: Leaves, scales: Sequence[tuple[str, str]], where: str
) -> Leaves:
  """Multiplies kernels and biases by the LayerScale that follows them."""
  folded = dict(leaves)
  for name in leaves:
    for theirs, layer in scales:
      pattern = re.escape(theirs).replace(r"\{\}", r"(\d+)")
      match = re.fullmatch(pattern, name)
      if not match:
        continue
      gamma, layer = folded.pop(name), layer.format(match[1])
      parts = [p for p in (f"{layer}.weight", f"{layer}.bias") if p in folded]
      if any(folded[part].shape[:1] != gamma.shape for part in parts):
        raise ValueError(
          f"{where}: {name} {list(gamma.shape)} does not scale the rows of"
          f" {parts[0]} {list(folded[parts[0]].shape)}."
        )
      for part in parts:
        folded[part] = _scale_rows(folded[part], gamma)
  return folded


def check_parts(
  leaves: Mapping[str, Leaf], where: str, norms: Sequence[str], positions: str
) -> None:
  """Raises for models without positions or a last norm, or with other norms.

  Args:
    leaves: by their names.
    where: the file, for errors.
    norms: names of modules, one of which must be there.
    positions: name of the position embedding.

  Raises:
    ValueError: names what the models here cannot compute.
  """
  if positions not in leaves:
    raise ValueError(
      f"{where} holds no {positions!r}: its model has no positions, or"
      " computes them in a way (rotary, relative) that the models here do not."
    )
  if not any(f"{norm}.weight" in leaves for norm in norms):
    raise ValueError(
      f"{where} holds no {norms[0]}.weight: its model has no norm after the"
      " blocks; the models here have one."
    )
  for name in leaves:
    module = name.removesuffix(".weight")
    is_norm = re.search(r"(^|\.)(layer)?norm(\d|_\w+)?$", module)
    if module != name and is_norm and f"{module}.bias" not in leaves:
      raise ValueError(
        f"{where} holds {name!r} without a bias: a norm of another kind, such"
        " as RMSNorm, which the models here have not."
      )


def _to_ours(leaf: Leaf, kind: str, num_heads: int) -> Leaf:
  """Changes the layout; an array of unknown shape stays, for the error."""
  if kind == "conv":
    sizes = range(2, len(leaf.shape))
    return leaf.transpose(*sizes, 1, 0) if len(sizes) in (2, 3) else leaf
  ndim = {"dense": 2, "heads": 2, "heads_bias": 1, "out": 2}
  if kind not in ndim or len(leaf.shape) != ndim[kind]:
    return leaf
  if kind == "dense":
    return leaf.transpose()
  width = leaf.shape[-1] if kind == "out" else leaf.shape[0]
  if width % num_heads:
    return leaf
  heads = (num_heads, width // num_heads)
  if kind == "heads_bias":
    return leaf.reshape(*heads)
  if kind == "heads":
    return leaf.transpose().reshape(leaf.shape[1], *heads)
  return leaf.transpose().reshape(*heads, leaf.shape[0])


def _to_theirs(leaf: Leaf, kind: str) -> Leaf:
  if kind == "conv":
    last = len(leaf.shape) - 1
    return leaf.transpose(last, last - 1, *range(last - 1))
  if kind == "dense":
    return leaf.transpose()
  if kind == "heads_bias":
    return leaf.reshape(leaf.size)
  if kind == "heads":
    return leaf.reshape(leaf.shape[0], leaf.size // leaf.shape[0]).transpose()
  if kind == "out":
    return leaf.reshape(leaf.size // leaf.shape[-1], leaf.shape[-1]).transpose()
  return leaf


def split_joint(name: str, leaf: Leaf) -> Leaves:
  """Takes a joint projection of queries, keys and values apart.

  Args:
    name: of an array; ".qkv." or ".kv." in it marks a joint projection.
    leaf: the array.

  Returns:
    an array for each part, with its letter in the name; others as they are.
  """
  joint = re.fullmatch(r"(.+\.)(qkv|kv)\.(weight|bias)", name)
  if not joint or not leaf.shape or leaf.shape[0] % len(joint[2]):
    return {name: leaf}
  rows = leaf.shape[0] // len(joint[2])
  return {
    f"{joint[1]}{part}.{joint[3]}": leaf.rows(i * rows, (i + 1) * rows)
    for i, part in enumerate(joint[2])
  }


def _scale_rows(leaf: Leaf, gamma: Leaf) -> Leaf:
  shape = (-1, *(1,) * (len(leaf.shape) - 1))
  return leaf.compute(
    lambda array: array * gamma.read().astype(array.dtype).reshape(shape)
  )


def with_prefix_positions(leaves: Leaves, entries: int) -> Leaves:
  """Inserts positions of zeros, for cls and registers, before the others."""
  cells = leaves["pos_embedding"].transpose(1, 0, 2)
  zero = cells.rows(0, 1).map(np.zeros_like)
  posemb = concatenate([*[zero] * entries, cells]).transpose(1, 0, 2)
  return {**leaves, "pos_embedding": posemb}


def without_biases(
  leaves: Leaves, modules: Sequence[str], whose: str
) -> Leaves:
  """Leaves out biases of zeros that another library's model has not.

  Args:
    leaves: by our names.
    modules: our names of the modules.
    whose: the library and model, for errors.

  Raises:
    ValueError: a bias is not zero.
  """
  kept = dict(leaves)
  for module in modules:
    bias = kept.pop(f"{module}/bias", None)
    if bias is not None and np.any(bias.read()):
      raise ValueError(
        f"{whose} has no '{module}/bias', but here it is not zero; weights that"
        " absorbed the mean of their images have one. Convert the file that"
        " they came from, or use format='native'."
      )
  return kept
