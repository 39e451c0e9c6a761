"""Peak memory of a training step: donation, remat, scan, TokenLearner.

Twice: as XLA's analysis of the compiled program counts it, and measured while
steps run, in a new process for each option, since a peak never falls. On
accelerators the allocator tells it; on Linux the resident memory of the
process does, less what was there before the arrays.

And for ViViT-L/16 at the input size of the TokenLearner paper, as it is
analysed alone: no step is run, nor an array made.
"""

import json
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import processes, steps
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.parallel import compiled

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def _process_bytes(name: str) -> int:
  """Returns VmRSS, the resident memory, or VmHWM, its highest so far."""
  return 1024 * int(
    re.search(rf"{name}:\s+(\d+)", _STATUS.read_text(encoding="utf-8"))[1]
  )


def analyse_video(
  variant: str, video_shape: tuple[int, ...], **arguments: Any
) -> int:
  """Returns the peak memory in bytes of a training step, as XLA analyses it.

  Momentum is the optimizer's one moment, as in ViViT's recipe.

  Args:
    variant: of a `models.ViViT`.
    video_shape: [B, T, H, W, C], of one device.
    **arguments: of the model.
  """
  model = models.ViViT.from_variant(variant, num_classes=400, **arguments)
  optimizer = optax.sgd(0.1, momentum=0.9)

  def init():
    params = model.init(jax.random.key(0), jnp.zeros(video_shape))["params"]
    params = stacking.stack(params, model.scanned_runs)  # As in a training.
    return params, optimizer.init(params)

  _, step = steps.make_jitted(
    lambda params, videos: model.apply({"params": params}, videos)[0], optimizer
  )
  videos = jax.ShapeDtypeStruct(video_shape, jnp.float32)
  labels = jax.ShapeDtypeStruct(video_shape[:1], jnp.int32)
  return compiled.memory_bytes(
    step.lower(jax.eval_shape(init), videos, labels).compile()
  )


def measure(
  variant: str,
  patch_size: int,
  *,
  image_size: int,
  batch_size: int,
  dtype: str,
  donate: bool,
  arguments: dict[str, Any],
) -> dict[str, float | None]:
  """Returns the peak memory in bytes of a training step, in this process.

  Args:
    variant: of the model.
    patch_size: in pixels.
    image_size: in pixels.
    batch_size: per device.
    dtype: of the computation.
    donate: whether the state's buffers are reused.
    arguments: of the model, such as `remat`.

  Returns:
    `analysed`: arguments, results that no argument is reused for, and all that
    lives in between; `measured`, or None where nothing tells it.
  """
  model = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, dtype=dtype, **arguments
  )
  images = jax.ShapeDtypeStruct(
    (batch_size, image_size, image_size, 3), jnp.float32
  )
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)

  def init():
    params = model.init(jax.random.key(0), jnp.zeros(images.shape))
    return params, steps.OPTIMIZER.init(params)

  def apply(params, images):
    return model.apply(params, images, patch_size=patch_size)[0]

  _, step = steps.make_jitted(apply, steps.OPTIMIZER, donate=donate)
  step = step.lower(jax.eval_shape(init), images, labels).compile()
  analysed = compiled.memory_bytes(step)
  init = jax.jit(init).lower().compile()
  on_cpu = jax.default_backend() == "cpu"
  if on_cpu and not os.access(_CLEAR, os.W_OK):
    return {"analysed": analysed, "measured": None}
  before = _process_bytes("VmRSS") if on_cpu else 0
  state = jax.block_until_ready(init())
  images, labels = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), (images, labels)
  )
  if on_cpu:
    _CLEAR.write_text("5", encoding="utf-8")  # The highest so far is forgotten.
  for _ in range(3):
    state = jax.block_until_ready(step(state, images, labels))
  if on_cpu:
    measured = _process_bytes("VmHWM") - before
  else:
    stats = jax.local_devices()[0].memory_stats() or {}
    measured = stats.get("peak_bytes_in_use")
  return {"analysed": analysed, "measured": measured}


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares the options of one model, and each with the plain step."""
  settings = dict(
    variant="S", patch_size=16, image_size=240, batch_size=8, dtype="float32"
  )
  if jax.default_backend() != "cpu":
    settings |= dict(variant="B", batch_size=256, dtype="bfloat16")
  if quick:
    settings |= dict(variant="mu", patch_size=30, batch_size=2)
  depth = models.ViT.from_variant(settings["variant"]).depth
  learner = dict(layer=depth // 2, num_tokens=8)
  options = {
    "plain": {},
    "not donated": dict(donate=False),
    "remat": dict(remat=True),
    "scan": dict(scan=True),
    "scan, remat": dict(scan=True, remat=True),
    "8 learned tokens": dict(token_learner=learner),
  }
  if quick:
    options = {name: options[name] for name in ("plain", "scan, remat")}
  rows = []
  for name, option in options.items():
    donate = option.pop("donate", True)
    arguments = json.dumps({**settings, "donate": donate, "arguments": option})
    peak = processes.result_of(["-m", "benchmarks.memory", arguments])
    row = {"step": name}
    for kind, value in peak.items():
      row[f"{kind}_gib"] = value and value / 2**30
      plain = rows[0][f"{kind}_gib"] if rows else row[f"{kind}_gib"]
      row[f"{kind}_over_plain"] = value and row[f"{kind}_gib"] / plain
    rows.append(row)
  return rows if quick else rows + video_rows()


def video_rows() -> list[dict[str, Any]]:
  """Compares ViViT-L/16 with 16 tokens after half of its blocks and with all.

  A clip per device, of 32 frames of 224 pixels, in tubelets of two frames.
  """
  rows = []
  for name, option in (
    ("plain", {}),
    ("scan", dict(scan=True)),
    ("scan, remat", dict(scan=True, remat=True)),
  ):
    plain = None
    for tokens, learner in (
      ("all tokens", None),
      ("16 tokens", dict(layer=12, num_tokens=16)),
    ):
      analysed = analyse_video(
        "L/16x2", (1, 32, 224, 224, 3), token_learner=learner, **option
      )
      plain = plain or analysed
      rows.append(
        {
          "step": f"video L/16x2, {name}, {tokens}",
          "analysed_gib": analysed / 2**30,
          "analysed_over_plain": analysed / plain,
          "measured_gib": None,
          "measured_over_plain": None,
        }
      )
  return rows


if __name__ == "__main__":
  processes.answer_once(measure)
