"""Names of arrays whose models compute what the models here do not.

Leaving such an array out, or initialising it, would give another model, whose
answers are wrong without a warning. So such files are refused by the feature's
name.
"""

import re
from collections.abc import Iterable

from tokenlearner_flexivit.interop.leaves import shorten

# Parts of names, and the features that they stand for.
_FEATURES = (
  (r"reg_token|register_tokens", "register tokens"),
  (
    r"norm_pre|pre_layrnorm|ln_pre",
    "a norm before the blocks (CLIP; of Hugging Face's files it is read)",
  ),
  (
    r"dist_token|distillation_token|head_dist|distillation_classifier",
    "a distillation token (DeiT)",
  ),
  (r"detection_tokens|mid_position", "detection tokens (YOLOS)"),
  (r"\b[qk]_norm\b|query_norm|key_norm", "normalised queries and keys"),
  (
    r"\bmlp\.(w12|w3|fc1_[gx]|gate_proj)|weights_(in|out)\.|swiglu",
    "a gated MLP (SwiGLU)",
  ),
  (r"\brope\b|\bfreqs|rotary", "rotary positions"),
  (r"rel_pos|relative_position", "relative positions"),
  (r"\bfc_norm\b", "a norm after the pooling (timm's fc_norm)"),
  (
    r"patch_embed\.backbone|^conv_root/|^gn_root/|^block\d+/unit\d+/",
    "a hybrid's convolutions in place of patches (R+ViT)",
  ),
  (r"patch_embed\.(norm|proj\.\d|conv)", "more than a patch embedding"),
  (r"\b(attn|mlp)\.norm\.", "norms inside the branches"),
  (
    r"\bgamma_[12]$|layer_scale\d\.lambda|\.lambda_[12]$",
    "LayerScale under names that are not read (gamma_1, lambda1)",
  ),
  (r"\b[qv]_bias$", "biases of queries and values alone (BEiT, EVA)"),
  (r"blocks\.\d+\.(attns|ffns)\.", "parallel branches in a block"),
  (r"\blora_[AB]\b|lora_(down|up)", "LoRA adapters, which are not merged"),
  (r"attn_pool\.pos_embed|attn_pool\.(ls|norm1)", "another attention pooling"),
  (r"\bneck\.", "a neck after the blocks (SAM)"),
  (r"type_embedding|temporal_embed|time_embed", "embeddings of other inputs"),
)
# Names of patch embeddings, with the library of those that need no prefix.
_FAMILIES = (
  (r"visual\.trunk\.patch_embed\.proj\.weight", "open_clip's tower of timm"),
  (r"patch_embed\.proj\.weight", "timm"),
  (
    r"embeddings\.patch_embeddings\.projection\.weight",
    "Hugging Face's relatives of ViT (such as DeiT, DINOv2, BEiT, ViViT)",
  ),
  (
    r"vision_model\.embeddings\.patch_embedding\.weight",
    "Hugging Face's CLIP or SigLIP",
  ),
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
# Those of them that are read without the prefix.
_READ = ("timm", "big_vision or Scenic")
# Parts of names of arrays that only pretraining uses.
PRETRAINING = re.compile(r"(^|\.)(mask_token$|decoder\w*(\.|$))")


def check(names: Iterable[str], where: str, read: tuple[str, ...] = ()) -> None:
  """Raises ValueError for arrays of features that the models here lack.

  Args:
    names: of the arrays in the file.
    where: the file, for errors.
    read: beginnings of names that are read nevertheless.

  Raises:
    ValueError: names the features and arrays of each.
  """
  arrays_by_feature: dict[str, list[str]] = {}
  for name in names:
    if PRETRAINING.search(name) or name.startswith(read):
      continue
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
