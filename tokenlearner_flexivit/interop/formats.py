"""Identifies which library named the arrays of a weight file."""

from collections.abc import Callable

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.interop import (
  foreign,
  hugging_face_export,
  hugging_face_names,
  jax_names,
  owl_names,
  timm_names,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves, shorten

FORMATS = ("big_vision", "hugging_face", "native", "scenic", "timm")
# Kinds of file that each format is written as, the usual one first.
SUFFIXES = {
  "big_vision": (".npz",),
  "hugging_face": (".safetensors",),
  "native": (".npz", ".safetensors"),
  "scenic": (".npz", ".msgpack"),
  "timm": (".safetensors",),
}
# Hugging Face's CLIP and SigLIP, DINOv2, and OWL-ViTs.
TOWERS = "hugging_face_towers"
DINOV2 = "hugging_face_dinov2"
OWL = "hugging_face_owl_vit"
SCENIC_OWL = "scenic_owl_vit"
# Formats that a library reads from a folder with a config.json and this file.
LIBRARIES = ("hugging_face", "timm")
LIBRARY_FILE = "model.safetensors"
# Formats of PyTorch's libraries, which do not store the number of heads.
TORCH = ("hugging_face", DINOV2, TOWERS, OWL, "timm")
# Formats of models whose projections may have no biases.
WITHOUT_BIASES = (*TORCH, SCENIC_OWL)
TO_THEIRS: dict[str, Callable[[Leaves], Leaves]] = {
  "big_vision": jax_names.to_big_vision,
  "hugging_face": hugging_face_export.to_theirs,
  "native": dict,
  "scenic": jax_names.to_scenic,
  "timm": timm_names.to_theirs,
}


def detect(leaves: Leaves, where: str) -> str:
  """Returns the format of the names; ours count as big_vision's.

  Raises:
    ValueError: the names are of no known format.
  """
  names = set(leaves)
  for name, matches in (
    ("scenic", jax_names.is_scenic),
    ("big_vision", jax_names.is_big_vision),
    (SCENIC_OWL, owl_names.is_scenic),
    (OWL, owl_names.is_hugging_face),
    ("timm", timm_names.is_timm),
    (DINOV2, hugging_face_names.is_dinov2),
    ("hugging_face", hugging_face_names.is_vit),
    (TOWERS, tower_names.is_towers),
  ):
    if matches(names):
      return name
  raise ValueError(
    f"{where} holds no vision transformer whose names are known"
    " (big_vision, Scenic, timm, Hugging Face's ViT, DeiT, MAE, MSN, I-JEPA,"
    " DINOv2, ViViT, CLIP, SigLIP and OWL-ViT)."
    f"{foreign.family(names)} It has {shorten(sorted(names)) or 'no arrays'}."
  )


def to_ours(
  leaves: Leaves,
  format: str,
  where: str,
  num_heads: int,
  text_heads: int = 1,
) -> tuple[Leaves, list[str]]:
  """Converts the arrays of a file to our names and layouts.

  Args:
    leaves: of the file.
    format: of the names.
    where: the file, for errors.
    num_heads: for formats that do not store it.
    text_heads: the same of a text tower.

  Returns:
    the arrays, of which those of unknown meaning keep their names, and notes
    for the user.

  Raises:
    ValueError: a model that ours cannot compute; names the feature.
  """
  if format == "native":
    return jax_names.from_big_vision(leaves), []
  if format in ("scenic", "big_vision"):
    params = jax_names.only_parameters(leaves)
    foreign.check(params, where)
    convert = {
      "scenic": jax_names.from_scenic,
      "big_vision": jax_names.from_big_vision,
    }[format]
    return convert(params), _left_out(leaves, params)
  if format == SCENIC_OWL:
    params = owl_names.scenic_parameters(leaves)
    foreign.check(params, where)
    ours, notes = owl_names.from_scenic(params)
    return ours, [*_left_out(leaves, params), *notes]
  if format == OWL:
    foreign.check(leaves, where)
    return owl_names.from_hugging_face(leaves, where, num_heads, text_heads)
  if format == TOWERS:
    foreign.check(leaves, where)
    return tower_names.to_ours(leaves, where, num_heads, text_heads), []
  foreign.check(leaves, where)
  names = timm_names if format == "timm" else hugging_face_names
  return names.to_ours(leaves, where, num_heads), []


def _left_out(leaves: Leaves, params: Leaves) -> list[str]:
  """Returns a note if a file holds more than parameters."""
  rest = len(leaves) - len(params)
  note = f"Left out, as no parameters: {terminal.counted(rest, 'array')}."
  return [note] if rest else []


def their_name(format: str, ours: str) -> str:
  """Returns the name that an array of ours has in files of a format."""
  if format == TOWERS:
    return tower_names.their_name(ours)
  if format == OWL:
    return owl_names.their_name(ours)
  if format in ("big_vision", "scenic"):
    return jax_names.their_name(ours)
  if format == "timm":
    return timm_names.their_name(ours)
  if format in ("hugging_face", DINOV2):
    return hugging_face_names.their_name(ours, dinov2=format == DINOV2)
  return ours
