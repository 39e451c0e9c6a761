"""Names and layouts of parameters in timm and in Hugging Face transformers.

A dense kernel is [in, out] in flax and [out, in] in torch, a convolution's is
[p, q, C, D] and [D, C, p, q], and attention has an axis for its heads in flax
only. timm's pre_logits are of its older versions and can only be read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tokenlearner_flexivit.interop.leaves import Leaf, Leaves, concatenate

_BLOCK = "Transformer/encoderblock_{}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_0/"
_MLP = _BLOCK + "MlpBlock_0/"
_POOL = "MAPHead_0/MultiHeadDotProductAttention_0/"

# Modules: our name, their name and kind; {} stands for the index of a block.
# `_split` and `_join` convert timm's joint matrix of query, key and value.
_TIMM = (
  ("embedding", "patch_embed.proj", "conv"),
  (_BLOCK + "LayerNorm_0", "blocks.{}.norm1", "norm"),
  (_ATTENTION + "query", "blocks.{}.attn.q", "heads"),
  (_ATTENTION + "key", "blocks.{}.attn.k", "heads"),
  (_ATTENTION + "value", "blocks.{}.attn.v", "heads"),
  (_ATTENTION + "out", "blocks.{}.attn.proj", "out"),
  (_BLOCK + "LayerNorm_1", "blocks.{}.norm2", "norm"),
  (_MLP + "Dense_0", "blocks.{}.mlp.fc1", "dense"),
  (_MLP + "Dense_1", "blocks.{}.mlp.fc2", "dense"),
  ("Transformer/encoder_norm", "norm", "norm"),
  (_POOL + "query", "attn_pool.q", "heads"),
  (_POOL + "key", "attn_pool.k", "heads"),
  (_POOL + "value", "attn_pool.v", "heads"),
  (_POOL + "out", "attn_pool.proj", "out"),
  ("MAPHead_0/LayerNorm_0", "attn_pool.norm", "norm"),
  ("MAPHead_0/MlpBlock_0/Dense_0", "attn_pool.mlp.fc1", "dense"),
  ("MAPHead_0/MlpBlock_0/Dense_1", "attn_pool.mlp.fc2", "dense"),
  ("pre_logits", "pre_logits.fc", "dense"),
  ("head", "head", "dense"),
)
_TIMM_ARRAYS = (
  ("cls", "cls_token"),
  ("pos_embedding", "pos_embed"),
  ("MAPHead_0/probe", "attn_pool.latent"),
)
_LAYER = "vit.encoder.layer.{}."
_HUGGING_FACE = (
  ("embedding", "vit.embeddings.patch_embeddings.projection", "conv"),
  (_BLOCK + "LayerNorm_0", _LAYER + "layernorm_before", "norm"),
  (_ATTENTION + "query", _LAYER + "attention.attention.query", "heads"),
  (_ATTENTION + "key", _LAYER + "attention.attention.key", "heads"),
  (_ATTENTION + "value", _LAYER + "attention.attention.value", "heads"),
  (_ATTENTION + "out", _LAYER + "attention.output.dense", "out"),
  (_BLOCK + "LayerNorm_1", _LAYER + "layernorm_after", "norm"),
  (_MLP + "Dense_0", _LAYER + "intermediate.dense", "dense"),
  (_MLP + "Dense_1", _LAYER + "output.dense", "dense"),
  ("Transformer/encoder_norm", "vit.layernorm", "norm"),
  ("pre_logits", "vit.pooler.dense", "dense"),
  ("head", "classifier", "dense"),
)
_HUGGING_FACE_ARRAYS = (
  ("cls", "vit.embeddings.cls_token"),
  ("pos_embedding", "vit.embeddings.position_embeddings"),
)
HUGGING_FACE_KERNEL = "embeddings.patch_embeddings.projection.weight"


def is_timm(names: set[str]) -> bool:
  """Tells whether a patch embedding has timm's name."""
  return "patch_embed.proj.weight" in names


def is_hugging_face(names: set[str]) -> bool:
  """Tells whether a patch embedding has transformers' name."""
  kernel = HUGGING_FACE_KERNEL
  return kernel in names or f"vit.{kernel}" in names


def their_name(format: str, ours: str) -> str:
  """Returns the name of an array of ours in timm's or Hugging Face's files."""
  modules, arrays = {
    "timm": (_TIMM, _TIMM_ARRAYS),
    "hugging_face": (_HUGGING_FACE, _HUGGING_FACE_ARRAYS),
  }[format]
  theirs = look_up(ours, modules, arrays)
  if format == "timm":  # Joint projections.
    theirs = re.sub(r"^(blocks\.\d+\.attn)\.[qkv]\.", r"\1.qkv.", theirs)
    theirs = re.sub(r"^attn_pool\.[kv]\.", "attn_pool.kv.", theirs)
  return theirs


def look_up(
  ours: str, modules: Sequence[tuple[str, ...]], arrays: Sequence[tuple]
) -> str:
  """Returns the name of an array of ours by tables for `expand`."""
  index = re.search(r"/(?:encoder)?block_(\d+)/", ours)
  depth = int(index[1]) + 1 if index else 1
  names = {name: theirs for name, theirs, _ in expand(modules, arrays, depth)}
  return names.get(ours, ours)


def from_timm(leaves: Leaves, where: str, num_heads: int) -> Leaves:
  """Converts timm's arrays to our names and layouts.

  LayerScale ("ls1.gamma", DeiT III) multiplies the output of a branch. It is
  folded into the layer before it.

  Args:
    leaves: timm's VisionTransformer.
    where: the file, for errors.
    num_heads: which the file does not store.

  Returns:
    arrays with our names where they are known.

  Raises:
    ValueError: a model that ours cannot compute.
  """
  _check_parts(leaves, where, "norm.", "pos_embed")
  if {"cls_token", "attn_pool.latent"} <= leaves.keys():
    raise ValueError(
      f"{where} is of a model with attention pooling beside a cls token; the"
      " models here have one of them."
    )
  split = {}
  for name, leaf in leaves.items():
    split.update(_split(name, leaf))
  for name in list(split):
    scale = re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name)
    if scale:
      layer = scale[1] + ("attn.proj", "mlp.fc2")[int(scale[2]) - 1]
      parts = [p for p in (f"{layer}.weight", f"{layer}.bias") if p in split]
      gamma = split[name]
      if any(split[part].shape[:1] != gamma.shape for part in parts):
        raise ValueError(
          f"{where}: {name} {list(gamma.shape)} does not scale the rows of"
          f" {parts[0]} {list(split[parts[0]].shape)}."
        )
      for part in parts:
        split[part] = _scale_rows(split[part], gamma)
      del split[name]
  return rename(split, _TIMM, _TIMM_ARRAYS, num_heads)


def _check_parts(leaves, where, norm, positions) -> None:
  """Raises for models without positions or a last norm, or with other norms."""
  if positions not in leaves:
    raise ValueError(
      f"{where} holds no {positions!r}: its model has no positions, or"
      " computes them in a way (rotary, relative) that the models here do not."
    )
  if f"{norm}weight" not in leaves:
    raise ValueError(
      f"{where} holds no {norm}weight: its model has no norm after the blocks;"
      " the models here have one."
    )
  for name in leaves:
    module = name.removesuffix(".weight")
    is_norm = re.search(r"(^|\.)(layer)?norm(\d|_\w+)?$", module)
    if module != name and is_norm and f"{module}.bias" not in leaves:
      raise ValueError(
        f"{where} holds {name!r} without a bias: a norm of another kind, such"
        " as RMSNorm, which the models here have not."
      )


def from_hugging_face(leaves: Leaves, where: str, num_heads: int) -> Leaves:
  """Converts arrays of Hugging Face's ViT to our names and layouts."""
  named = {
    name if name.startswith(("vit.", "classifier.")) else f"vit.{name}": leaf
    for name, leaf in leaves.items()
  }
  _check_parts(
    named, where, "vit.layernorm.", "vit.embeddings.position_embeddings"
  )
  if {"vit.pooler.dense.weight", "classifier.weight"} <= named.keys():
    raise ValueError(
      f"{where} holds a pooler beside a classifier: Hugging Face's classifier"
      " does not use it, the models here would."
    )
  return rename(named, _HUGGING_FACE, _HUGGING_FACE_ARRAYS, num_heads)


def to_timm(leaves: Leaves) -> Leaves:
  """Converts our arrays to those of VisionTransformer(fc_norm=False).

  A cls token gets a zero position, as timm's models have one by default.
  """
  if {"cls", "pos_embedding"} <= leaves.keys():
    leaves = _with_cls_position(leaves)
  return _join(_to_torch(leaves, "timm", _TIMM, _TIMM_ARRAYS))


def to_hugging_face(leaves: Leaves) -> Leaves:
  """Converts our arrays to those of ViTForImageClassification.

  A cls token gets a zero position.

  Raises:
    ValueError: parameters that it lacks.
  """
  if not {"cls", "pos_embedding"} <= leaves.keys():
    raise ValueError(
      "Hugging Face's ViT has a cls token and a learned position embedding;"
      " without both, weights cannot be saved in its format."
    )
  if {"pre_logits/kernel", "head/kernel"} <= leaves.keys():
    raise ValueError(
      "Hugging Face's ViTForImageClassification has no layer between the cls"
      " token and the classifier, but these weights have pre_logits. Save them"
      " without the head, as a ViTModel, or use format='native'."
    )
  return _to_torch(
    _with_cls_position(leaves),
    "Hugging Face's ViT",
    _HUGGING_FACE,
    _HUGGING_FACE_ARRAYS,
  )


def _with_cls_position(leaves: Leaves) -> Leaves:
  """Inserts a position of zeros, for the cls token, before the others."""
  cells = leaves["pos_embedding"].transpose(1, 0, 2)
  zero = cells.rows(0, 1).map(np.zeros_like)
  posemb = concatenate([zero, cells]).transpose(1, 0, 2)
  return {**leaves, "pos_embedding": posemb}


def expand(
  modules: Sequence[tuple[str, ...]], arrays: Sequence[tuple], depth: int
) -> Iterator[tuple[str, str, str]]:
  """Yields (our name, their name, kind) of every array of a model.

  Args:
    modules: our name, their name and kind of each module; {} stands for the
      index of a block.
    arrays: our name and their name of each array alone.
    depth: number of blocks.
  """
  for ours, theirs in arrays:
    yield ours, theirs, "same"
  for ours, theirs, kind in modules:
    kernel, bias = kind, "heads_bias" if kind == "heads" else "same"
    if kind == "norm":
      kernel = "same"
    first = "scale" if kind == "norm" else "kernel"
    for i in range(depth) if "{}" in ours else (0,):
      yield f"{ours}/{first}".format(i), f"{theirs}.weight".format(i), kernel
      yield f"{ours}/bias".format(i), f"{theirs}.bias".format(i), bias


def rename(
  leaves: Leaves,
  modules: Sequence[tuple[str, ...]],
  arrays: Sequence[tuple],
  num_heads: int,
) -> Leaves:
  """Converts arrays by tables for `expand`; unknown ones keep their names."""
  blocks = [re.search(r"\.(\d+)\.", name) for name in leaves]
  depth = 1 + max((int(match[1]) for match in blocks if match), default=-1)
  table = {
    theirs: (ours, kind)
    for ours, theirs, kind in expand(modules, arrays, min(depth, len(leaves)))
  }
  ours = {}
  for theirs, leaf in leaves.items():
    name, kind = table.get(theirs, (theirs, "same"))
    ours[name] = _to_ours(leaf, kind, num_heads)
  return ours


def _to_torch(leaves, whose, modules, arrays) -> Leaves:
  table = {
    ours: (theirs, kind)
    for ours, theirs, kind in expand(modules, arrays, len(leaves))
  }
  torch = {}
  for name, leaf in leaves.items():
    if name not in table or (
      name.startswith("pre_logits/") and whose == "timm"
    ):
      raise ValueError(
        f"{whose} has no parameter like {name!r}, so these cannot be saved in"
        " its format. Use format='native'."
      )
    theirs, kind = table[name]
    torch[theirs] = _to_theirs(leaf, kind)
  return torch


def _to_ours(leaf: Leaf, kind: str, num_heads: int) -> Leaf:
  """Changes the layout; an array of unknown shape stays, for the error."""
  ndim = {"conv": 4, "dense": 2, "heads": 2, "heads_bias": 1, "out": 2}
  if kind not in ndim or len(leaf.shape) != ndim[kind]:
    return leaf
  if kind == "conv":
    return leaf.transpose(2, 3, 1, 0)
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
    return leaf.transpose(3, 2, 0, 1)
  if kind == "dense":
    return leaf.transpose()
  if kind == "heads_bias":
    return leaf.reshape(leaf.size)
  if kind == "heads":
    return leaf.reshape(leaf.shape[0], leaf.size // leaf.shape[0]).transpose()
  if kind == "out":
    return leaf.reshape(leaf.size // leaf.shape[-1], leaf.shape[-1]).transpose()
  return leaf


def _split(name: str, leaf: Leaf) -> Leaves:
  """Takes timm's joint projections apart."""
  joint = re.fullmatch(r"(.+\.)(qkv|kv)\.(weight|bias)", name)
  if not joint or not leaf.shape or leaf.shape[0] % len(joint[2]):
    return {name: leaf}
  rows = leaf.shape[0] // len(joint[2])
  return {
    f"{joint[1]}{part}.{joint[3]}": leaf.rows(i * rows, (i + 1) * rows)
    for i, part in enumerate(joint[2])
  }


def _join(leaves: Mapping[str, Leaf]) -> Leaves:
  """Joins query, key and value into timm's joint projections."""
  joined = {}
  for name, leaf in leaves.items():
    part = re.fullmatch(r"(.+\.)([qkv])\.(weight|bias)", name)
    # The query of the attention pooling stays separate.
    if not part or name.startswith("attn_pool.q."):
      joined[name] = leaf
      continue
    parts = "kv" if part[1] == "attn_pool." else "qkv"
    joined[f"{part[1]}{parts}.{part[3]}"] = concatenate(
      [leaves[f"{part[1]}{p}.{part[3]}"] for p in parts]
    )
  return joined


def _scale_rows(leaf: Leaf, gamma: Leaf) -> Leaf:
  shape = (-1, *(1,) * (len(leaf.shape) - 1))
  return leaf.compute(
    lambda array: array * gamma.read().astype(array.dtype).reshape(shape)
  )
