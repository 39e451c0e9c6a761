"""Fits the parameters of a file to a model by rules, and reports each change.

Every array of the file and of the model gets one of four fates: loaded,
resized, fresh (the model's, initialised) or unused (the file's). To inflate
weights for images to videos is to resize them. A difference that no rule covers
raises an error.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.interop import foreign, grids, resize
from tokenlearner_flexivit.interop.leaves import (
  Leaf,
  Leaves,
  concatenate,
  shorten,
)
from tokenlearner_flexivit.models import owl_vit, segmenter, two_towers, uvim

KERNEL = "embedding/kernel"
POSEMB = "pos_embedding"
# Ranks of kernels for patches [p, q, C, D] and tubelets [t, p, q, C, D].
KERNEL_RANKS = (4, 5)
# What an answer is computed with, behind the image tower.
_DENSE = (*owl_vit.HEADS, *segmenter.HEADS, *uvim.HEADS)
_ANSWER = ("head/", "head_dist/", f"{two_towers.TEXT}head/", *_DENSE)
_HEAD = ("pre_logits/", *_ANSWER)
_LEARNED = ("Transformer/TokenLearner_", "Transformer/TokenFuser_")
FLOATS = ("float32", "float16", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class Row:
  """The fate of one array.

  Attributes:
    name: of the array, by our names.
    fate: "loaded", "resized", "fresh" or "unused".
    file_shape: None if the file lacks the array.
    model_shape: None if the model lacks it.
    note: the reason or the change, in words.
  """

  name: str
  fate: str
  file_shape: tuple[int, ...] | None
  model_shape: tuple[int, ...] | None
  note: str = ""


def with_zero_biases(leaves: Leaves, template: Mapping[str, Any]) -> Leaves:
  """Adds zeros for biases of projections that a model was trained without.

  Args:
    leaves: by our names, of a format that leaves such biases out.
    template: of the model, by name, with shapes.
  """
  added = {}
  for name, wanted in template.items():
    kernel = leaves.get(name.removesuffix("/bias") + "/kernel")
    if name.endswith("/bias") and name not in leaves and kernel:
      shape = kernel.shape[-len(wanted.shape) :]
      added[name] = Leaf.from_array(np.zeros(shape, np.float32))
  return {**leaves, **added}


class Plan:
  """A plan of which arrays to read, and how to change them.

  Attributes:
    leaves: the arrays to load, by the model's names, in the order of the file.
    rows: the fate of every array.
    notes: further remarks for the user.
    warnings: reasons why answers may differ from those of the file's own model.
  """

  def __init__(
    self,
    leaves: Leaves,
    template: Mapping[str, Any],
    where: str,
    *,
    grid: grids.Grid | None = None,
    file_grid: grids.Grid | None = None,
    prefix_entries: int | None = None,
    their_name: Callable[[str], str] = str,
    posemb_method: str = "linear",
    inflate: str = "central_frame",
    fresh: Sequence[str] = (),
    optional: Sequence[str] = (),
    unused: Sequence[str] = (),
    squares: bool = False,
  ):
    """Makes a plan or raises; reads nothing.

    Args:
      leaves: of the file, by our names.
      template: of the model, by name, with shapes.
      where: the file, for errors.
      grid: of the model's position embedding, if it has one.
      file_grid: of the file's position embedding, if it is known.
      prefix_entries: how many of the file's positions are of cls and
        registers, if that is known.
      their_name: maps our name of an array to its name in the file.
      posemb_method: as `resize.resize_posemb` takes it.
      inflate: as `resize.inflate_kernel` takes it.
      fresh: beginnings of names of the model that are initialised, whatever the
        file holds; what it alone has by such names is left out.
      optional: beginnings of names of the model that are initialised if the
        file has none of them.
      unused: beginnings of names of the file that are left out.
      squares: whether the file's grid is known to be a square if it can be one.

    Raises:
      ValueError: no rule covers a difference; lists all of them.
    """
    resize.check_posemb_method(posemb_method)
    resize.check_inflate_method(inflate)
    self.leaves, self.rows = {}, []
    self._template, self._grid = template, grid
    self._their_name, self.warnings, self.notes = their_name, [], []
    self._method, self._inflate = posemb_method, inflate
    self._problems = dict(missing=[], unexpected=[], misshapen=[])
    remaining = dict(leaves)
    self._file_grid, self._squares = None, squares
    self._changes = {}
    if POSEMB in remaining and len(remaining[POSEMB].shape) == 3:
      self._split_posemb(remaining, file_grid, prefix_entries)
    self._make_cls_a_register(remaining)
    self._settle(remaining, fresh, unused)
    self._settle_optional(remaining, optional)
    self._settle_text(
      remaining, any(name.startswith(two_towers.TEXT) for name in leaves)
    )
    self._settle_head(remaining)
    self._insert_token_learner(remaining)
    for name, leaf in remaining.items():
      self._fit(name, leaf)
    for name in self._without_fate(template):
      if name not in remaining:
        shape = list(template[name].shape)
        self._problems["missing"].append(f"{self._shown(name)} {shape}")
    if any(self._problems.values()):
      raise ValueError(self._complaint(where))

  def _shown(self, name):
    """Returns the array's name in the file, and ours if it differs."""
    theirs = self._their_name(name)
    return name if theirs == name else f"{theirs} (here {name})"

  def _note(self, name, fate, leaf=None, note=""):
    file_shape, model_shape = (
      None if array is None else tuple(array.shape)
      for array in (leaf, self._template.get(name))
    )
    self.rows.append(Row(name, fate, file_shape, model_shape, note))

  def _without_fate(self, names):
    fresh = {row.name for row in self.rows if row.fate == "fresh"}
    return [name for name in names if name not in fresh]

  def _split_posemb(self, remaining, file_grid, entries):
    """Moves positions of cls and registers from the positions into these."""
    posemb, cls = remaining[POSEMB], remaining.get("cls")
    n, width = posemb.shape[1:]
    has_cls = cls is not None and cls.shape == (1, 1, width)
    shape = remaining["registers"].shape if "registers" in remaining else ()
    registers = shape[1] if len(shape) == 3 and shape[2] == width else 0
    for_videos = self._is_for_videos(remaining)
    self._file_grid, count = grids.posemb_grid(
      n, has_cls, self._grid, file_grid, for_videos, entries, registers
    )
    known = file_grid is not None or self._squares
    if not known and self._grid is not None:
      square, taken = None, self._file_grid
      if not (for_videos and len(self._grid) == 3):
        square, _ = grids.posemb_grid(
          n, has_cls, entries=entries, registers=registers
        )
      if taken and square not in (None, taken, taken[-2:]):
        self.warnings.append(
          f"the {n} positions are taken as the model's grid {taken};"
          f" {square} is as possible. Pass posemb_grid= to say which"
        )
      elif other := grids.other_reading(n, taken, has_cls, entries):
        self.warnings.append(other)
      elif taken and grids.possible_grids(n, has_cls, entries, registers) - {
        taken[-2:]
      }:
        self.warnings.append(
          f"the {n} positions are taken as a grid {taken}, but nothing tells"
          " it; if it is another, pass posemb_grid="
        )
    if not count:
      return
    stops = {"cls": int(has_cls), "registers": count}
    starts = {"cls": 0, "registers": int(has_cls)}
    for name, stop in stops.items():
      start = starts[name]
      if start == stop or name not in remaining:
        continue
      remaining[name] = remaining[name].compute(
        lambda token, start=start, stop=stop: (
          token + posemb.read()[:, start:stop].astype(token.dtype)
        )
      )
      one = stop - start == 1
      self._changes[name] = "with its position" if one else "with positions"
    remaining[POSEMB] = posemb.map(
      lambda embedding: embedding[:, count:], (1, n - count, width)
    )

  def _make_cls_a_register(self, remaining):
    """Takes a cls token that the model does not pool as its first register."""
    wanted = self._template.get("registers")
    if wanted is None or "cls" in self._template or "cls" not in remaining:
      return
    tokens = [remaining["cls"]]
    if "registers" in remaining:
      tokens.append(remaining["registers"])
    if any(len(token.shape) != 3 for token in tokens):
      return
    if sum(token.shape[1] for token in tokens) != wanted.shape[1]:
      return
    rows = [token.transpose(1, 0, 2) for token in tokens]
    remaining["registers"] = concatenate(rows).transpose(1, 0, 2)
    del remaining["cls"]
    self._changes["registers"] = "the cls token first, which is not pooled"

  def _is_for_videos(self, remaining):
    """Tells whether the file is of a model for videos; None if unknown."""
    file_rank, model_rank = (
      len(leaves[KERNEL].shape) if KERNEL in leaves else 0
      for leaves in (remaining, self._template)
    )
    if file_rank not in KERNEL_RANKS or file_rank == model_rank == 4:
      return None
    return file_rank == 5

  def _settle(self, remaining, fresh, unused):
    """Notes the arrays that the caller declared fresh or unused."""
    for choices, names, fate in (
      (fresh, self._template, "fresh"),
      (unused, remaining, "unused"),
    ):
      for choice in [choices] if isinstance(choices, str) else choices:
        chosen = [name for name in names if name.startswith(choice)]
        if not chosen:
          raise ValueError(_no_such_beginning(fate, choice, names))
        for name in chosen:
          self._note(name, fate, remaining.pop(name, None), "as asked")
        # What the file alone has of a part that begins anew.
        for name in [n for n in remaining if n.startswith(choice)]:
          self._note(name, "unused", remaining.pop(name), "as asked")
    for name in [n for n in remaining if foreign.PRETRAINING.search(n)]:
      if name not in self._template:
        leaf = remaining.pop(name)
        self._note(name, "unused", leaf, "of the pretraining alone")

  def _settle_optional(self, remaining, optional):
    """Notes arrays as fresh that the file lacks and the caller lets it lack."""
    for choice in optional:
      chosen = [name for name in self._template if name.startswith(choice)]
      if not chosen:
        raise ValueError(_no_such_beginning("optional", choice, self._template))
      if not any(name.startswith(choice) for name in remaining):
        for name in self._without_fate(chosen):
          self._note(name, "fresh", note="not in the file")

  def _settle_text(self, remaining, has_text):
    """Notes a text tower as fresh if the file has none; drops a needless one.

    Without a text tower the file's head has another task than to embed images.
    """
    ours, theirs = (
      [name for name in names if two_towers.is_beside_images(name)]
      for names in (self._template, remaining)
    )
    if theirs and not ours:
      for name in theirs:
        remaining.pop(name)
      left_out = terminal.counted(len(theirs), "array")
      self.notes.append(f"Left out the text tower: {left_out}.")
    for name in self._without_fate(ours):
      if name not in theirs and (name in two_towers.SCALARS or not has_text):
        self._note(name, "fresh", note="not in the file")
    scalars = [n for n in two_towers.SCALARS if n in theirs and n not in ours]
    for name in scalars if ours else ():
      self._note(name, "unused", remaining.pop(name), "the same for all pairs")
    if ours and not has_text:
      for name in [n for n in remaining if n.startswith(_ANSWER)]:
        leaf = remaining.pop(name)
        if name not in self._template:
          self._note(name, "unused", leaf, "another head")

  def _settle_head(self, remaining):
    """Notes the head as fresh if the file has another one or none."""
    ours = {k: v for k, v in self._template.items() if k.startswith(_HEAD)}
    theirs = {k: v for k, v in remaining.items() if k.startswith(_HEAD)}
    if any(name.startswith(_DENSE) for name in ours):
      # A network for dense tasks reads every token, and pools none.
      pooled = ("MAPHead", "fc_norm/")
      theirs |= {k: v for k, v in remaining.items() if k.startswith(pooled)}
    heads = [
      {k: tuple(v.shape) for k, v in arrays.items() if k.startswith(_ANSWER)}
      for arrays in (ours, theirs)
    ]
    # The same head after other layers would mean nothing: that is a mistake in
    # the model, not another task.
    if heads[0] == heads[1]:
      return
    for name, leaf in theirs.items():
      if name not in ours:
        self._note(name, "unused", leaf, "another head")
        remaining.pop(name)
      elif tuple(ours[name].shape) != leaf.shape:
        remaining.pop(name)
    for name in self._without_fate(ours):
      if name not in remaining:
        self._note(name, "fresh", theirs.get(name), "another head")

  def _insert_token_learner(self, remaining):
    if any(name.startswith(_LEARNED) for name in remaining):
      return
    for name in self._without_fate(self._template):
      if name.startswith(_LEARNED):
        self._note(name, "fresh", note="inserted")

  def _fit(self, name, leaf):
    if name not in self._template:
      self._problems["unexpected"].append(
        f"{self._shown(name)} {list(leaf.shape)}"
      )
      return
    shape, file_shape = tuple(self._template[name].shape), leaf.shape
    other_grid = name == POSEMB and None not in (self._grid, self._file_grid)
    other_grid = other_grid and self._grid != self._file_grid
    fewer_axes = other_grid and len(self._grid) < len(self._file_grid)
    if str(leaf.dtype) not in FLOATS:
      self._problems["misshapen"].append(
        f"{self._shown(name)} of type {leaf.dtype}: parameters are"
        f" {', '.join(FLOATS)}; quantized ones must be saved as one of these"
      )
    elif file_shape == shape and not other_grid:
      self.leaves[name] = leaf
      self._note(name, "loaded", leaf, self._changes.get(name, ""))
    elif (
      name == KERNEL
      and len(file_shape) in KERNEL_RANKS
      and len(file_shape) <= len(shape)
      and file_shape[-2:] == shape[-2:]
    ):
      self._fit_kernel(leaf, shape)
    elif other_grid and not fewer_axes and file_shape[2:] == shape[2:]:
      self._fit_posemb(leaf, shape)
    else:
      hint = ""
      if name == POSEMB and self._grid and not self._file_grid:
        hint = "; pass the file's posemb_grid"
      self._problems["misshapen"].append(
        f"{self._shown(name)} {list(file_shape)}, the model's is"
        f" {list(shape)}{hint}"
      )

  def _fit_kernel(self, leaf, shape):
    old_size, new_size = leaf.shape[:-2], shape[:-2]
    size = new_size[-len(old_size) :]
    notes = [] if size == old_size else ["PI-resize"]
    if size != new_size:
      notes.append(f"inflated: {self._inflate}")

    def fit(kernel):
      kernel = resize.resize_kernel(kernel, size)
      if size == new_size:
        return kernel
      return resize.inflate_kernel(kernel, new_size[0], self._inflate)

    self.leaves[KERNEL] = leaf.compute(fit, shape)
    self._note(KERNEL, "resized", leaf, ", ".join(notes))

  def _fit_posemb(self, leaf, shape):
    old_grid, new_grid = self._file_grid, self._grid
    size = new_grid[-len(old_grid) :]
    notes = []
    if size != old_grid:
      sizes = ["x".join(map(str, grid)) for grid in (old_grid, size)]
      notes = [self._method, " -> ".join(sizes)]
    if size != new_grid:
      notes.append(f"repeated {new_grid[0]} times")
    self.leaves[POSEMB] = leaf.compute(
      lambda array: resize.resize_posemb(
        array, old_grid, new_grid, self._method
      ),
      shape,
    )
    self._note(POSEMB, "resized", leaf, ", ".join(notes))

  def _complaint(self, where):
    lines = [f"{where} does not fit the model; nothing was loaded."]
    for problem, names in self._problems.items():
      if names:
        lines.append(f"{problem}:")
        lines += [f"  {name}" for name in names]
    lines.append(
      "Build the model that the file is for; `python -m"
      " tokenlearner_flexivit.interop describe FILE` shows its arguments."
      " Arrays that another task replaces, such as a head, can be initialised"
      " with fresh=(...) or left out with unused=(...), which list beginnings"
      " of names. Do so with no others: the answers would be another model's."
    )
    return "\n".join(lines)


def _no_such_beginning(
  argument: str, beginning: str, names: Iterable[str]
) -> str:
  return (
    f"{argument}={beginning!r}: no array's name begins so. The names are"
    f" {shorten(sorted(names))}."
  )
