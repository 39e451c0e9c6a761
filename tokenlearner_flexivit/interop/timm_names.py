"""Names of parameters in timm's VisionTransformer.

pre_logits are of its older versions and can only be read, and so are the names
of DINOv2's own files, which are timm's but for the registers.
"""

import re
from collections.abc import Mapping

from tokenlearner_flexivit.interop import torch_layouts
from tokenlearner_flexivit.interop.leaves import Leaf, Leaves, concatenate
from tokenlearner_flexivit.interop.torch_layouts import (
  ATTENTION,
  BLOCK,
  MAP,
  MLP,
)

KERNEL = "patch_embed.proj.weight"
POSEMB = "pos_embed"
CLS = "cls_token"
REGISTERS = ("reg_token", "register_tokens", "dist_token")
# `split_joint` and `_join` convert the joint matrix of query, key and value.
_TABLE = torch_layouts.Table(
  modules=(
    ("embedding", "patch_embed.proj", "conv"),
    ("pre_norm", "norm_pre", "norm"),
    (BLOCK + "LayerNorm_0", "blocks.{}.norm1", "norm"),
    (ATTENTION + "query", "blocks.{}.attn.q", "heads"),
    (ATTENTION + "key", "blocks.{}.attn.k", "heads"),
    (ATTENTION + "value", "blocks.{}.attn.v", "heads"),
    (ATTENTION + "out", "blocks.{}.attn.proj", "out"),
    (BLOCK + "LayerNorm_1", "blocks.{}.norm2", "norm"),
    (MLP + "Dense_0", "blocks.{}.mlp.fc1", "dense"),
    (MLP + "Dense_1", "blocks.{}.mlp.fc2", "dense"),
    ("Transformer/encoder_norm", "norm", "norm"),
    ("fc_norm", "fc_norm", "norm"),
    (MAP + "query", "attn_pool.q", "heads"),
    (MAP + "key", "attn_pool.k", "heads"),
    (MAP + "value", "attn_pool.v", "heads"),
    (MAP + "out", "attn_pool.proj", "out"),
    ("MAPHead_0/LayerNorm_0", "attn_pool.norm", "norm"),
    ("MAPHead_0/MlpBlock_0/Dense_0", "attn_pool.mlp.fc1", "dense"),
    ("MAPHead_0/MlpBlock_0/Dense_1", "attn_pool.mlp.fc2", "dense"),
    ("pre_logits", "pre_logits.fc", "dense"),
    ("head", "head", "dense"),
    ("head_dist", "head_dist", "dense"),
  ),
  arrays=(
    ("cls", CLS),
    ("registers", "dist_token"),
    ("registers", "register_tokens"),
    ("registers", "reg_token"),
    ("pos_embedding", POSEMB),
    ("MAPHead_0/probe", "attn_pool.latent"),
  ),
  scales=(
    ("blocks.{}.ls1.gamma", "blocks.{}.attn.proj"),
    ("blocks.{}.ls2.gamma", "blocks.{}.mlp.fc2"),
  ),
)


def is_timm(names: set[str]) -> bool:
  """Tells whether a patch embedding has timm's name."""
  return KERNEL in names


def num_registers(leaves: Leaves) -> int:
  """Returns how many tokens stand beside the cls token and the patches."""
  shapes = [leaves[name].shape for name in REGISTERS if name in leaves]
  return sum(shape[1] for shape in shapes if len(shape) == 3)


def their_name(ours: str) -> str:
  """Returns the name of an array of ours in timm's files."""
  theirs = _TABLE.their_name(ours)
  theirs = re.sub(r"^(blocks\.\d+\.attn)\.[qkv]\.", r"\1.qkv.", theirs)
  return re.sub(r"^attn_pool\.[kv]\.", "attn_pool.kv.", theirs)


def to_ours(leaves: Leaves, where: str, num_heads: int) -> Leaves:
  """Converts timm's arrays to our names and layouts.

  LayerScale (DeiT III, DINOv2) multiplies the output of a branch. It is folded
  into the layer before it.

  Args:
    leaves: timm's VisionTransformer.
    where: the file, for errors.
    num_heads: which the file does not store.

  Returns:
    arrays with our names where they are known.

  Raises:
    ValueError: a model that ours cannot compute.
  """
  torch_layouts.check_parts(leaves, where, ("norm", "fc_norm"), POSEMB)
  several = [name for name in REGISTERS if name in leaves]
  if len(several) > 1:
    raise ValueError(
      f"{where} holds {' and '.join(several)}; the models here have one array"
      " of such tokens."
    )
  split = {}
  for name, leaf in leaves.items():
    split.update(torch_layouts.split_joint(name, leaf))
  return _TABLE.read(split, where, num_heads)


def to_theirs(leaves: Leaves, no_embed_class: bool = False) -> Leaves:
  """Converts our arrays to those of timm's VisionTransformer.

  Args:
    leaves: by our names.
    no_embed_class: whether cls and registers have no positions, as in timm's
      flexivit and DeiT III. Otherwise they get some of zeros, as timm's other
      models have them.

  Raises:
    ValueError: parameters that it lacks.
  """
  if "pre_logits/kernel" in leaves:
    raise ValueError(
      "timm has no parameter like 'pre_logits/kernel', so these cannot be saved"
      " in its format. Use format='native'."
    )
  head, width = leaves.get("head/kernel"), leaves["embedding/kernel"].shape[-1]
  if head and head.shape[0] != width:
    raise ValueError(
      f"timm's head reads {width} features, but that of these parameters"
      f" {head.shape[0]}, as with pool='tok_gap'. Use format='hugging_face' or"
      " 'native'."
    )
  prefix = [leaves[name] for name in ("cls", "registers") if name in leaves]
  if prefix and "pos_embedding" in leaves and not no_embed_class:
    entries = sum(leaf.shape[1] for leaf in prefix)
    leaves = torch_layouts.with_prefix_positions(leaves, entries)
  if "pre_norm/scale" in leaves:
    whose = "timm's patch embedding before a norm"
    leaves = torch_layouts.without_biases(leaves, ("embedding",), whose)
  torch = _join(_TABLE.write(leaves, "timm"))
  if "head_dist.weight" in torch:
    if torch["reg_token"].shape[1] != 1 or no_embed_class:
      raise ValueError(
        "timm's distilled DeiT has a distillation token, with a position, and"
        " no registers beside it. Use format='native'."
      )
    torch["dist_token"] = torch.pop("reg_token")
  return torch


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
