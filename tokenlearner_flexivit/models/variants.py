"""The standard sizes of vision transformers, by name."""

from typing import Any

# width, depth, mlp_dim, num_heads. Ti to H: Touvron et al. (DeiT) and
# Dosovitskiy et al. (ViT); g and G: Zhai et al., Scaling Vision Transformers,
# Table 2; So400m: Alabdulmohsin et al., Getting ViT in Shape; mu is a toy for
# tests.
_SIZES = {
  "mu": (32, 1, 128, 2),
  "Ti": (192, 12, 768, 3),
  "S": (384, 12, 1536, 6),
  "M": (512, 12, 2048, 8),
  "B": (768, 12, 3072, 12),
  "L": (1024, 24, 4096, 16),
  "H": (1280, 32, 5120, 16),
  "g": (1408, 40, 6144, 16),
  "G": (1664, 48, 8192, 16),
  "So400m": (1152, 27, 4304, 16),
}

VARIANTS = tuple(_SIZES)
# FlexiViT's patch sizes, for images of 240 pixels: 5x5 to 30x30 tokens.
FLEXIVIT_PATCH_SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
# The frames of a clip and of a tubelet are those of ViViT, Section 4.1.
_CLIP_FRAMES = 32
_TUBELET_FRAMES = 2


def decode_variant(variant: str) -> dict[str, Any]:
  """Turns a name such as "B/16" into constructor arguments of `ViT`.

  Args:
    variant: a size ("B") or a size and a patch size ("B/16"). With a patch
      size the stored buffers are those of a plain ViT at 224 pixels: a 16x16
      kernel and a 14x14 position embedding for "B/16". Without one they are
      FlexiViT's (Section 3.2): a 32x32 kernel and a 7x7 position embedding.

  Returns:
    dict with width, depth, mlp_dim, num_heads, patch_size and posemb_grid.

  Raises:
    ValueError: for an unknown size, or a patch size that is not a number.
  """
  size, slash, patch = str(variant).partition("/")
  if size not in _SIZES or (slash and not (patch.isdecimal() and int(patch))):
    raise ValueError(
      f"Unknown variant {variant!r}. Known: {', '.join(VARIANTS)}, each alone"
      ' or with a patch size, as in "B/16".'
    )
  width, depth, mlp_dim, num_heads = _SIZES[size]
  patch_size = int(patch) if slash else 32
  return dict(
    width=width,
    depth=depth,
    mlp_dim=mlp_dim,
    num_heads=num_heads,
    patch_size=(patch_size, patch_size),
    posemb_grid=(max(1, 224 // patch_size),) * 2,
  )


def decode_text_variant(variant: str) -> dict[str, Any]:
  """Turns a name such as "B" into constructor arguments of a text tower.

  Returns:
    dict with width, depth, mlp_dim and num_heads, those of the image tower of
    this name.

  Raises:
    ValueError: for an unknown size.
  """
  if variant not in _SIZES:
    raise ValueError(
      f"Unknown variant {variant!r} of a text tower. Known:"
      f" {', '.join(VARIANTS)}."
    )
  names = ("width", "depth", "mlp_dim", "num_heads")
  return dict(zip(names, _SIZES[variant], strict=True))


def decode_video_variant(variant: str) -> dict[str, Any]:
  """Turns a name such as "B/16x2" into constructor arguments of `ViViT`.

  Args:
    variant: a name for `decode_variant`, and after an "x" the frames of a
      tubelet, 2 by default. The position embedding is for 32 frames.

  Returns:
    the dict of `decode_variant`, with frames in front of the sizes.

  Raises:
    ValueError: for an unknown size, or frames that are not a number.
  """
  name, x, frames = str(variant).partition("x")
  if x and not (frames.isdecimal() and int(frames)):
    raise ValueError(
      f"Unknown variant {variant!r}: after the x are the frames of a tubelet,"
      ' as in "B/16x2".'
    )
  num_frames = int(frames) if x else _TUBELET_FRAMES
  arguments = decode_variant(name)
  grid = (max(1, _CLIP_FRAMES // num_frames), *arguments["posemb_grid"])
  patch_size = (num_frames, *arguments["patch_size"])
  return arguments | dict(patch_size=patch_size, posemb_grid=grid)
