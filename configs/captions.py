"""Your own images and captions: two towers that find one by the other.

    python -m tokenlearner_flexivit.main --workdir=/tmp/mine \
      --config=configs/captions.py:path=/data/pairs.csv
    python -m tokenlearner_flexivit.predict photo.jpg --workdir=/tmp/mine \
      --labels="a dog on a beach;two cats"

`/data/pairs.csv` has the columns `file` and `caption`, and a file several rows
if it has several captions; JSONL and Karpathy's JSON are read, too, see
`data/sources/captions`. A column `split` or the splits of COCO's folders are
used; without them a tenth of the images, fixed by their names, is held out.
Captions that tell left from right suit these images, which are not mirrored. A
step takes 64 pairs; with fewer images give `--config.batch_size=16`, say.

Arguments:
  path: the table or its folder; `coco:/path` for a folder with COCO's captions.
  train, test: the splits to train on and to evaluate on.
  init: weights for images to start from, such as "FlexiViT-S i1k", a file or a
    workdir (see `interop.fetch`), or two towers, such as a file of SigLIP;
    without it a ViT-Ti from scratch, which needs many images.
  locked: keeps the image tower as `init` has it, as is best for few images;
    `locked=False` tunes it at a tenth of the rate.
  vocabulary: words, clip, or sentencepiece:/path/to.model; by default words for
    a text tower from scratch. Runs and CLIP's weights tell their own.
  max_len: tokens of a caption, longer ones are cut; 32.
  size: side in pixels, a multiple of 120; 240.
  epochs: 100.
  runlocal: a two-step check, on rendered scenes without `path`.
"""

import ml_collections

from configs import lit
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.data.sources.captions import source as captions


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    path="",
    train="",
    test="",
    init="",
    locked=True,
    vocabulary="",
    max_len=32,
    size=240,
    epochs=100,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where images and captions are: "
      "--config=configs/captions.py:path=/data/pairs.csv"
    )
  data = args["path"] or "rendered_scenes/tiny"
  if not data.startswith(("coco:", captions.PREFIX, "rendered_scenes/")):
    data = f"{captions.PREFIX}{data}"
  train, test = lit.splits(data, args["train"], args["test"])
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 16 if runlocal else 64
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = args["epochs"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_epochs = c.eval_epochs = 10
  c.model = dict(
    name="two_towers",
    variant="mu" if runlocal else "Ti",
    num_classes=None if args["init"] else 64,
    text=lit.TINY if runlocal else dict(variant="Ti"),
  )
  c.data = {}
  texts = dict(max_len=args["max_len"], vocabulary=args["vocabulary"])
  if args["init"]:
    max_len, vocabulary = lit.start_from(c, args["init"], texts)
  else:
    max_len = args["max_len"]
    vocabulary = args["vocabulary"] or vocabularies.WORDS
  side = 60 if runlocal else args["size"]
  training, evaluation = lit.pairs(data, train, test, side, vocabulary, max_len)
  c.data.update(training)
  values = (30, 24, 20, 15, 12, 10, 8)
  c.flexi = dict(patch_size=dict(values=(30, 15) if runlocal else values))
  c.task = dict(name="contrastive")
  if c.model.get("bias_init") is not None:
    c.task.loss = "sigmoid"  # As SigLIP's weights were trained.
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=10),
    grad_clip_norm=1.0,
  )
  if args["init"] and args["locked"]:
    c.optimizer.freeze = lit.IMAGE_TOWER
  elif args["init"]:
    c.optimizer.lr_scales = ((lit.IMAGE_TOWER, 0.1),)
  c.evals = dict(retrieval=evaluation)
  return c
