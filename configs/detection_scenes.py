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

from configs import segmentation_scenes, segmenter
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.data.rendered_scenes import scene, shapes

# The divisors of 96.
PATCH_SIZES = (24, 16, 12, 8)
_MOST = 6  # Objects of an image.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg, init="", patch_sizes="", steps=2000, runlocal=False
  )
  runlocal = args["runlocal"]
  drawn = segmentation_scenes.patch_sizes(args["patch_sizes"], PATCH_SIZES)
  name = f"rendered_scenes/{'tiny' if runlocal else 96}"
  resize = "resize(96)|" if runlocal else ""
  colours = list(scene.COLOURS)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500

  counts = len(colours), len(shapes.NAMES)
  objects = f"objects({_MOST},('colour','shape'),sizes={counts}"
  last = "value_range(-1,1)|keep('image'"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|{resize}{objects})|{last},'boxes','box_label')",
    features=("image", "objects"),  # The others take time to parse.
    num_threads=1,
  )
  if args["init"]:
    segmenter.start_from(c, args["init"])
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
  c.model.text = dict(
    width=32 if runlocal else 64, depth=1, mlp_dim=128, num_heads=2, max_len=8
  )
  c.flexi = dict(patch_size=dict(values=drawn))
  # One shape of each colour, no shape more than twice.
  held_out = [
    f"{colour} {shapes.NAMES[i % len(shapes.NAMES)]}"
    for i, colour in enumerate(colours)
  ]
  c.task = dict(name="detection", held_out=held_out)
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=5),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="detection",
      data=dict(
        name=name,
        split="test",
        pp=f"decode|{resize}{last})",
        features=("image", "objects"),
      ),
      truth=f"decode|image_size|{objects})|keep('size','boxes','box_label')",
      patch_sizes=PATCH_SIZES[::3] if runlocal else PATCH_SIZES,
    )
  )
  return c
