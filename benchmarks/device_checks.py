"""Measures on a GPU or TPU, in ten minutes, what `accelerators` only compiles.

  python -m benchmarks.device_checks --page=docs/accelerators.md

Training steps of S and B at ten patch sizes against the stock ViT's, by turns,
and their share of a measured peak; attention fused and not; a drawn patch size
by both dispatches; and whether the input pipeline keeps up. Rows are printed as
they come, those that fit into `--minutes`; `--page` appends them as tables.
"""

import argparse
import json
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax

from benchmarks import __main__ as page
from benchmarks import dispatch, input_pipeline, steps
from configs import quickstart
from tokenlearner_flexivit import models
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.models import attention, timing

# Per chip. Sizes that say something of all of them come first.
BATCH_SIZES = {"S": 256, "B": 128}
PATCH_SIZES = (16, 8, 30, 48, 10, 12, 15, 20, 24, 40)


def measure_steps(
  variant: str, patch_size: int, **sizes: Any
) -> dict[str, Any]:
  """Returns the row of `steps.compare` in bfloat16, without its limits."""
  row = steps.compare(variant, patch_size, dtype="bfloat16", **sizes)
  return {key: value for key, value in row.items() if "limit" not in key}


def measure_fused(
  variant: str,
  patch_size: int,
  *,
  image_size: int,
  batch_size: int,
  rounds: int,
) -> dict[str, Any]:
  """Returns how many times as fast a fused kernel makes a training step."""
  images, labels = steps.make_batch(batch_size, image_size)
  model = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, dtype="bfloat16"
  )

  def compile_step():
    attention.dot_product_attention.clear_cache()
    program = steps.programs_of(model, images, labels, patch_size)["train"]
    jax.block_until_ready(program())
    return program

  programs = {"fused": compile_step()}
  with mock.patch.object(attention, "_forms", lambda *_: {}):
    programs["contracted"] = compile_step()
  attention.dot_product_attention.clear_cache()
  seconds = timing.by_turns(programs, rounds)
  return {
    "variant": variant,
    "patch_size": patch_size,
    "fused_ms": 1e3 * statistics.median(seconds["fused"]),
    "contracted_ms": 1e3 * statistics.median(seconds["contracted"]),
    "times_as_fast": timing.ratio(seconds["contracted"], seconds["fused"]),
  }


def measure_input(
  step_ms: float, batch_size: int, count: int
) -> dict[str, Any]:
  """Returns the share of its time that a device waits for images of a folder.

  Args:
    step_ms: how long a step of the batch takes.
    batch_size: images per step.
    count: steps to measure.
  """
  with tempfile.TemporaryDirectory() as name:
    input_pipeline.make_folder(pathlib.Path(name), 64, 64)
    return input_pipeline.measure_starvation(
      input_pipeline.data_config(name),
      step_ms=step_ms,
      batch_size=batch_size,
      steps=count,
    )


def measure_all(quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the title of a table and a row of it, the most telling first."""
  config = quickstart.get_config("runlocal" if quick else "")
  if quick:
    small = dict(image_size=48, batch_size=2, rounds=1)
    yield "steps", measure_steps("mu", 16, peak_size=64, **small)
    yield "fused attention", measure_fused("mu", 16, **small)
    yield "dispatch", dispatch.measure(config, rounds=1, steps=1)
    yield "input", measure_input(1.0, 2 * jax.device_count(), count=2)
    return
  step_ms = None
  for patch_size in PATCH_SIZES:
    for variant, batch_size in BATCH_SIZES.items():
      sizes = dict(image_size=240, batch_size=batch_size, rounds=10)
      row = measure_steps(variant, patch_size, peak_size=16384, **sizes)
      yield "steps", row
      if patch_size in PATCH_SIZES[:2]:
        yield "fused attention", measure_fused(variant, patch_size, **sizes)
      if step_ms is None:
        step_ms = row["train_ms"]
        all_images = batch_size * jax.device_count()
        yield "input", measure_input(step_ms, all_images, count=30)
        yield "dispatch", dispatch.measure(config)


def main(argv: list[str] | None = None) -> None:
  """Measures until the minutes are over."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--minutes", type=float, default=9)
  parser.add_argument("--page", type=pathlib.Path, help="Markdown to append to")
  parser.add_argument(
    "--quick", action="store_true", help="shows that it works"
  )
  args = parser.parse_args(argv)
  if jax.default_backend() == "cpu" and not args.quick:
    parser.error("there is no GPU or TPU here; --quick tries the script on CPU")
  start, tables = time.monotonic(), {}
  for title, row in measure_all(args.quick):
    print(json.dumps({"table": title, **row}), flush=True)
    cells = {key: page.shown(value) for key, value in row.items()}
    tables.setdefault(title, []).append(cells)
    if time.monotonic() - start > 60 * args.minutes:
      break
  if args.page:
    lines = [
      f"\n## On {page.hardware()}, {time.strftime('%Y-%m-%d')}",
      f"`python -m benchmarks.device_checks`, jax {jax.__version__}, Python "
      f"{platform.python_version()}, bfloat16, 240 px, batches of "
      + ", ".join(f"{size} ({name})" for name, size in BATCH_SIZES.items())
      + ".",
      *(
        f"{title}:\n\n{table.markdown(rows)}" for title, rows in tables.items()
      ),
    ]
    with args.page.open("a", encoding="utf-8") as file:
      file.write("\n\n".join(lines) + "\n")


if __name__ == "__main__":
  main()
