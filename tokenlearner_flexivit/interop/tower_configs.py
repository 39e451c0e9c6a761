"""Reads the config.json beside Hugging Face's CLIP, SigLIP or OWL-ViT."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit.interop import (
  config_files,
  owl_names,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves

# Kinds of models by the family that they are of.
_FAMILIES = {
  "clip": "clip",
  "clip_vision_model": "clip",
  "owlvit": "owlvit",
  "owlvit_vision_model": "owlvit",
  "owlv2": "owlv2",
  "owlv2_vision_model": "owlv2",
  "siglip": "siglip",
  "siglip_vision_model": "siglip",
}
# What transformers takes where a config leaves a key out.
_CLIP = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5)
_SIGLIP = dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
_OWL = _CLIP | dict(hidden_size=768, num_attention_heads=12, image_size=768)
_OWL_TEXT = _CLIP | dict(hidden_size=512, num_attention_heads=8)
_DEFAULTS = {
  ("clip", "vision"): _CLIP
  | dict(
    hidden_size=768, num_attention_heads=12, image_size=224, patch_size=32
  ),
  ("clip", "text"): _CLIP
  | dict(hidden_size=512, num_attention_heads=8, eos_token_id=49407),
  ("owlvit", "vision"): _OWL | dict(patch_size=32),
  ("owlvit", "text"): _OWL_TEXT,
  ("owlv2", "vision"): _OWL | dict(patch_size=16),
  ("owlv2", "text"): _OWL_TEXT,
  ("siglip", "vision"): _SIGLIP
  | dict(
    hidden_size=768, num_attention_heads=12, image_size=224, patch_size=16
  ),
  ("siglip", "text"): _SIGLIP | dict(hidden_size=768, num_attention_heads=12),
}
# The end token of configs from before transformers counted it right: there, as
# in OpenAI's code, the largest number is looked for.
_NO_END = 2


def read(path: pathlib.Path, leaves: Leaves) -> dict[str, Any]:
  """Returns the fields of `about.About` from the configs beside a file.

  Args:
    path: of the weights.
    leaves: the arrays, by their names in the file.

  Raises:
    ValueError: there is no config, it is damaged or of another model, or of one
      that the models here cannot compute; names the feature.
  """
  config = config_files.read(path)
  if not config:
    raise ValueError(
      f"{path} has the names of Hugging Face's CLIP, SigLIP or OWL-ViT, whose"
      " arrays do not show heads, activation and pooling. Put its config.json"
      " beside it."
    )
  where = str(path.parent / "config.json")
  leaves = owl_names.as_clip(leaves)
  kind = config.get("model_type")
  if kind not in _FAMILIES:
    raise config_files.unsupported_kind(where, kind)
  family = _FAMILIES[kind]
  image = _section(config, family, "vision")
  kernel, positions = (
    leaves[name].shape if name in leaves else ()
    for name in (tower_names.KERNEL, tower_names.POSEMB)
  )
  config_files.check_width(image["hidden_size"], kernel[0], where)
  entries = int(tower_names.CLS in leaves)
  grid, _ = config_files.grid(
    image["image_size"],
    kernel[2:],
    positions,
    (entries,),
  )
  text = None
  if tower_names.TOKENS in leaves:
    text = _text(_section(config, family, "text"), family, leaves, where)
  images = config_files.images_of_hugging_face(path)
  computes = _activations(image, where)
  if owl_names.has_heads(leaves):
    # Those of transformers' code.
    computes |= dict(size_bias="each", box_gelu="erf")
    computes["merge_eps"] = computes["norm_eps"]
  return dict(
    where=where,
    num_heads=image["num_attention_heads"],
    posemb_grid=grid,
    prefix_entries=entries,
    images=images,
    untold_images=config_files.untold_images(
      images.mean, "preprocessor_config.json"
    ),
    computes=computes,
    text=text,
  )


def _section(
  config: Mapping[str, Any], family: str, tower: str
) -> dict[str, Any]:
  """Returns the values of a tower, those that the config leaves out included.

  A config of one tower is not nested. Of a nested one `..._config_dict`, where
  old configs have it, beats the other.
  """
  nested = f"{tower}_config"
  told = config.get(f"{nested}_dict") or config.get(nested)
  if told is None:
    told = {} if config["model_type"] == family else config
  return _DEFAULTS[family, tower] | dict(told)


def _activations(section: Mapping[str, Any], where: str) -> dict[str, Any]:
  gelu = config_files.gelu(section["hidden_act"], "hidden_act", where)
  return dict(gelu=gelu, norm_eps=section["layer_norm_eps"])


def _text(
  section: Mapping[str, Any], family: str, leaves: Leaves, where: str
) -> dict[str, Any]:
  """Returns the arguments of a text tower that no array shows."""
  width = leaves[tower_names.TOKENS].shape[-1]
  config_files.check_width(section["hidden_size"], width, where)
  told = _activations(section, where)
  told["num_heads"] = section["num_attention_heads"]
  if family == "siglip":
    return told | dict(pool="last")
  # OWL-ViT looks for the largest number, whatever its config says.
  end_id = section["eos_token_id"] if family == "clip" else _NO_END
  end_id = None if end_id == _NO_END else end_id
  return told | dict(pool="eot", end_id=end_id, causal=True)
