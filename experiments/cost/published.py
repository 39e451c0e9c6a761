"""Models whose cost somebody published, and more of their families."""

import dataclasses
from typing import Any

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import variants

PATCH_SIZES = variants.FLEXIVIT_PATCH_SIZES

TIMM = "timm, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv"
MODEL_CARD = "model card of FlexiViT-B i21k"
# Figures of the papers themselves were read in notes of third parties.
TABLE_1, TABLE_2, TABLE_3 = (
  f"TokenLearner, Table {i}, as reported by others" for i in (1, 2, 3)
)
VIDEO = "TokenLearner, results on Kinetics-400, as reported by others"
FLEXIVIT = "FlexiViT, as reported by others: {} GFLOPs, two per multiply-add"


@dataclasses.dataclass(frozen=True)
class Setting:
  """A model at an image size, with its published cost.

  Attributes:
    table: "variants", "flexivit", "papers", "params" or "videos".
    name: of the model.
    model: the model.
    image_size: in pixels, of a frame if it is a video.
    patch_size: in pixels; None for that of the model.
    params_m: published parameters in 10^6, or None.
    gmacs: published multiply-adds in 10^9, or None.
    source: of these, or None.
    num_frames: of a video; None for an image.
  """

  table: str
  name: str
  model: models.ViT | models.ViViT
  image_size: int
  patch_size: int | None = None
  params_m: float | None = None
  gmacs: float | None = None
  source: str | None = None
  num_frames: int | None = None

  @property
  def size(self) -> tuple[int, ...]:
    """Returns (H, W), or for a video (T, H, W)."""
    frames = () if self.num_frames is None else (self.num_frames,)
    return (*frames, self.image_size, self.image_size)

  @property
  def call(self) -> tuple[tuple[int, ...], int | None]:
    """Returns image shape and patch size, as `models.cost` takes them."""
    return (*self.size, 3), self.patch_size


def _vit(variant: str, **kwargs: Any) -> models.ViT:
  return models.ViT.from_variant(variant, **(dict(num_classes=1000) | kwargs))


def _learner(layer: int, num_tokens: int) -> dict[str, Any]:
  # The published code calls version 1.0 that of the paper's experiments.
  return dict(layer=layer, num_tokens=num_tokens, version="1.0")


def _variants() -> list[Setting]:
  """Returns each variant at its usual patch sizes, with cls as in timm."""
  settings = []
  for name, size, params_m, gmacs in (
    ("Ti/16", 224, 5.72, 1.26),
    ("S/32", 224, 22.88, 1.15),
    ("S/16", 224, 22.05, 4.61),
    ("M/32", 224, None, None),
    ("M/16", 224, None, None),
    ("B/32", 224, 88.22, 4.41),
    ("B/16", 224, 86.57, 17.58),
    ("B/8", 224, 86.58, 78.22),
    ("B/16", 384, 86.86, 55.54),
    ("L/16", 224, 304.33, 61.60),
    ("L/14", 224, 304.20, 81.08),
    ("H/14", 224, 630.76, 167.40),
    ("g/14", 224, 1012.61, 267.18),
    ("G/14", 224, 1844.44, 483.95),
  ):
    grid = size // int(name.partition("/")[2])
    num_classes = None if name == "H/14" else 1000  # timm's has no head.
    model = _vit(name, pool="tok", posemb_grid=grid, num_classes=num_classes)
    source = TIMM if gmacs else None
    settings.append(
      Setting("variants", name, model, size, None, params_m, gmacs, source)
    )
  return settings


def _flexivit() -> list[Setting]:
  settings = []
  for variant, gmacs in (("S", 5.35), ("B", 20.29), ("L", 70.99)):
    model = _vit(variant, pool="tok")
    for patch_size in PATCH_SIZES:
      known = dict(gmacs=gmacs, source=TIMM) if patch_size == 16 else {}
      settings.append(
        Setting("flexivit", variant, model, 240, patch_size, **known)
      )
  return settings


def _papers() -> list[Setting]:
  """Returns the papers' GFLOPS, in 10^9 multiply-adds as TokenLearner counts.

  "(21 layers)" is TokenLearner after 10 blocks and 11 blocks behind it.
  """
  settings = []
  for name, size, gmacs, source, kwargs in (
    ("B/16", 384, 55.6, TABLE_1, {}),
    ("B/16", 384, 28.7, TABLE_1, dict(token_learner=_learner(6, 8))),
    ("B/16", 384, 47.1, TABLE_1, dict(depth=21, token_learner=_learner(10, 8))),
    (
      "B/16",
      384,
      47.7,
      TABLE_1,
      dict(depth=21, token_learner=_learner(10, 16)),
    ),
    ("L/16", 512, 363.1, TABLE_2, {}),
    ("L/16", 512, 178.1, TABLE_2, dict(token_learner=_learner(12, 16))),
    ("B/8", 224, 78.0, FLEXIVIT.format(156), {}),
    ("B/32", 224, 4.3, FLEXIVIT.format(8.6), {}),
  ):
    model = _vit(name, **kwargs)
    learner = model.token_learner
    if learner is not None:
      where = f"{learner['layer']} of {model.depth}"
      name += f", {learner['num_tokens']} tokens after {where} blocks"
    settings.append(
      Setting("papers", name, model, size, gmacs=gmacs, source=source)
    )
  return settings


def _params() -> list[Setting]:
  # As timm stores FlexiViT: for one patch size and a 15x15 grid.
  flexi = dict(pool="tok", posemb_grid=15)
  # 11 blocks appended to L's 24. Where the tokens are learned is not known,
  # and nothing to the parameters.
  longer = dict(depth=35, token_learner=_learner(18, 16))
  return [
    Setting("params", name, model, size, params_m=params_m, source=source)
    for name, model, size, params_m, source in (
      ("FlexiViT-S", _vit("S/16", **flexi), 240, 22.06, TIMM),
      ("FlexiViT-B", _vit("B/16", **flexi), 240, 86.59, TIMM),
      ("FlexiViT-L", _vit("L/16", **flexi), 240, 304.36, TIMM),
      (
        "FlexiViT-B, 21,843 classes",
        _vit("B/16", num_classes=21843, **flexi),
        240,
        102.6,
        MODEL_CARD,
      ),
      ("G/14", _vit("G/14"), 224, 1843, TABLE_3),
      ("G/14, no head", _vit("G/14", num_classes=None), 224, 1843, TABLE_3),
      (
        "L/8 (24+11), grid of 512 px",
        _vit("L/8", posemb_grid=64, **longer),
        512,
        460,
        TABLE_3,
      ),
      (
        "L/8 (24+11), 18,291 classes",  # Those of JFT-300M.
        _vit("L/8", num_classes=18291, **longer),
        224,
        460,
        TABLE_3,
      ),
    )
  ]


def _videos() -> list[Setting]:
  """Returns clips: joint attention, TokenLearner, factorised encoders.

  Of 32 frames: those that configs/vivit.py trains, and ViViT's encoders of as
  many layers in time as in space.
  """
  settings = []
  for name, size, gmacs, kwargs in (
    ("L/16x2", 224, 1446, {}),
    ("L/16x2", 224, 766, dict(token_learner=_learner(12, 16))),
    ("L/16x2", 224, None, dict(token_learner=_learner(18, 8))),
    ("L/16x2", 224, None, dict(token_learner=_learner(18, 16))),
    ("L/14x2", 224, None, {}),
    ("L/14x2", 224, None, dict(token_learner=_learner(18, 16))),
    ("L/10x2", 220, None, {}),
    ("L/10x2", 220, None, dict(depth=35, token_learner=_learner(18, 16))),
    ("B/16x2", 224, None, {}),
    ("B/16x2", 224, None, dict(temporal_depth=12)),
    ("L/16x2", 224, None, dict(temporal_depth=24)),
    (
      "L/16x2",
      224,
      None,
      dict(temporal_depth=24, token_learner=_learner(12, 16)),
    ),
  ):
    kind = "vivit_factorised" if "temporal_depth" in kwargs else "vivit"
    model = models.create(kind, name, num_classes=400, **kwargs)
    if kind == "vivit_factorised":
      name += f", factorised {model.depth} + {model.temporal_depth}"
    learner = model.token_learner
    if learner is not None:
      where = f"{learner['layer']} of {model.depth}"
      name += f", {learner['num_tokens']} tokens after {where} blocks"
    settings.append(
      Setting(
        "videos",
        name,
        model,
        size,
        gmacs=gmacs,
        source=VIDEO if gmacs else None,
        num_frames=32,
      )
    )
  return settings


def settings() -> list[Setting]:
  """Returns all rows of all tables."""
  return _variants() + _flexivit() + _papers() + _params() + _videos()
