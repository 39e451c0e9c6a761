"""Locations of published weights, by name.

The names are big_vision's (its models/vit.py and models/proj/flexi/vit.py) and
those of FlexiViT's README. Files of timm and Hugging Face need no name:
"hf://timm/flexivit_base.1200ep_in1k", "hf://google/vit-base-patch16-224".
"""

import re
from typing import Any

_FLEXIVIT = "gs://big_vision/flexivit/"
_AUGREG = "gs://vit_models/augreg/"

# "How to train your ViT" (arXiv 2106.10270): the model that big_vision
# recommends of each size.
_AUGREG_I21K = {
  "Ti/16": "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0",
  "S/32": "S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0",
  "S/16": "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0",
  "B/32": "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0",
  "B/16": "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0",
  "B/8": "B_8-i21k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0",
  "L/16": "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0",
}
_DEIT3 = {"S": "small", "B": "base", "L": "large"}


def _locations() -> dict[str, str]:
  known = {
    f"FlexiViT-B i21k {epochs}ep": f"{_FLEXIVIT}flexivit_b_i21k_{epochs}ep.npz"
    for epochs in (90, 300, 1000)
  }
  for size in "SBL":
    name = f"FlexiViT-{size} i1k"
    file = f"{_FLEXIVIT}flexivit_{size.lower()}_i1k"
    known[name] = f"{file}.npz"  # Trained for 1200 epochs.
    for epochs in (90, 300, 600):
      known[f"{name} {epochs}ep"] = f"{file}_{epochs}ep.npz"
    for resolution in (224, 384):
      for data in ("1k", "21k"):
        known[f"deit3_{size}_{resolution}_{data}"] = (
          "gs://big_vision/zoo/deit3/bv_deit_3_"
          f"{_DEIT3[size]}_{resolution}_{data}.npz"
        )
  for patch in (16, 30):
    known[f"ViT-B/{patch} i21k"] = f"{_FLEXIVIT}vit_b{patch}_i21k_300ep.npz"
  for variant, file in _AUGREG_I21K.items():
    known[f"howto-i21k-{variant}"] = f"{_AUGREG}{file}.npz"
    known[f"ViT-{variant} augreg i21k"] = f"{_AUGREG}{file}.npz"
  for epochs in (90, 150, 300):
    known[f"i1k-s16-{epochs}ep"] = f"gs://big_vision/vit_s16_i1k_{epochs}ep.npz"
  return known


RELEASED = dict(sorted(_locations().items()))

# Beginnings of names, and what follows about the model. FlexiViT's plain ViTs
# have its buffers, whatever their patch size is.
_MODELS = (
  (r"FlexiViT-(?P<size>.)", "{size}"),
  (r"ViT-(?P<size>.)/\d+ i21k", "{size}"),
  (r"howto-i21k-(?P<variant>\S+)", "{variant}"),
  (r"ViT-(?P<variant>\S+) augreg", "{variant}"),
  (r"deit3_(?P<size>.)_", "{size}/16"),
)


def model(name: str) -> dict[str, Any] | None:
  """Returns arguments of `models.create` for released weights, by their name.

  They suffice to count what the model costs, without the weights. The number of
  classes is left out, and so is the resolution of the position embedding, which
  is that of 224 pixels for names with a patch size.

  Args:
    name: one of `RELEASED`.

  Returns:
    The arguments; None if it is no released name.
  """
  if name not in RELEASED:
    return None
  for pattern, variant in _MODELS:
    if match := re.match(pattern, name):
      variant = variant.format(**match.groupdict())
      return {"variant": variant, "pool": "tok"}
  # The improved baseline (arXiv 2205.01580), with a head of two layers.
  return {
    "variant": "S/16",
    "pool": "gap",
    "posemb": "sincos2d",
    "rep_size": True,
  }
