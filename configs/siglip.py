"""SigLIP from scratch: two towers, a sigmoid loss, and any patch size.

    python -m tokenlearner_flexivit.main --workdir=/shared/siglip \
      --config=configs/siglip.py:data=captions:/data/pairs.csv

SigLIP (arXiv 2303.15343) with a flexible image tower: B with the "map" pooling,
a text tower of the same size, temperature 10 and bias -10 at the start. The
published model saw 40 billion pairs that are not public (84.7 % on COCO's R@10,
say); how much fewer pairs give has to be seen. Not yet run here.

Arguments:
  data: where images and captions are: captions:/path, coco:/path, or a dataset
    of TFDS such as coco_captions.
  train, test: the splits.
  vocabulary: words, clip, or sentencepiece:/path/to/cc_en.32000, as published.
  variant: of both towers, B.
  patch_size: `patch_size=16` trains at one size instead of all.
  steps, batch_size: 100000 of 4096.
  runlocal: a two-step check on a few rendered scenes.
"""

import ml_collections

from configs import lit
from tokenlearner_flexivit import config as configuration

_SIDE, _MAX_LEN = 240, 64


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    data="coco_captions",
    train="",
    test="",
    vocabulary="words",
    variant="B",
    patch_size=0,
    steps=100_000,
    batch_size=4096,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  data = "rendered_scenes/tiny" if runlocal else args["data"]
  train, test = lit.splits(data, args["train"], args["test"])
  side = 48 if runlocal else _SIDE
  values = lit.PATCH_SIZES[3:8:4] if runlocal else lit.PATCH_SIZES
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 16 if runlocal else args["batch_size"]
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = c.eval_steps = 5000
  c.data, evaluation = lit.pairs(
    data, train, test, side, args["vocabulary"], _MAX_LEN
  )
  c.model = dict(
    name="two_towers",
    variant="mu" if runlocal else args["variant"],
    patch_size=32,
    posemb_grid=7,
    pool="map",
    text=lit.TINY if runlocal else dict(variant=args["variant"]),
    bias_init=-10.0,
  )
  c.flexi = dict(
    patch_size=dict(
      values=(args["patch_size"],) if args["patch_size"] else values
    )
  )
  c.task = dict(name="contrastive", loss="sigmoid")
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.1,  # 1e-4 in big_vision, which does not multiply it by lr.
    schedule=dict(name="cosine", warmup_percent=5),
    grad_clip_norm=1.0,
  )
  c.evals = dict(retrieval=dict(evaluation, patch_sizes=values))
  return c
