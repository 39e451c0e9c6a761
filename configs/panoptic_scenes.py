"""rendered_scenes: panoptic segmentation by UViM, at any patch size.

    python -m tokenlearner_flexivit.main --workdir=/tmp/codes \
      --config=configs/panoptic_code_scenes.py
    python -m tokenlearner_flexivit.main --workdir=/tmp/panoptic \
      --config=configs/panoptic_scenes.py:coder=/tmp/codes
    python -m tokenlearner_flexivit.predict photo.jpg --workdir=/tmp/panoptic \
      --output=/tmp/segments

Arguments:
  coder: the workdir of a run of panoptic_code_scenes.py.
  init: a workdir, a file or a released name that the image tower starts from.
  patch_sizes: drawn from in training, such as `15` or `15+12+10+6`, the
    default; all of the default are evaluated.
  tokens: of a TokenLearner in the middle of the tower, such as `16`, to which
    the decoder then attends alone; 0 for none. They are drawn, too: all, half
    or a quarter of them, or all patches.
  steps: 1500.
  runlocal: a two-step check on a few images, with a random coder.
"""

import ml_collections

from configs import (
  panoptic_code_scenes,
  segmentation_scenes,
  segmenter,
  transfer,
)
from tokenlearner_flexivit import config as configuration

PATCH_SIZES = segmentation_scenes.PATCH_SIZES


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    coder="",
    init="",
    patch_sizes="",
    tokens=0,
    steps=1500,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  if not (args["coder"] or runlocal):
    raise ValueError(
      "Stage II predicts the codes of stage I: say whose, as in "
      "--config=configs/panoptic_scenes.py:coder=/tmp/codes, the workdir of a "
      "run of configs/panoptic_code_scenes.py."
    )
  drawn = configuration.read_sizes(args["patch_sizes"], PATCH_SIZES)
  name = panoptic_code_scenes.data_name(runlocal=runlocal)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500
  c.data = dict(
    name=name,
    split="train",
    pp=panoptic_code_scenes.preprocessing("random_crop"),
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
  c.model.decoder_depth = 1 if runlocal else 2
  tokens = args["tokens"]
  c.flexi = dict(patch_size=dict(values=drawn))
  if tokens:
    depth = c.model.get("depth", 1)
    transfer.learn_tokens(c, depth // 2, tokens)
    numbers = dict.fromkeys((tokens, tokens // 2, tokens // 4))
    c.flexi.num_tokens = dict(values=(*filter(None, numbers), "all"))
  if args["coder"]:
    c.model.coder = args["coder"]
  else:
    coder = panoptic_code_scenes.get_config("runlocal").model
    c.model.coder = coder.to_dict()
  c.task = dict(name="panoptic")
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
      data=dict(
        name=name,
        split="test",
        pp=panoptic_code_scenes.preprocessing("central_crop"),
      ),
      patch_sizes=PATCH_SIZES[::3] if runlocal else PATCH_SIZES,
    )
  )
  return c
