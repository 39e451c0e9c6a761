"""Your own images in class folders: a FlexiViT-Ti with TokenLearner.

    python -m tokenlearner_flexivit.main --workdir=/tmp/mine \
      --config=configs/folder.py:path=/data/flowers

`/data/flowers/daisy/1.jpg` is an image of class "daisy". With folders `train`
and `val` or `test` below the path, by any usual name (see `data.splits`), as in
`/data/flowers/train/daisy/1.jpg`, these are the splits: `val` is evaluated if
it is there, else `test`. Without them a tenth of the images, fixed by their
names, is held out, of each class in proportion, rounded up or down. A dozen
images are enough to try it.

Arguments:
  path: the folder; `~` is the home folder.
  train, test: the splits to train on and to evaluate on, such as `test=test` or
    `train=train+val,test=test`, if not those above.
  size: pixels, a multiple of 120, which all the patch sizes divide; 120.
  epochs: 100.
  runlocal: a two-step check, on noise without `path`.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.sources import folder


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    path="",
    train="",
    test="",
    size=120,
    epochs=100,
    runlocal=False,
  )
  size, runlocal = args["size"], args["runlocal"]
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where the images are: --config=configs/folder.py:path=/data/flowers"
    )
  if args["path"]:
    path = paths.local(args["path"].removeprefix("folder:"), "path")
    name = f"folder:{path}"
    train, test = folder.choose_splits(path, args["train"], args["test"])
  else:
    name = f"fake:{size}x{size}x3:5:64"
    train, test = args["train"] or "train", args["test"] or "test"

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = args["epochs"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_epochs = 10
  c.eval_epochs = 10

  c.data = dict(
    name=name,
    split=train,
    pp=f"decode|inception_crop({size},area_min=30)|flip_lr|value_range(-1,1)"
    "|keep('image','label')",
    max_corrupt=0,  # How many damaged images may be left out.
  )
  c.model = dict(
    variant="mu" if runlocal else "Ti",
    # Fewer than the 16 patches of 30 pixels, so that each size is cheaper.
    token_learner=dict(layer=0 if runlocal else 6, num_tokens=8),
  )
  # The divisors of 120 that FlexiViT's ten sizes have at 240 pixels.
  values = (30, 24, 20, 15, 12, 10, 8)
  c.flexi = dict(patch_size=dict(values=values[::3] if runlocal else values))
  c.task = dict(
    name="classification",
    loss="softmax_xent",
    label_smoothing=0.1,
    mixup_alpha=0.2,
  )
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=10),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        name=name,
        split=test,
        pp=f"decode|resize_small({size})|central_crop({size})"
        "|value_range(-1,1)|keep('image','label')",
      ),
    )
  )
  return c
