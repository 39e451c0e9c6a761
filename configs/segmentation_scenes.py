"""rendered_scenes: the shape of every pixel, at any patch size.

    python -m tokenlearner_flexivit.main --workdir=/tmp/shapes \
      --config=configs/segmentation_scenes.py

The first run draws the data, see tokenlearner_flexivit/data/rendered_scenes.
Classes are the background and five shapes.

Arguments:
  init: a workdir, a file or a released name to start from; by default from
    scratch.
  patch_sizes: drawn from in training, such as `15` or `15+12+10+6`, the
    default; all of the default are evaluated.
  decoder: linear or mask.
  steps: 1000.
  runlocal: a two-step check on a few images.
"""

import ml_collections

from configs import segmenter
from tokenlearner_flexivit import config as configuration

# The divisors of 60, the side of crops of 64-pixel images.
PATCH_SIZES = (15, 12, 10, 6)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    patch_sizes="",
    decoder="linear",
    steps=1000,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  drawn = configuration.read_sizes(args["patch_sizes"], PATCH_SIZES)
  name = f"rendered_scenes/{'tiny' if runlocal else 64}"
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 64
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500

  # No flips: they would make other textures of slashes and stripes.
  decode = "decode(masks='semantic')"
  last = "value_range(-1,1)|keep('image','semantic')"
  c.data = dict(
    name=name,
    split="train",
    pp=f"{decode}|random_crop(60,masks='semantic')|{last}",
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
      patch_size=(6, 6),
      posemb_grid=(10, 10),
    )
  c.model.decoder = args["decoder"]
  c.flexi = dict(patch_size=dict(values=drawn))
  c.task = dict(name="segmentation")
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
      type="segmentation",
      data=dict(
        name=name,
        split="test",
        pp=f"{decode}|central_crop(60,masks='semantic')|{last}",
      ),
      patch_sizes=PATCH_SIZES[::3] if runlocal else PATCH_SIZES,
    )
  )
  return c
