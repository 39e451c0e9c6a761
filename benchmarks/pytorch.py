"""Our FlexiViT-S against timm's in PyTorch, on the same CPU by turns.

  python -m benchmarks.pytorch --python=/tmp/torch/bin/python

`pytorch_timm.py` says how to make that environment. Each of timm's models has
one patch size and its own kernel; ours resizes a 32x32 kernel in the step.
"""

import argparse
import pathlib
import statistics

from benchmarks import processes, steps
from tokenlearner_flexivit import models
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.models import timing

PATCH_SIZES = (48, 30, 16)


def compare(
  python: str, patch_size: int, *, batch_size: int, turns: int, rounds: int
) -> dict[str, float]:
  """Returns medians in milliseconds and ratios timm over ours.

  Args:
    python: of the environment with timm.
    patch_size: in pixels.
    batch_size: of images of 240 px.
    turns: how often one program follows the other.
    rounds: how often a program runs in its turn.
  """
  images, labels = steps.make_batch(batch_size, 240)
  model = models.ViT.from_variant("S", num_classes=steps.NUM_CLASSES)
  programs = steps.programs_of(model, images, labels, patch_size)
  arguments = [str(pathlib.Path(__file__).with_name("pytorch_timm.py"))]
  arguments += [f"--{name}={value}" for name, value in (
    ("patch_size", patch_size), ("batch_size", batch_size), ("rounds", rounds)
  )]  # fmt: skip
  ours = {what: [] for what in programs}
  theirs = {what: [] for what in programs}
  for _ in range(turns):
    times = processes.result_of(arguments, python)
    for what, program in programs.items():
      theirs[what].append(statistics.median(times[what]))
      alone = timing.by_turns({what: program}, rounds)[what]
      ours[what].append(statistics.median(alone))
  row = {"patch_size": patch_size}
  for what in programs:
    row |= {
      f"{what}_ms": 1e3 * statistics.median(ours[what]),
      f"{what}_timm_ms": 1e3 * statistics.median(theirs[what]),
      f"{what}_speedup": timing.ratio(theirs[what], ours[what]),
    }
  return row


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--python", required=True, help="with torch and timm")
  args = parser.parse_args()
  rows = [
    compare(args.python, p, batch_size=8, turns=3, rounds=5)
    for p in PATCH_SIZES
  ]
  cells = [{k: f"{v:.3g}" for k, v in row.items()} for row in rows]
  print(table.markdown(cells))


if __name__ == "__main__":
  main()
