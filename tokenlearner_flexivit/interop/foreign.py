"""Names of arrays whose models compute what the models here do not.

Leaving such an array out, or initialising it, would give another model, whose
answers are wrong without a warning. So such files are refused by the feature's
name.
"""

import re
from collections.abc import Iterable

from tokenlearner_flexivit.interop.leaves import Leaf, Leaves, shorten

_GATED = "a gated MLP (SwiGLU)"
# Parts of names, and the features that they stand for.
_FEATURES = (
  (r"detection_tokens|mid_position", "detection tokens (YOLOS)"),
  (r"\b[qk]_norm\b|query_norm|key_norm", "normalised queries and keys"),
  (
    r"\bmlp\.(w12|w3|fc1_[gx]|gate_proj)|weights_(in|out)\.|swiglu",
    _GATED,
  ),
  (r"\brope\b|\bfreqs|rotary", "rotary positions"),
  (r"rel_pos|relative_position", "relative positions"),
  (
    r"patch_embed\.backbone|^conv_root/|^gn_root/|^block\d+/unit\d+/",
    "a hybrid's convolutions in place of patches (R+ViT)",
  ),
  (r"patch_embed\.(norm|proj\.\d|conv)", "more than a patch embedding"),
  (r"\b(attn|mlp)\.norm\.", "norms inside the branches"),
  (r"\battn\.(lambda_|sub_norm)", "differential attention"),
  (
    r"\bgamma_[12]$|\.lambda_[12]$",
    "LayerScale under names that are not read (gamma_1, lambda_1)",
  ),
  (r"\b[qv]_bias$", "biases of queries and values alone (BEiT, EVA)"),
  (r"blocks\.\d+\.(attns|ffns)\.", "parallel branches in a block"),
  (r"\blora_[AB]\b|lora_(down|up)", "LoRA adapters, which are not merged"),
  (r"attn_pool\.pos_embed|attn_pool\.(ls|norm1)", "another attention pooling"),
  (r"\bblocks\.\d+\.proj\.", "stages of other widths (Hiera)"),
  (r"\bneck\.", "a neck after the blocks (SAM)"),
  (r"type_embedding|temporal_embed|time_embed", "embeddings of other inputs"),
)
# Names of patch embeddings that are not read.
_FAMILIES = (
  (r"embeddings\.patch_embedding\.weight", "Hugging Face's CLIP or SigLIP"),
  (
    r"text_model\.embeddings\.token_embedding\.weight",
    "Hugging Face's CLIP or SigLIP without the image tower",
  ),
  (r"embeddings\.patch_embeddings\.weight", "Hugging Face's DINOv3"),
  (r"embeddings\.patch_embed\.weight", "Hugging Face's AIMv2"),
  (r"visual\.conv1\.weight", "CLIP's own or open_clip"),
  (r"conv_proj\.weight", "torchvision"),
  (r"embeds\.proj\.weight", "timm's NaFlex"),
  (r"embedding/kernel", "big_vision or Scenic"),
  (r"patch_embeddings/projection/kernel", "Hugging Face's Flax models"),
)
# Read, but not behind a prefix that `roots` does not strip.
_READ = ("big_vision or Scenic",)
# Parts of names of arrays that only pretraining uses.
PRETRAINING = re.compile(r"(^|\.)(mask_token$|decoder\w*(\.|$))")


def check(leaves: Leaves, where: str) -> None:
  """Raises ValueError for arrays of features that the models here lack.

  Args:
    leaves: by their names in the file.
    where: the file, for errors.

  Raises:
    ValueError: names the features and arrays of each.
  """
  arrays_by_feature: dict[str, list[str]] = {}
  for name, leaf in leaves.items():
    if PRETRAINING.search(name):
      continue
    if _is_packed(name, leaf, leaves):
      arrays_by_feature.setdefault(_GATED, []).append(name)
    for pattern, feature in _FEATURES:
      if re.search(pattern, name):
        arrays_by_feature.setdefault(feature, []).append(name)
        break
  if arrays_by_feature:
    features = "; ".join(
      f"{feature}: {shorten(sorted(arrays), 3)}"
      for feature, arrays in arrays_by_feature.items()
    )
    raise ValueError(
      f"{where} holds a model with {features}. The models here lack these, and"
      " without those arrays their answers would be wrong."
    )


def _is_packed(name: str, leaf: Leaf, leaves: Leaves) -> bool:
  """Tells whether a layer gives a value and a gate for each hidden feature."""
  second = leaves.get(name.replace("mlp.fc1.", "mlp.fc2."))
  if not name.endswith("mlp.fc1.weight") or second is None:
    return False
  shapes = leaf.shape, second.shape
  return {len(s) for s in shapes} == {2} and shapes[0][0] == 2 * shapes[1][1]


def family(names: Iterable[str]) -> str:
  """Returns a sentence naming the library of the arrays; "" if unknown."""
  names = sorted(names)
  for pattern, who in _FAMILIES:
    for name in names:
      match = re.fullmatch(rf"(.*?)\b{pattern}", name)
      if match:
        prefix = match[1]
        behind = f", behind the prefix {prefix!r}" if prefix else ""
        read = prefix and who in _READ
        advice = " Save the arrays without that prefix." if read else ""
        return (
          f" The names are those of {who}{behind}, which are not read.{advice}"
        )
  return ""
