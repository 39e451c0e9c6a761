"""Names of parameters in Hugging Face's ViT and the models built like it.

These are DeiT, the encoder of MAE, MSN, I-JEPA and ViViT, whose blocks have the
names of ViT, and DINOv2, whose blocks have others. `tower_names` has those of
CLIP and SigLIP. What `roots` strips does not stand before these names.
"""

from tokenlearner_flexivit.interop import torch_layouts
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.interop.torch_layouts import ATTENTION, BLOCK, MLP

KERNEL = "embeddings.patch_embeddings.projection.weight"
POSEMB = "embeddings.position_embeddings"
CLS = "embeddings.cls_token"
REGISTERS = ("embeddings.distillation_token", "embeddings.register_tokens")
CLASSIFIER = "classifier.weight"
DISTILLED = "distillation_classifier.weight"
_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.")
_LAYER = "encoder.layer.{}."
_ATTENTION = (
  (ATTENTION + "query", _LAYER + "attention.attention.query", "heads"),
  (ATTENTION + "key", _LAYER + "attention.attention.key", "heads"),
  (ATTENTION + "value", _LAYER + "attention.attention.value", "heads"),
  (ATTENTION + "out", _LAYER + "attention.output.dense", "out"),
)
_AROUND = (
  ("embedding", "embeddings.patch_embeddings.projection", "conv"),
  ("Transformer/encoder_norm", "layernorm", "norm"),
  ("pre_logits", "pooler.dense", "dense"),
  ("head", "cls_classifier", "dense"),
  ("head", "classifier", "dense"),
  ("head_dist", "distillation_classifier", "dense"),
)
_ARRAYS = (
  ("cls", CLS),
  ("registers", "embeddings.distillation_token"),
  ("registers", "embeddings.register_tokens"),
  ("pos_embedding", POSEMB),
)
_VIT = torch_layouts.Table(
  modules=(
    *_AROUND,
    *_ATTENTION,
    (BLOCK + "LayerNorm_0", _LAYER + "layernorm_before", "norm"),
    (BLOCK + "LayerNorm_1", _LAYER + "layernorm_after", "norm"),
    (MLP + "Dense_0", _LAYER + "intermediate.dense", "dense"),
    (MLP + "Dense_1", _LAYER + "output.dense", "dense"),
  ),
  arrays=_ARRAYS,
)
_DINOV2 = torch_layouts.Table(
  modules=(
    *_AROUND,
    *_ATTENTION,
    (BLOCK + "LayerNorm_0", _LAYER + "norm1", "norm"),
    (BLOCK + "LayerNorm_1", _LAYER + "norm2", "norm"),
    (MLP + "Dense_0", _LAYER + "mlp.fc1", "dense"),
    (MLP + "Dense_1", _LAYER + "mlp.fc2", "dense"),
  ),
  arrays=_ARRAYS,
  scales=(
    (_LAYER + "layer_scale1.lambda1", _LAYER + "attention.output.dense"),
    (_LAYER + "layer_scale2.lambda1", _LAYER + "mlp.fc2"),
  ),
)


def is_vit(names: set[str]) -> bool:
  """Tells whether a patch embedding has the name of ViT's, or of DINOv2's."""
  return KERNEL in names


def is_dinov2(names: set[str]) -> bool:
  """Tells whether blocks have DINOv2's names."""
  return KERNEL in names and _LAYER.format(0) + "norm1.weight" in names


def num_registers(leaves: Leaves) -> int:
  """Returns how many tokens stand between the cls token and the patches."""
  shapes = [leaves[name].shape for name in REGISTERS if name in leaves]
  return sum(shape[1] for shape in shapes if len(shape) == 3)


def their_name(ours: str, dinov2: bool = False) -> str:
  """Returns the name of an array of ours in files of ViT, or of DINOv2."""
  return (_DINOV2 if dinov2 else _VIT).their_name(ours)


def to_ours(leaves: Leaves, where: str, num_heads: int) -> Leaves:
  """Converts arrays of Hugging Face's models to our names and layouts.

  Args:
    leaves: by their names without prefixes.
    where: the file, for errors.
    num_heads: which the file does not store.

  Returns:
    arrays with our names where they are known.

  Raises:
    ValueError: a model that ours cannot compute.
  """
  torch_layouts.check_parts(leaves, where, ("layernorm",), POSEMB)
  if {"pooler.dense.weight", CLASSIFIER} <= leaves.keys():
    raise ValueError(
      f"{where} holds a pooler beside a classifier: Hugging Face's classifier"
      " does not use it, the models here would."
    )
  table = _DINOV2 if is_dinov2(set(leaves)) else _VIT
  return table.read(leaves, where, num_heads)


def to_theirs(leaves: Leaves, kind: str) -> Leaves:
  """Converts our arrays to the names of a kind of model.

  Args:
    leaves: by our names, positions of cls and registers included.
    kind: "vit", "deit", "dinov2" or "dinov2_with_registers", which is also the
      prefix of the encoder's names.

  Raises:
    ValueError: an array that no model of the kind has.
  """
  table = _DINOV2 if kind.startswith("dinov2") else _VIT
  written = table.write(leaves, f"Hugging Face's {kind}")
  if kind == "deit":
    token = "embeddings.distillation_token"
    renames = {"embeddings.register_tokens": token} | {
      f"classifier.{part}": f"cls_classifier.{part}"
      for part in ("weight", "bias")
    }
    written = {renames.get(k, k): leaf for k, leaf in written.items()}
  return {
    name if name.startswith(_HEADS) else f"{kind}.{name}": leaf
    for name, leaf in written.items()
  }
