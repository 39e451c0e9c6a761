"""Evaluation of ten patch sizes in one pass, against ten passes.

`evaluators.classification` reads and decodes each batch once and runs every
patch size on it. That is compared, by turns, with one evaluator per size, and
with a pass over the data alone: JPEGs of ImageNet's usual size, made here. As
the data are to dominate, as they do on accelerators, the model is a toy, plain
and with few learned tokens. What is compiled is compiled before the first turn.
"""

import collections
import pathlib
import statistics
import tempfile
from typing import Any

import jax

from benchmarks import input_pipeline
from tokenlearner_flexivit import data, dials, evaluators, models, parallel
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.models import timing, variants
from tokenlearner_flexivit.tasks import classification as task_lib

PP = (
  "decode|resize_small(272)|central_crop(240)|value_range(-1,1)"
  "|keep('image','label')"
)
NUM_CLASSES = 2
PATCH_SIZES = variants.FLEXIVIT_PATCH_SIZES
DIFFERENT = 32  # Images at most; the others are copies.
TARGET = 0.75  # One pass over ten, at most.


def compare(
  variant: str,
  sizes: tuple[int, ...],
  *,
  num_images: int,
  batch_size: int,
  rounds: int,
  **arguments: Any,
) -> dict[str, Any]:
  """Times one pass over all sizes, a pass for each, and a pass of data alone.

  Args:
    variant: of the model.
    sizes: patch sizes.
    num_images: in the set.
    batch_size: of evaluation.
    rounds: how often each takes its turn.
    **arguments: of the model, such as `token_learner`.

  Returns:
    Medians in seconds; images per second, each image counted once however many
    sizes it is evaluated at; `over_separate`, one pass over the separate ones;
    and the shares of the times that a pass of data alone takes.
  """
  with tempfile.TemporaryDirectory() as folder:
    copies = -(-num_images // DIFFERENT)
    input_pipeline.make_folder(
      pathlib.Path(folder), num_images // copies, copies
    )
    section = dict(name=f"folder:{folder}", split="all", pp=PP)
    model = models.create(variant=variant, num_classes=NUM_CLASSES, **arguments)
    task = task_lib.Classification(model, NUM_CLASSES)

    def evaluator(*patch_sizes):
      settings = [dials.Setting(patch_size=(p, p)) for p in patch_sizes]
      context = evaluators.Context(task, settings, batch_size)
      return classification.Evaluator(context, section)

    together, apart = evaluator(*sizes), [evaluator(size) for size in sizes]
    batches = data.eval_batches(section, batch_size=batch_size)
    key = jax.random.key(0)
    params = parallel.create().place(task.init(key, together.image_shape))
    seconds = timing.by_turns(
      {
        "together": lambda: dict(together.run(params)),
        "apart": lambda: [dict(single.run(params)) for single in apart],
        "data": lambda: collections.deque(batches, maxlen=0),
      },
      rounds,
    )
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  data_share = {
    name: timing.ratio(seconds["data"], seconds[name])
    for name in ("together", "apart")
  }
  return {
    "variant": variant,
    "num_tokens": arguments.get("token_learner", {}).get("num_tokens"),
    "patch_sizes": len(sizes),
    "images": num_images,
    "one_pass_s": medians["together"],
    "separate_s": medians["apart"],
    "data_s": medians["data"],
    "one_pass_images_per_s": num_images / medians["together"],
    "separate_images_per_s": num_images / medians["apart"],
    "one_pass_data_share": data_share["together"],
    "separate_data_share": len(sizes) * data_share["apart"],
    "over_separate": timing.ratio(seconds["together"], seconds["apart"]),
    "target": TARGET,
  }


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares the two ways of evaluating with the smallest model."""
  learned = dict(token_learner=dict(layer=0, num_tokens=8))
  if quick:
    sizes = dict(num_images=16, batch_size=8, rounds=1)
    return [compare("mu", PATCH_SIZES[:3], **sizes, **learned)]
  sizes = dict(num_images=256, batch_size=64, rounds=3)
  return [
    compare("mu", PATCH_SIZES, **sizes, **kwargs) for kwargs in ({}, learned)
  ]
