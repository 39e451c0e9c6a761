"""What it costs to train with several numbers of learned tokens.

The real step draws a patch size, and trains FlexiViT alone, with TokenLearner,
and with numbers of its tokens that are drawn, too. Both settings are drawn
inside of one program.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import drawn_step, steps
from tokenlearner_flexivit import dials, models, tasks
from tokenlearner_flexivit.models import timing


def compare(
  variant: str,
  patch_sizes: Sequence[int],
  numbers: Sequence[int],
  *,
  image_size: int = 240,
  batch_size: int = 8,
  dtype: str = "float32",
  rounds: int = 7,
) -> list[dict[str, Any]]:
  """Times the steps by turns, of the same drawn patch sizes.

  Args:
    variant: of the model, such as "S".
    patch_sizes: to draw from.
    numbers: of learned tokens, the largest first.
    image_size: in pixels.
    batch_size: over all devices.
    dtype: of the computation.
    rounds: the median of so many counts.

  Returns:
    A row for each model: `programs`, the branches of the step; `compile_s`;
    `step_ms`, the median; and `over_flexivit`, `over_fixed`, its time over
    those of FlexiViT alone and of a fixed number.
  """
  images, labels = steps.make_batch(batch_size, image_size)
  batch = {"image": images, "label": labels}
  section = {"patch_size": {"values": patch_sizes}}
  sizes, _ = dials.from_config(section, patch_sizes[0])
  section["num_tokens"] = {"values": numbers}
  both, _ = dials.from_config(section, patch_sizes[0])
  plain = models.create(
    variant=variant, num_classes=steps.NUM_CLASSES, dtype=dtype
  )
  learner = dict(layer=plain.depth // 2, num_tokens=max(numbers))
  learning = models.create(
    variant=variant,
    num_classes=steps.NUM_CLASSES,
    dtype=dtype,
    token_learner=learner,
  )
  fixed = f"{max(numbers)} tokens"
  compared = {
    "FlexiViT alone": (plain, sizes),
    fixed: (learning, sizes),
    " or ".join(map(str, numbers)): (learning, both),
  }
  repeats = 2 * len(patch_sizes)
  programs, compile_s = {}, {}
  for name, (model, drawn_from) in compared.items():
    task = tasks.create(
      {"name": "classification"}, model=model, num_classes=steps.NUM_CLASSES
    )
    params = task.init(jax.random.key(0), images.shape[1:])
    programs[name], compile_s[name] = drawn_step.make(
      task, params, batch, drawn_from, repeats
    )
  seconds = timing.by_turns(programs, rounds)
  return [
    {
      "model": name,
      "programs": len(compared[name][1].branches),
      "compile_s": compile_s[name],
      "step_ms": 1e3 * statistics.median(times) / repeats,
      "over_flexivit": timing.ratio(times, seconds["FlexiViT alone"]),
      "over_fixed": timing.ratio(times, seconds[fixed]),
    }
    for name, times in seconds.items()
  ]


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares S on CPU, else B."""
  if quick:
    return compare("mu", (30, 20), (4, 2), image_size=60, rounds=1)
  if jax.default_backend() == "cpu":
    return compare("S", (48, 30, 24), (16, 8, 4))
  return compare(
    "B",
    (48, 30, 24, 16, 12, 8),
    (64, 32, 16, 8),
    batch_size=128,
    dtype="bfloat16",
    rounds=20,
  )
