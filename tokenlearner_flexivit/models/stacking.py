"""Parameters of equal blocks as stacks, for blocks that are one `lax.scan`.

Files and checkpoints name every block: encoderblock_0, encoderblock_1, .... A
training with `scan=True` holds a run of blocks as one array per parameter,
[blocks, ...], under a name such as "encoderblocks_0-5". So a step copies no
parameters into the loop, and the optimizer's part of the program has an array
for each kind of parameter rather than for each block.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_STACK = re.compile(r"encoderblocks_(\d+)-(\d+)")


def block_name(index: int) -> str:
  """Returns the name of a block's parameters."""
  return f"encoderblock_{index}"


def stack_name(run: range) -> str:
  """Returns the name of the stacked parameters of blocks in a row."""
  return f"encoderblocks_{run[0]}-{run[-1]}"


def stack_run(blocks: Mapping[str, Any], run: range) -> Any:
  """Returns the parameters of a run, each [blocks, ...].

  Args:
    blocks: the parameters by name of the block, or already of the stack.
    run: numbers of the blocks.
  """
  name = stack_name(run)
  if name in blocks:
    return blocks[name]
  return jax.tree.map(_stack_leaves, *(blocks[block_name(i)] for i in run))


def _stack_leaves(*leaves: Any) -> Any:
  # Arrays on the host stay there: they may be for several devices.
  on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
  return (np if on_host else jnp).stack(leaves)


def stack(tree: Any, runs: Sequence[range]) -> Any:
  """Stacks the parameters of blocks wherever they are in a tree.

  Args:
    tree: parameters, or a tree with subtrees like them, such as a train state.
    runs: the model's `scanned_runs`.

  Returns:
    The tree with a stack in place of each run's blocks. Stacks of NumPy arrays
    are NumPy arrays.
  """

  def has_blocks(node):
    return isinstance(node, Mapping) and any(
      block_name(run[0]) in node for run in runs
    )

  def stack_blocks(node):
    if not has_blocks(node):
      return node
    stacks = {stack_name(run): stack_run(node, run) for run in runs}
    replaced = {block_name(i) for run in runs for i in run}
    rest = {name: node[name] for name in node if name not in replaced}
    return rest | stacks

  return jax.tree.map(stack_blocks, tree, is_leaf=has_blocks)


def runs(params: Any) -> list[range]:
  """Returns the runs of blocks whose parameters are stacks."""
  paths, _ = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
  matches = [_STACK.fullmatch(str(k.key)) for path in paths for k in path]
  bounds = {(int(m[1]), int(m[2])) for m in matches if m}
  return [range(first, last + 1) for first, last in sorted(bounds)]


def unstack(tree: Any) -> Any:
  """Returns a tree with blocks in place of stacks, the inverse of `stack`.

  Blocks of NumPy arrays are views. Blocks of JAX arrays are copies, a second
  tree in the device's memory.
  """

  def has_stacks(node):
    return isinstance(node, Mapping) and any(map(_STACK.fullmatch, node))

  def unstack_blocks(node):
    if not has_stacks(node):
      return node
    blocks = {}
    for name, value in node.items():
      match = _STACK.fullmatch(name)
      if match is None:
        blocks[name] = value
        continue
      first, last = map(int, match.groups())
      for i in range(first, last + 1):
        blocks[block_name(i)] = jax.tree.map(lambda x, j=i - first: x[j], value)
    return blocks

  return jax.tree.map(unstack_blocks, tree, is_leaf=has_stacks)
