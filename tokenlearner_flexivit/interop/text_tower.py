"""What the arrays of a file show of a text tower."""

import re
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import owl_vit, two_towers

EMBEDDING = f"{two_towers.TEXT}Embed_0/embedding"
_POSEMB = f"{two_towers.TEXT}pos_embedding"
_BLOCK = f"{two_towers.TEXT}Encoder_0/block_"
_HIDDEN = f"{_BLOCK}0/MlpBlock_0/Dense_0/kernel"
_QUERY = f"{_BLOCK}0/MultiHeadDotProductAttention_0/query/kernel"
_HEAD = f"{two_towers.TEXT}head/kernel"
# Of SigLIP. Weights that have a bias bring its value.
_BIAS_INIT = -10.0


def sizes_of_vocabulary(leaves: Leaves) -> dict[str, int]:
  """Returns vocab_size and max_len of a text tower, by our names."""
  return dict(
    vocab_size=leaves[EMBEDDING].shape[0], max_len=leaves[_POSEMB].shape[1]
  )


def model_name(leaves: Leaves) -> str:
  """Returns the name, for `models.create`, of a model with a text tower."""
  is_owl = any(name.startswith(owl_vit.HEADS) for name in leaves)
  return "owl_vit" if is_owl else "two_towers"


def bias_init(leaves: Leaves) -> float | None:
  """Returns an initial value of the bias if there is one."""
  return _BIAS_INIT if "b" in leaves else None


def arguments(
  leaves: Leaves,
  told: Mapping[str, Any] | None,
  guesses: list[str],
  where: str,
) -> dict[str, Any]:
  """Returns the arguments of a `TwoTowers` or `OwlViT` beside those of `ViT`.

  Those of the heads of an `OwlViT` are left to a config.

  Args:
    leaves: by our names, with a text tower.
    told: those of `TextTransformer` that a config tells; None without one.
    guesses: to which what is guessed is added, in words.
    where: the file, for errors.

  Raises:
    ValueError: arrays are missing.
  """
  for name in (_POSEMB, _HIDDEN, _QUERY):
    if name not in leaves:
      raise ValueError(f"{where} has a text tower without {name!r}.")
  text = sizes_of_vocabulary(leaves)
  blocks = {m[1] for n in leaves if (m := re.match(_BLOCK + r"(\d+)/", n))}
  text |= dict(
    width=leaves[EMBEDDING].shape[1],
    depth=len(blocks),
    mlp_dim=leaves[_HIDDEN].shape[1],
    num_heads=leaves[_QUERY].shape[1],
    embed_dim=leaves[_HEAD].shape[1] if _HEAD in leaves else None,
  )
  if told is not None:
    text |= told
  elif f"{two_towers.TEXT}MAPHead_0/probe" in leaves:
    text["pool"] = "map"
  else:
    text["pool"] = "last"
    guesses.append(
      "text.pool='last': big_vision's text towers may also take the first"
      " token, the mean or the maximum, which no array shows"
    )
  name = model_name(leaves)
  if name == "owl_vit":
    return dict(name=name, text=text)
  return dict(name=name, text=text, bias_init=bias_init(leaves))
