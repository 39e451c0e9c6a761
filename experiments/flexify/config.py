r"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/runs/cell --config=\
      experiments/flexify/config.py:cell=flexified,seed=0,workdir=/tmp/runs

It starts as a fixed ViT of flexivit_curves, under the name that it has there,
and learns from the same; its run is in the folder `workdir=...` of the study.
"""

import dataclasses

import ml_collections

from experiments import recipe
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.flexivit_curves import scales

FLEXIFIED = "flexified"
# Evaluations.
NEIGHBOURS, SIMILARITY = "neighbours", "similarity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(scales.Scale):
  """A size of the study.

  Attributes:
    never_drawn: patch sizes that are evaluated and at which nothing is trained.
    flexify_steps: of the training without labels.
    bank: the split whose images are neighbours.
  """

  never_drawn: tuple[int, ...]
  flexify_steps: int
  bank: str


SCALES = {
  "cpu": recipe.larger(
    Scale,
    scales.SCALES["cpu"],
    never_drawn=(20, 5),
    flexify_steps=6000,
    bank="train[:5000]",
  ),
  # Not yet run.
  "gpu": recipe.larger(
    Scale,
    scales.SCALES["gpu"],
    never_drawn=(40, 8),
    flexify_steps=6000,
    bank="train",
  ),
}


def teacher(scale: Scale) -> str:
  """Returns the cell that is made flexible, of the smallest patch size."""
  return curves_cells.fixed(scale.sizes[-1])


def needs(scale: Scale) -> dict[str, list[str]]:
  """Returns the trainings, each after those it needs."""
  return {teacher(scale): [], FLEXIFIED: [teacher(scale)]}


def evaluated(scale: Scale) -> tuple[int, ...]:
  """Returns all patch sizes that are evaluated, from the largest on."""
  return tuple(sorted({*scale.sizes, *scale.never_drawn}, reverse=True))


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(depth=2, short_steps=2, flexify_steps=2, bank="train[:40]")
  scale, before, args = recipe.read_argument(
    arg, SCALES, needs, small, cell=FLEXIFIED, workdir=""
  )
  if args["cell"] == teacher(scale):
    return curves_config.get_config(arg)
  (init,) = recipe.runs_before(args, before, "flexify").values()
  own = scale.sizes[-1]
  c = recipe.config(scale, args["seed"], scale.flexify_steps)
  keep = "|keep('image')"
  c.data = dict(
    name=scale.data,
    split="train",
    pp=scale.train_pp + keep,
    features=("image",),
    num_threads=scale.num_threads,
  )
  c.model = recipe.model_section(scale, own)
  # At its own size it has least to learn, and steps cost most.
  weights = tuple(range(len(scale.sizes), 0, -1))
  c.flexi = dict(patch_size=dict(values=scale.sizes, weights=weights))
  c.task = dict(
    name="feature_distillation",
    teachers=dict(itself=dict(init=init, patch_size=own, dtype="float32")),
  )
  c.init = init
  c.eval_first = True
  seen = dict(name=scale.data, pp=scale.test_pp + keep)
  common = dict(batch_size=100, patch_sizes=evaluated(scale))
  c.evals = {
    NEIGHBOURS: dict(
      common,
      type="knn",
      data=seen,
      train_split=scale.bank,
      test_split="test",
    ),
    SIMILARITY: dict(common, type="similarity", data=dict(seen, split="test")),
  }
  return c
