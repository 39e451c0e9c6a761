"""rendered_scenes: a short code of panoptic labels, the stage I of UViM.

    python -m tokenlearner_flexivit.main --workdir=/tmp/codes \
      --config=configs/panoptic_code_scenes.py
    python -m tokenlearner_flexivit.main --workdir=/tmp/panoptic \
      --config=configs/panoptic_scenes.py:coder=/tmp/codes

The first run draws the data, see tokenlearner_flexivit/data/rendered_scenes.
Classes are the background, which is stuff, and five shapes. The report's PQ is
that of what the code keeps of the labels, the ceiling of stage II.

Arguments:
  code: side of the code's grid, 6 for 36 words.
  quantizer: fsq, of 240 words, or vq, with a codebook of as many.
  steps: 1500.
  runlocal: a two-step check on a few images.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration

SIDE = 60  # Of crops of 64-pixel images.
# Up to six objects and the background, and none.
_SEGMENTS, _NUMBERS = 7, 8


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg, code=6, quantizer="fsq", steps=1500, runlocal=False
  )
  runlocal = args["runlocal"]
  name = data_name(runlocal=runlocal)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500
  c.data = dict(
    name=name, split="train", pp=preprocessing("random_crop"), num_threads=1
  )
  patch_size = 15 if runlocal else 6
  c.model = dict(
    num_instances=_NUMBERS,
    width=32 if runlocal else 64,
    encoder_depth=1 if runlocal else 2,
    decoder_depth=1 if runlocal else 2,
    mlp_dim=64 if runlocal else 256,
    num_heads=1 if runlocal else 2,
    patch_size=(patch_size, patch_size),
    posemb_grid=(SIDE // patch_size, SIDE // patch_size),
    code_grid=(args["code"], args["code"]),
    quantizer=args["quantizer"],
    levels=(8, 6, 5),
    num_words=240,
  )
  c.task = dict(name="panoptic_code")
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
      type="panoptic",
      data=dict(name=name, split="test", pp=preprocessing("central_crop")),
    )
  )
  return c


def data_name(*, runlocal: bool) -> str:
  """Returns the name of the data."""
  return f"rendered_scenes/{'tiny' if runlocal else 64}"


def preprocessing(crop: str) -> str:
  """Returns the preprocessing of images and labels.

  Args:
    crop: the op that cuts the images.
  """
  # No flips: they would make other textures of slashes and stripes.
  masks = "masks=('semantic','instances')"
  return (
    f"decode({masks})|{crop}({SIDE},{masks})|canonical({_SEGMENTS})"
    "|value_range(-1,1)|keep('image','semantic','instances')"
  )
