r"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/runs/cell --config=\
      experiments/transfer_retrieval/config.py:cell=locked_any_size,seed=0,\
workdir=/tmp/runs

Backbones are trainings of flexivit_curves, under the names that they have
there. Image towers start from them and learn all attributes of rendered_scenes
at once: a tower of textures alone has forgotten the colours and the counts that
captions tell, and all attributes from scratch leave the textures out. Those of
the study of counts, `counts.py`, learn the number of objects alone. Towers and
transfers start from a run in the folder `workdir=...` of the study.
"""

import dataclasses

import ml_collections

from configs import captions_scenes, lit
from experiments import recipe
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.flexivit_curves import scales
from tokenlearner_flexivit.data.rendered_scenes import scene, shapes, textures

# Numbers of classes.
ATTRIBUTES = {
  "texture": len(textures.NAMES),
  "shape": len(shapes.NAMES),
  "colour": len(scene.COLOURS),
  "scale": len(textures.SCALES),
  "size": len(scene.SIZES),
  "orientation": len(scene.ORIENTATIONS),
  "background": len(scene.BACKGROUNDS),
  "num_objects": scene.MAX_OBJECTS + 1,  # From 1 on; the class 0 stays empty.
}
LOCKED, TUNED = WAYS = ("locked", "tuned")
ANY_SIZE = f"{LOCKED}_any_size"
COUNTED = "num_objects"
COUNTS = "counts"  # Begins the names of cells of counts.
_TUNED_RATE = 0.1  # Of the tower, in shares of that of the text tower.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(scales.Scale):
  """A size of the study.

  Attributes:
    pair_steps: of a transfer.
    pair_batch: pairs per step.
  """

  pair_steps: int
  pair_batch: int


SCALES = {
  # A seed takes about an hour of one CPU core.
  "cpu": recipe.larger(
    Scale, scales.SCALES["cpu"], pair_steps=1000, pair_batch=128
  ),
  "gpu": recipe.larger(
    Scale, scales.SCALES["gpu"], pair_steps=1500, pair_batch=512
  ),  # Not yet run.
}


@dataclasses.dataclass(frozen=True)
class Transfer:
  """The training of a text tower for an image tower.

  Attributes:
    name: in tables and folders.
    tower: name of the image tower that it starts from.
    sizes: patch sizes; one of them is drawn at each step.
    way: `LOCKED` or `TUNED`.
  """

  name: str
  tower: str
  sizes: tuple[int, ...]
  way: str


def at(way: str, tower: str, size: int) -> str:
  """Returns the name of a tower's transfer at one patch size."""
  return f"{way}_{tower}_at{size}"


def of_counts(name: str) -> str:
  """Returns the name of the cell that is like another, but learns counts."""
  return f"{COUNTS}_{name}"


def transfers(scale: Scale) -> dict[str, Transfer]:
  """Returns the transfers by name."""
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  listed = []
  for way, tower, size in (
    (LOCKED, "flexible", coarse),
    (LOCKED, "coarse", coarse),
    (LOCKED, "fine", coarse),
    (LOCKED, "fine", fine),
    (TUNED, "flexible", coarse),
    (TUNED, "coarse", coarse),
  ):
    listed.append(Transfer(at(way, tower, size), tower, (size,), way))
  listed.append(Transfer(ANY_SIZE, "flexible", scale.sizes, LOCKED))
  return {transfer.name: transfer for transfer in listed}


def towers(scale: Scale) -> dict[str, curves_cells.Cell]:
  """Returns the image towers by name: the backbones that they start from.

  A tower has the patch sizes and the stored sizes of its backbone.
  """
  return curves_cells.backbones(scale)


def towers_of_counts(scale: Scale) -> dict[str, curves_cells.Cell]:
  """Returns `towers` under the names of those that learn counts."""
  return {of_counts(name): backbone for name, backbone in towers(scale).items()}


def transfers_of_counts(scale: Scale) -> dict[str, Transfer]:
  """Returns the locked ones of `transfers`, with the towers of counts."""
  return {
    of_counts(name): dataclasses.replace(
      transfer, name=of_counts(name), tower=of_counts(transfer.tower)
    )
    for name, transfer in transfers(scale).items()
    if transfer.way == LOCKED
  }


def needs_of_counts(scale: Scale) -> dict[str, list[str]]:
  """Returns the cells of the study of counts, each after those it needs."""
  return (
    curves_cells.backbones_with_needs(scale)
    | {t: [backbone.name] for t, backbone in towers_of_counts(scale).items()}
    | {name: [t.tower] for name, t in transfers_of_counts(scale).items()}
  )


def needs(scale: Scale) -> dict[str, list[str]]:
  """Returns backbones, towers and transfers, each after those it needs."""
  return (
    curves_cells.backbones_with_needs(scale)
    | {tower: [backbone.name] for tower, backbone in towers(scale).items()}
    | {name: [transfer.tower] for name, transfer in transfers(scale).items()}
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(depth=2, pair_steps=2, pair_batch=8)
  scale, before, args = recipe.read_argument(
    arg,
    SCALES,
    lambda scale: needs(scale) | needs_of_counts(scale),
    small,
    cell=ANY_SIZE,
    workdir="",
  )
  name, seed = args["cell"], args["seed"]
  if name in curves_cells.backbones_with_needs(scale):
    return curves_config.get_config(arg)
  (init,) = recipe.runs_before(args, before, "transfer_retrieval").values()
  every_tower = towers(scale) | towers_of_counts(scale)
  if name in towers(scale):
    return _tower_config(scale, seed, every_tower[name], init)
  if name in towers_of_counts(scale):
    return _counting_config(scale, seed, every_tower[name], init)
  transfer = (transfers(scale) | transfers_of_counts(scale))[name]
  tower = every_tower[transfer.tower]
  return _transfer_config(scale, seed, transfer, tower, init)


def _tower_config(
  scale: Scale, seed: int, backbone: curves_cells.Cell, init: str
) -> ml_collections.ConfigDict:
  """Returns the config of an image backbone that learns all attributes."""
  c = _backbone_config(
    scale, seed, backbone, init, f"multihot({ATTRIBUTES})", tuple(ATTRIBUTES)
  )
  c.task = dict(name="classification", loss="sigmoid_xent")
  c.evals.test.type = "multilabel"
  return c


def _counting_config(
  scale: Scale, seed: int, backbone: curves_cells.Cell, init: str
) -> ml_collections.ConfigDict:
  """Returns the config of an image backbone that learns counts alone."""
  label = f"copy('{COUNTED}','label')"
  c = _backbone_config(scale, seed, backbone, init, label, (COUNTED,))
  c.model.num_classes = ATTRIBUTES[COUNTED]
  c.task = dict(name="classification", loss="softmax_xent")
  return c


def _backbone_config(
  scale: Scale,
  seed: int,
  backbone: curves_cells.Cell,
  init: str,
  label: str,
  attributes: tuple[str, ...],
) -> ml_collections.ConfigDict:
  """Returns the config of an image backbone that lacks its task.

  Args:
    scale: of the study.
    seed: of parameters and batches.
    backbone: that it is like, in patch sizes and stored sizes.
    init: the run that it starts from.
    label: the op that makes the labels.
    attributes: that the op reads.
  """

  def data(split: str, crop: str) -> dict:
    # No flips: they would make other textures of slashes and stripes.
    return dict(
      name=scale.data,
      split=split,
      pp=f"decode|{crop}({scale.side})|{label}"
      "|value_range(-1,1)|keep('image','label')",
      features=("image", *attributes),
      num_threads=scale.num_threads,
    )

  c = recipe.config(scale, seed)
  c.data = data("train", "random_crop")
  c.model = recipe.model_section(scale, backbone.kernel, backbone.grid)
  c.flexi = dict(patch_size=dict(values=backbone.sizes))
  c.init = init
  c.init_fresh = ("head/",)  # It was that of the textures.
  c.evals = dict(
    test=dict(
      type="classification",
      data=data("test", "central_crop"),
      batch_size=scale.batch_size,
      patch_sizes=scale.sizes,
    )
  )
  return c


def _transfer_config(
  scale: Scale,
  seed: int,
  transfer: Transfer,
  tower: curves_cells.Cell,
  init: str,
) -> ml_collections.ConfigDict:
  """Returns the config of a text tower, beside an image tower."""
  c = recipe.config(scale, seed, scale.pair_steps)
  c.batch_size = scale.pair_batch
  crop = f"random_crop({scale.side})"
  c.data = dict(
    captions_scenes.pairs(scale.data, "train", crop),
    num_threads=scale.num_threads,
  )
  images = recipe.model_section(scale, tower.kernel, tower.grid)
  c.model = dict(
    images,
    name="two_towers",
    num_classes=scale.width,
    text=dict(
      width=scale.width,
      depth=scale.depth // 2,
      mlp_dim=images["mlp_dim"],
      num_heads=images["num_heads"],
    ),
  )
  c.flexi = dict(patch_size=dict(values=transfer.sizes))
  c.task = dict(name="contrastive", loss="softmax")
  if transfer.way == LOCKED:
    c.optimizer.freeze = lit.IMAGE_TOWER
  else:
    c.optimizer.lr_scales = ((lit.IMAGE_TOWER, _TUNED_RATE),)
  c.init = init
  c.init_fresh = ("head/",)  # It was that of the tower's labels.
  c.evals = captions_scenes.evaluations(scale.data, scale.side, scale.sizes)
  return c
