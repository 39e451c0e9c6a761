"""rendered_scenes: boxes of coloured shapes by their names, at any patch size.

    python -m tokenlearner_flexivit.main --workdir=/tmp/boxes \
      --config=configs/detection_scenes.py
    python -m tokenlearner_flexivit.predict photo.jpg --workdir=/tmp/boxes \
      --detect="a red heart;a blue cross" --output=/tmp/found

The first run draws the data, see tokenlearner_flexivit/data/rendered_scenes.
The classes are the 40 pairs of a colour and a shape; eight of them, one of each
colour, are held out: training does not see their boxes or names, and the report
has their AP as `AP_novel`. Images of 96 pixels have a main thing of 60 to 80
pixels, which is "medium" for COCO, and others of 11 to 17, which are "small".

Arguments:
  init: a workdir, a file or a released name that the image tower starts from.
  patch_sizes: drawn from in training, such as `16` or `24+16+12+8`, the
    default; all of the default are evaluated.
  steps: 2000.
  runlocal: a two-step check on a few images.
"""

import ml_collections

from configs import segmenter
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.data.rendered_scenes import scene, shapes

SIDE = 96  # Of the images, in pixels.
PATCH_SIZES = (24, 16, 12, 8)  # They divide it.
_COUNTS = len(scene.COLOURS), len(shapes.NAMES)
_OBJECTS = f"objects({scene.MAX_OBJECTS},('colour','shape'),sizes={_COUNTS})"
_LAST = "value_range(-1,1)|keep('image'"


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg, init="", patch_sizes="", steps=2000, runlocal=False
  )
  runlocal = args["runlocal"]
  drawn = configuration.read_sizes(args["patch_sizes"], PATCH_SIZES)
  name = f"rendered_scenes/{'tiny' if runlocal else SIDE}"
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500

  c.data = dict(boxes(name, "train"), num_threads=1)
  if args["init"]:
    described = segmenter.start_from(c, args["init"])
    if described.model.get("text"):  # It reads other words.
      c.init_fresh = ("txt/",)
  else:
    c.model = dict(
      width=32 if runlocal else 64,
      depth=1 if runlocal else 4,
      mlp_dim=64 if runlocal else 256,
      num_heads=1 if runlocal else 2,
      # The sizes of the smallest patches: small ones lose in larger buffers.
      patch_size=(8, 8),
      posemb_grid=(12, 12),
    )
  c.model.text = text_tower(32 if runlocal else 64)
  c.flexi = dict(patch_size=dict(values=drawn))
  c.task = dict(name="detection", held_out=held_out())
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=5),
    grad_clip_norm=1.0,
  )
  sizes = PATCH_SIZES[::3] if runlocal else PATCH_SIZES
  c.evals = dict(test=evaluation(name, "test", sizes))
  return c


def boxes(name: str, split: str) -> dict:
  """Returns a data section of images and the boxes of their objects.

  Args:
    name: of the dataset, a rendered_scenes; "tiny" is enlarged.
    split: of it.
  """
  return dict(
    name=name,
    split=split,
    pp=f"{_decode(name)}|{_OBJECTS}|{_LAST},'boxes','box_label')",
    features=("image", "objects"),  # The others take time to parse.
  )


def evaluation(name: str, split: str, patch_sizes: tuple[int, ...]) -> dict:
  """Returns the section of an evaluation by average precision.

  Args:
    name: of the dataset, a rendered_scenes.
    split: of it.
    patch_sizes: to evaluate at.
  """
  return dict(
    type="detection",
    data={**boxes(name, split), "pp": f"{_decode(name)}|{_LAST})"},
    truth=f"decode|image_size|{_OBJECTS}|keep('size','boxes','box_label')",
    patch_sizes=patch_sizes,
  )


def _decode(name: str) -> str:
  return f"decode|resize({SIDE})" if name.endswith("tiny") else "decode"


def text_tower(width: int) -> dict:
  """Returns the section of a text tower for names of two words."""
  return dict(width=width, depth=1, mlp_dim=128, num_heads=2, max_len=8)


def held_out() -> list[str]:
  """Returns a name of each colour, no shape more than twice."""
  return [
    f"{colour} {shapes.NAMES[i % len(shapes.NAMES)]}"
    for i, colour in enumerate(scene.COLOURS)
  ]
