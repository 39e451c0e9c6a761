"""What the studies train with: the same for all models of one."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments import training
from tokenlearner_flexivit import config as configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
  """Sets the size of the trainings of a study.

  Attributes:
    data: configuration of rendered_scenes.
    side: of the images in pixels, cut out of those of the data.
    width: of the models; MLPs are four times as wide, heads are of 32.
    depth: in blocks.
    batch_size: examples per step.
    steps: of each training.
    dtype: of the computation; None for the model's own.
    num_threads: that decode images.
  """

  data: str
  side: int
  width: int
  depth: int
  batch_size: int
  steps: int
  dtype: str | None = None
  num_threads: int = 2


def read_argument(
  arg: str,
  scales: Mapping[str, Any],
  cells: Callable[[Any], Mapping[str, Any]],
  small: Mapping[str, Any],
  **defaults: Any,
) -> tuple[Any, Any, dict[str, Any]]:
  """Reads the argument of a study's config.

  Args:
    arg: such as "cell=flexi,seed=1".
    scales: by name.
    cells: returns those of a scale by name.
    small: what `runlocal` makes of the scale besides two steps of eight
      examples and a width of 32.
    **defaults: of the argument; seed, scale and runlocal have theirs.

  Returns:
    The scale, the cell, and all values.
  """
  defaults = dict(seed=0, scale="cpu", runlocal=False) | defaults
  args = configuration.parse_arg(arg, **defaults)
  scale = configuration.choose(args["scale"], scales, "scale")
  cell = configuration.choose(args["cell"], cells(scale), "cell")
  if args["runlocal"]:
    tiny = dict(width=32, batch_size=8, steps=2) | small
    scale = dataclasses.replace(scale, **tiny)
  return scale, cell, args


def larger(cls: type[Scale], scale: Scale, **more: Any) -> Scale:
  """Returns a scale with the further attributes of a class of scales."""
  known = {f.name: getattr(scale, f.name) for f in dataclasses.fields(scale)}
  return cls(**known, **more)


def runs_before(
  args: Mapping[str, Any], needs: Sequence[str], study: str
) -> dict[str, str]:
  """Returns the folders of the runs that a cell starts from, by their cells.

  Args:
    args: of `read_argument`.
    needs: the cells.
    study: its name.

  Raises:
    ValueError: there are some, and the argument has no workdir.
  """
  if needs and not args["workdir"]:
    raise ValueError(
      f"The cell {args['cell']} needs {' and '.join(needs)}. Train with "
      f"experiments.{study}.run, or give the folder that has "
      f"{'it' if len(needs) == 1 else 'them'} as workdir=... ."
    )
  workdir = pathlib.Path(args["workdir"]).absolute()
  return {
    cell: str(workdir / training.run_name(cell, args["seed"], args["scale"]))
    for cell in needs
  }


def config(
  scale: Scale, seed: int, steps: int | None = None, lr: float = 1e-3
) -> ml_collections.ConfigDict:
  """Returns a config that lacks data, model, dials and evaluations.

  The rate is one at which models of any patch size leave the plateau that
  training on textures begins with; at twice that not all of them do.

  Args:
    scale: of the study.
    seed: of parameters and batches.
    steps: None for those of the scale.
    lr: the largest learning rate.
  """
  steps = scale.steps if steps is None else steps
  c = ml_collections.ConfigDict()
  c.seed = seed
  c.batch_size = scale.batch_size
  c.total_steps = steps
  c.log_steps = min(50, steps)
  c.checkpoint_steps = 500
  c.task = dict(name="classification", loss="softmax_xent", label_smoothing=0.1)
  c.optimizer = dict(
    name="adamw",
    lr=lr,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_steps=min(100, steps // 2)),
    grad_clip_norm=1.0,
  )
  return c


def add_textures(c: ml_collections.ConfigDict, scale: Scale) -> None:
  """Adds data and the evaluation "test": rendered_scenes by texture."""
  # No flips or turns: they would make other textures of slashes and stripes.
  last = "value_range(-1,1)|keep('image','label')"
  name = f"rendered_scenes/{scale.data}"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|random_crop({scale.side})|{last}",
    features=("image", "label"),  # The other twelve take longer.
    num_threads=scale.num_threads,
  )
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        name=name, split="test", pp=f"decode|central_crop({scale.side})|{last}"
      ),
      batch_size=100,
    )
  )


def model_section(
  scale: Scale, patch_size: int, grid: int | None = None
) -> dict[str, Any]:
  """Returns config.model: a small ViT.

  Args:
    scale: of the study.
    patch_size: of the stored kernel.
    grid: side of the stored position embedding; None for that of the images.
  """
  grid = scale.side // patch_size if grid is None else grid
  section = dict(
    width=scale.width,
    depth=scale.depth,
    mlp_dim=4 * scale.width,
    num_heads=scale.width // 32,
    patch_size=(patch_size, patch_size),
    posemb_grid=(grid, grid),
  )
  return section if scale.dtype is None else section | dict(dtype=scale.dtype)
