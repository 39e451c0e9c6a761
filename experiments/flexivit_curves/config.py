"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/flexivit_curves/config.py:cell=flexi,seed=0,scale=cpu

What starts from another cell or learns from it finds its run in the folder
`workdir=...` of the study. `label=shape` lets transfer learn another label of
the images, instead of the texture.
"""

import ml_collections

from experiments import recipe
from experiments.flexivit_curves import cells, scales


def test_data(scale: scales.Scale, label: str = "label") -> dict:
  """Returns the data section of tests."""
  return dict(
    name=scale.data,
    split="test",
    pp=scale.test_pp + _labels(label),
  )


def _labels(label: str) -> str:
  copy = "" if label == "label" else f"|copy('{label}','label')"
  return f"{copy}|keep('image','label')"


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  scale, cell, args = recipe.read_argument(
    arg,
    scales.SCALES,
    cells.cells_by_name,
    dict(depth=2, short_steps=2),
    cell="flexi",
    workdir="",
    label="label",
  )
  if args["label"] != "label" and not cell.downstream:
    raise ValueError(
      f"label={args['label']} is for transfer; the cell {cell.name} learns the "
      "texture."
    )
  before = recipe.runs_before(args, cell.needs, "flexivit_curves")
  steps = scale.short_steps if cell.short else scale.steps
  c = recipe.config(
    scale,
    args["seed"],
    max(steps // len(scale.sizes), 2) if cell.few else steps,
    # A short training that begins with trained weights learns more slowly, as
    # fine-tuning does in the paper.
    lr=2.5e-4 if cell.short else 1e-3,
  )
  c.data = dict(
    name=scale.data,
    split=scale.downstream if cell.downstream else "train",
    pp=scale.train_pp + _labels(args["label"]),
    num_threads=2,
  )
  c.model = recipe.model_section(scale, cell.kernel, cell.grid)
  c.flexi = dict(
    patch_size=dict(
      values=cell.sizes, weights=cell.weights, end_weights=cell.end_weights
    )
  )
  if cell.teacher:
    size = scale.sizes[-1]
    c.task = dict(
      name="distillation",
      teachers=dict(
        teacher=dict(
          init=before[cell.teacher], patch_size=size, dtype="float32"
        )
      ),
    )
  if cell.init:
    c.init = before[cell.init]
    c.init_fresh = ("head/",) if cell.downstream else ()
  c.evals = dict(
    test=dict(
      type="classification",
      data=test_data(scale, args["label"]),
      batch_size=scale.batch_size,
      patch_sizes=evaluated(cell, scale),
    )
  )
  return c


def evaluated(cell: cells.Cell, scale: scales.Scale) -> tuple[int, ...]:
  """Returns the patch sizes that a cell is evaluated at, from the largest on.

  A fixed ViT is tried at other sizes by `resized`, in several ways.
  """
  if cell.name == "flexi":
    return tuple(sorted({*scale.sizes, *scale.outside}, reverse=True))
  return scale.sizes if cell.downstream else cell.sizes
