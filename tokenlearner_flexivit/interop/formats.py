"""Whose names the arrays of a file have."""

from collections.abc import Callable

from tokenlearner_flexivit.interop import jax_names, torch_names
from tokenlearner_flexivit.interop.leaves import Leaves, shorten

FORMATS = ("big_vision", "hugging_face", "native", "scenic", "timm")
# What a file may be when it is written, the usual one first.
SUFFIXES = {
  "big_vision": (".npz",),
  "hugging_face": (".safetensors",),
  "native": (".npz", ".safetensors"),
  "scenic": (".npz", ".msgpack"),
  "timm": (".safetensors",),
}
# What a user should know beyond the table of arrays.
_TORCH_NOTES = (
  "GELU is computed with tanh here and with erf there, unless configured"
  " otherwise: logits differ by about 5e-4. Google trained with tanh.",
  "Images are in [-1, 1], which is mean=std=0.5 there. For weights that expect"
  " other statistics pass input_mean= and input_std=.",
)
TO_THEIRS: dict[str, Callable[[Leaves], Leaves]] = {
  "big_vision": jax_names.to_big_vision,
  "hugging_face": torch_names.to_hugging_face,
  "native": dict,
  "scenic": jax_names.to_scenic,
  "timm": torch_names.to_timm,
}


def detect(leaves: Leaves, where: str) -> str:
  """Returns the format that the names are of; ours count as big_vision's.

  Raises:
    ValueError: of none.
  """
  names = set(leaves)
  for name, matches in (
    ("scenic", jax_names.is_scenic),
    ("big_vision", jax_names.is_big_vision),
    ("timm", torch_names.is_timm),
    ("hugging_face", torch_names.is_hugging_face),
  ):
    if matches(names):
      return name
  raise ValueError(
    f"{where} holds no vision transformer whose names are known"
    f" (big_vision, Scenic, timm, Hugging Face). It has"
    f" {shorten(sorted(names))}."
  )


def to_ours(
  leaves: Leaves, where: str, num_heads: int
) -> tuple[str, Leaves, list[str]]:
  """Gives the arrays of a file our names and layouts.

  Args:
    leaves: of the file.
    where: the file, for errors.
    num_heads: for formats that do not tell it.

  Returns:
    the format; the arrays, of which those of unknown meaning keep their
    names; and what else there is to know.

  Raises:
    ValueError: names of no known format, or a model that ours cannot compute.
  """
  name = detect(leaves, where)
  if name in ("scenic", "big_vision"):
    params = jax_names.of_parameters(leaves)
    rest = len(leaves) - len(params)
    notes = [f"{rest} arrays that are no parameters were left out."]
    convert = {
      "scenic": jax_names.from_scenic,
      "big_vision": jax_names.from_big_vision,
    }[name]
    return name, convert(params), notes if rest else []
  convert = {
    "timm": torch_names.from_timm,
    "hugging_face": torch_names.from_hugging_face,
  }[name]
  return name, convert(leaves, num_heads), list(_TORCH_NOTES)
