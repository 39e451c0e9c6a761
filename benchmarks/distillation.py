"""What the teacher adds to a training step, and what it need not.

The real step trains a student on labels, and distils it; the teacher's forward
pass is timed beside them. What distillation adds, over the teacher's time, is
about 1 if the teacher is computed once and has no backward pass; that alone
would make it 3. The last row draws its patch sizes inside of the program
(`switch`): more there would be a teacher in every branch.
"""

import contextlib
import io
import statistics
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import drawn_step, steps
from tokenlearner_flexivit import dials, models, parallel, tasks
from tokenlearner_flexivit.models import timing


def compare(
  student: str,
  teacher: str,
  patch_sizes: Sequence[int],
  *,
  image_size: int = 240,
  batch_size: int = 8,
  dtype: str = "float32",
  rounds: int = 7,
) -> list[dict[str, Any]]:
  """Times the steps at each patch size and at drawn ones, by turns.

  Args:
    student: a variant, such as "S".
    teacher: a variant with its patch size, such as "B/8".
    patch_sizes: the student's.
    image_size: in pixels, of both.
    batch_size: over all devices.
    dtype: of the computation of both.
    rounds: the median of so many counts.

  Returns:
    Medians in milliseconds; `teacher_share` of the distillation's step;
    `added_over_teacher`, what distillation adds over the teacher's time.
  """
  images, labels = steps.make_batch(batch_size, image_size)
  batch = {"image": images, "label": labels}
  model = models.create(
    variant=student, num_classes=steps.NUM_CLASSES, dtype=dtype
  )
  supervised, distilled = (
    tasks.create(section, model=model, num_classes=steps.NUM_CLASSES)
    for section in (
      {"name": "classification"},
      {
        "name": "distillation",
        "teachers": {"one": {"model": {"variant": teacher}, "dtype": dtype}},
      },
    )
  )
  params = supervised.init(jax.random.key(0), images.shape[1:])
  with contextlib.redirect_stdout(io.StringIO()):  # That it is untrained.
    (weights,) = jax.device_get(distilled.constants(parallel.create()))
  devices = parallel.create()
  answer = devices.run(
    lambda weights, batch: distilled.teachers[0].logits(
      weights, batch["image"]
    ),
    sharded_output=True,
  )
  put = devices.place_batch(jax.device_get(batch)), devices.place(weights)
  programs = {"teacher": lambda: answer(put[1], put[0])}
  drawn = 2 * len(patch_sizes)
  for sizes in (*((size,) for size in patch_sizes), tuple(patch_sizes)):
    repeats = 1 if len(sizes) == 1 else drawn
    drawn_from, _ = dials.from_config(
      {"patch_size": {"values": sizes}}, sizes[0]
    )
    for name, task in (("supervised", supervised), ("distilled", distilled)):
      programs[name, sizes, repeats], _ = drawn_step.make(
        task, params, batch, drawn_from, repeats
      )
  seconds = timing.by_turns(programs, rounds)
  teacher_s = seconds.pop("teacher")
  rows = []
  for name, sizes, repeats in seconds:
    if name == "distilled":
      without = [s / repeats for s in seconds["supervised", sizes, repeats]]
      whole = [s / repeats for s in seconds[name, sizes, repeats]]
      added = [b - a for a, b in zip(without, whole, strict=True)]
      rows.append(
        {
          "student": student,
          "teacher": teacher,
          "patch_size": sizes[0] if len(sizes) == 1 else "drawn",
          "supervised_ms": 1e3 * statistics.median(without),
          "distilled_ms": 1e3 * statistics.median(whole),
          "teacher_ms": 1e3 * statistics.median(teacher_s),
          "teacher_share": timing.ratio(teacher_s, whole),
          "added_over_teacher": timing.ratio(added, teacher_s),
        }
      )
  return rows


def run(quick: bool) -> list[dict[str, Any]]:
  """Distils on CPU S from S/16, else B from B/8."""
  if quick:
    return compare("mu", "mu/12", (30, 20), image_size=60, rounds=1)
  if jax.default_backend() == "cpu":
    return compare("S", "S/16", (48, 30, 16))
  return compare(
    "B", "B/8", (48, 30, 16, 8), batch_size=128, dtype="bfloat16", rounds=20
  )
