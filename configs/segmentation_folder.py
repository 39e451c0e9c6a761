"""Your own images and masks: a small Segmenter for all patch sizes.

    python -m tokenlearner_flexivit.main --workdir=/tmp/mine \
      --config=configs/segmentation_folder.py:path=/data/fields

`/data/fields/images/1.jpg` belongs to `/data/fields/masks/1.png`, whose pixels
are the numbers of classes, and 255 where there is none. Names of the classes
are read from `classes.txt`, one per line. Folders `train` and `val` or `test`
are the splits; without them a tenth of the images, fixed by their names, is
held out. Other layouts (ADE20k's, Cityscapes', VOC's, exports of CVAT): see the
README, "Masks and boxes". A few dozen images are enough to try it.

Arguments:
  path: the folder; `~` is the home folder.
  train, test: the splits to train on and to evaluate on, such as `test=test` or
    `train=train+val,test=test`, if not those above.
  init: weights for images to start from, such as "FlexiViT-S i1k", a file or a
    workdir (see `interop.fetch`); without it a ViT-Ti from scratch, which needs
    many images.
  size: side in pixels that images are fitted into, a multiple of 120; 240.
  epochs: 100.
  flip: mirrors images at random; `flip=False` where left and right matter.
  runlocal: a two-step check, on noise without `path`.
"""

import ml_collections

from configs import segmenter
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.sources.mask_folder import source as mask_folder

_GREY = 127


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    path="",
    train="",
    test="",
    init="",
    size=240,
    epochs=100,
    flip=True,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  size = 60 if runlocal else args["size"]
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where images and masks are: "
      "--config=configs/segmentation_folder.py:path=/data/fields"
    )
  if args["path"]:
    path = paths.local(args["path"].removeprefix("mask_folder:"), "path")
    name = f"mask_folder:{path}"
    train, test = mask_folder.choose_splits(path, args["train"], args["test"])
  else:
    name = "fake:60x60x3:5:16:dense"
    train, test = args["train"] or "train", args["test"] or "test"

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 16
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = args["epochs"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_epochs = 10
  c.eval_epochs = 10

  flip = "|flip_lr(masks='semantic')" if args["flip"] else ""
  last = "value_range(-1,1)|keep('image','semantic'"
  c.data = dict(
    name=name,
    split=train,
    pp=f"decode(masks='semantic')|scale_jitter(0.5,2,size={size}"
    f",masks='semantic')|pad_to({size},{_GREY},masks='semantic')"
    f"|random_crop({size},cat_max_ratio=0.95,masks='semantic'){flip}"
    f"|photometric_distortion|{last})",
  )
  c.model = dict(variant="mu" if runlocal else "Ti")
  if args["init"]:
    segmenter.start_from(c, args["init"])
  c.model.decoder = "linear"
  values = (30, 24, 20, 15, 12, 10, 8)
  c.flexi = dict(patch_size=dict(values=(30, 15) if runlocal else values))
  c.task = dict(name="segmentation")
  c.optimizer = dict(
    name="adamw",
    lr=1e-4 if args["init"] else 1e-3,
    weight_decay=0.05,
    schedule=dict(name="polynomial", warmup_percent=10),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="segmentation",
      data=dict(
        name=name,
        split=test,
        pp=f"decode(masks='semantic')|resize_keep({size},masks='semantic')"
        f"|pad_to({size},{_GREY},masks='semantic')|{last},'valid')",
      ),
    )
  )
  return c
