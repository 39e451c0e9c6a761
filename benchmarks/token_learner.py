"""What TokenLearner saves, measured, against what its multiply-adds promise."""

import statistics
from typing import Any

import jax

from benchmarks import steps
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost, timing


def compare(
  variant: str,
  patch_size: int,
  num_tokens: int,
  *,
  image_size: int = 240,
  batch_size: int = 8,
  dtype: str = "float32",
  rounds: int = 5,
) -> dict[str, Any]:
  """Times a model with and without TokenLearner at half of its depth.

  Returns:
    Medians in milliseconds; `promised`, the multiply-adds without over those
    with TokenLearner; per pass the measured speed-up and its share of that.
  """
  shape = (image_size, image_size, 3)
  images, labels = steps.make_batch(batch_size, image_size)
  plain = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, dtype=dtype
  )
  learner = plain.clone(
    token_learner=dict(layer=plain.depth // 2, num_tokens=num_tokens)
  )
  programs, gmacs = {}, {}
  for name, model in (("plain", plain), ("learned", learner)):
    made = steps.programs_of(model, images, labels, patch_size)
    programs |= {(name, what): run for what, run in made.items()}
    gmacs[name] = cost.macs(model, shape, patch_size) / 1e9
  seconds = timing.by_turns(programs, rounds)
  promised = gmacs["plain"] / gmacs["learned"]
  row = {
    "variant": variant,
    "patch_size": patch_size,
    "num_tokens": num_tokens,
    "promised": promised,
  }
  for what in ("forward", "train"):
    times = {name: seconds[name, what] for name in gmacs}
    speedup = timing.ratio(times["plain"], times["learned"])
    row |= {
      f"{what}_plain_ms": 1e3 * statistics.median(times["plain"]),
      f"{what}_ms": 1e3 * statistics.median(times["learned"]),
      f"{what}_speedup": speedup,
      f"{what}_kept": speedup / promised,
    }
  return row


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares 8 tokens at mid-depth with all of them."""
  if quick:
    return [compare("mu", 30, 2, image_size=60, batch_size=2, rounds=1)]
  if jax.default_backend() == "cpu":
    return [compare("S", p, 8) for p in (30, 16)]
  return [
    compare("B", p, 8, batch_size=256, dtype="bfloat16", rounds=20)
    for p in (30, 16, 8)
  ]
