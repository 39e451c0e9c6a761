"""Tells what is in a file of weights, from names and shapes alone."""

import dataclasses
import math
import os
import re
from typing import Any

from flax import core

from tokenlearner_flexivit import models
from tokenlearner_flexivit import workdir as workdir_lib
from tokenlearner_flexivit.interop import containers, download, formats, surgery
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import variants

_BLOCK = "Transformer/encoderblock_0/"


@dataclasses.dataclass(frozen=True)
class Description:
  """What a file holds, as far as it can be told without reading it.

  Attributes:
    source: as it was asked for.
    container: "npz", "safetensors", "msgpack" or "workdir".
    format: whose names it has.
    sha256: of the file; None for a workdir.
    variant: the standard size, such as "B/16", or None.
    model: constructor arguments of `models.ViT` for these weights.
    guesses: what of these the file does not tell.
    arrays: (our name, shape, dtype) of every array.
  """

  source: str
  container: str
  format: str
  sha256: str | None
  variant: str | None
  model: dict[str, Any]
  guesses: tuple[str, ...]
  arrays: tuple[tuple[str, tuple[int, ...], str], ...]

  @property
  def num_params(self) -> int:
    """All numbers in all arrays."""
    return sum(math.prod(shape) for _, shape, _ in self.arrays)

  def __str__(self) -> str:
    """A text for people, with the table of parameters."""
    width = max(len(name) for name, *_ in self.arrays)
    lines = [
      f"source      {self.source}",
      f"format      {self.format} ({self.container})",
      f"sha256      {self.sha256 or 'none: a folder'}",
      f"variant     {self.variant or 'none of the standard sizes'}",
      f"parameters  {self.num_params:,}",
      "model       " + ", ".join(f"{k}={v!r}" for k, v in self.model.items()),
      *(f"guessed     {guess}" for guess in self.guesses),
      "",
      *(
        f"{name:<{width}}  {dtype:<8}  {list(shape)}"
        for name, shape, dtype in self.arrays
      ),
    ]
    return "\n".join(lines)


def describe(
  source: str | os.PathLike, *, num_heads: int | None = None
) -> Description:
  """Guesses the model that a file is for.

    model = models.ViT(**describe("FlexiViT-B i1k").model)

  Args:
    source: see `download.fetch`.
    num_heads: attention heads, which timm's and Hugging Face's files do not
      tell; None guesses them from the width.

  Raises:
    FileNotFoundError, ValueError: as `load_params_and_report`.
  """
  path = download.fetch(source)
  with containers.open_file(path) as (container, arrays):
    name, leaves, _ = formats.to_ours(arrays, str(path), num_heads or 1)
    guesses = []
    if num_heads is None and name in ("timm", "hugging_face"):
      guesses.append("num_heads, from the width")
      width = leaves[surgery.KERNEL].shape[-1]
      _, leaves, _ = formats.to_ours(arrays, str(path), _guess_heads(width))
    if container == "workdir" and (path / workdir_lib.CONFIG_FILE).exists():
      model = _model_of_run(leaves, path)
    else:
      model = _model(leaves, guesses, path)
    variant = _variant(model)
    table = tuple((k, v.shape, str(v.dtype)) for k, v in leaves.items())
  return Description(
    source=str(source),
    container=container,
    format=name,
    sha256=download.sha256(path),
    variant=variant,
    model=model,
    guesses=tuple(guesses),
    arrays=table,
  )


def _model_of_run(leaves: Leaves, path) -> dict[str, Any]:
  """What the run's config says, which weights cannot tell in full."""
  section = dict(workdir_lib.read_config(path)["model"])
  section["num_classes"] = _size(leaves, "head/bias", None)
  model = models.create(**section)
  # How the run computed is not what its weights are.
  training = {"dtype", "dropout", "stochastic_depth", "remat", "scan"}
  found = {}
  for field in dataclasses.fields(model):
    value = getattr(model, field.name)
    plain = field.name not in {"parent", "name"} | training
    if plain and (field.name == "num_classes" or value != field.default):
      is_dict = isinstance(value, core.FrozenDict)
      found[field.name] = dict(value) if is_dict else value
  return found


def _model(leaves: Leaves, guesses: list[str], path) -> dict[str, Any]:
  if surgery.KERNEL in leaves and len(leaves[surgery.KERNEL].shape) == 5:
    raise ValueError(
      f"{path} is of a model for videos, whose settings no file tells. Build a"
      " models.ViViT and load these weights with load_params."
    )
  needed = (surgery.KERNEL, f"{_BLOCK}MlpBlock_0/Dense_0/kernel")
  query = f"{_BLOCK}MultiHeadDotProductAttention_0/query/kernel"
  ranks = zip((*needed, query), (4, 2, 3), strict=True)
  for key, rank in ranks:
    if key not in leaves or len(leaves[key].shape) != rank:
      raise ValueError(f"{path}: no array {key!r} with {rank} axes.")
  p, q, _, width = leaves[surgery.KERNEL].shape
  mlp_dim = leaves[needed[1]].shape[1]
  blocks = {m[1] for k in leaves if (m := re.match(_BLOCK[:-2] + r"(\d+)/", k))}
  model = dict(
    num_classes=_size(leaves, "head/bias", None),
    width=width,
    depth=len(blocks),
    mlp_dim=mlp_dim,
    num_heads=leaves[query].shape[1],
    patch_size=(p, q),
  )
  if surgery.POSEMB in leaves:
    n = leaves[surgery.POSEMB].shape[1]
    grid, _ = surgery.posemb_grid(n, "cls" in leaves)
    if grid is None:
      grid = (1, n)
      guesses.append(f"posemb_grid: {n} cells make no square")
    model["posemb_grid"] = grid
  else:
    model["posemb"] = "sincos2d"
    guesses.append("posemb: none is stored, so it is computed")
  if "cls" in leaves:
    model["pool"] = "tok"
  else:
    model["pool"] = "map" if "MAPHead_0/probe" in leaves else "gap"
  rep_size = _size(leaves, "pre_logits/bias", None)
  if rep_size:
    model["rep_size"] = rep_size
  learner = _token_learner(leaves, model["depth"], guesses)
  if learner:
    model["token_learner"] = learner
  return model


def _size(leaves, name, default):
  return leaves[name].shape[0] if name in leaves else default


def _guess_heads(width: int) -> int:
  for name in variants.VARIANTS:
    size = variants.decode_variant(name)
    if size["width"] == width:
      return size["num_heads"]
  return max(1, width // 64)


def _variant(model: dict[str, Any]) -> str | None:
  for name in variants.VARIANTS:
    size = variants.decode_variant(name)
    keys = ("width", "depth", "mlp_dim", "num_heads")
    if all(size[key] == model[key] for key in keys):
      p, q = model["patch_size"]
      return f"{name}/{p}" if p == q else name
  return None


def _token_learner(leaves, depth, guesses) -> dict[str, Any] | None:
  prefix = "Transformer/TokenLearner_"
  count = len({k.split("/")[1] for k in leaves if k.startswith(prefix)})
  if not count:
    return None
  first = f"{prefix}0/"
  v10 = f"{first}Conv_3/kernel" in leaves
  last = "Conv_3/kernel" if v10 else "token_masking/Dense_1/kernel"
  fuser = any(k.startswith("Transformer/TokenFuser_") for k in leaves)
  if first + last not in leaves:
    raise ValueError(f"There is a TokenLearner, but no array {first + last!r}.")
  learner = dict(
    layer=depth - count if fuser else depth // 2,
    num_tokens=leaves[first + last].shape[-1],
    version="1.0" if v10 else "1.1",
    fuser=fuser,
  )
  if not v10:
    learner["bottleneck_dim"] = leaves[first + last].shape[0]
  if not fuser:
    guesses.append("token_learner.layer: no file tells it")
  if v10:
    guesses.append("token_learner.pooling: no file tells it; sum is published")
  return learner
