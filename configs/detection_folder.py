"""Your own images and boxes: things found by their names, at any patch size.

    python -m tokenlearner_flexivit.main --workdir=/tmp/mine \
      --config="configs/detection_folder.py:path=/data/dogs,init=FlexiViT-S i1k"
    python -m tokenlearner_flexivit.predict photo.jpg --workdir=/tmp/mine \
      --output=/tmp/found

`/data/dogs` is an export in COCO's form, as CVAT, Roboflow and Label Studio
write it, or COCO's own folders. Its splits are used; without them a tenth of
the images, fixed by their names, is held out. A few hundred images and weights
to start from are needed for boxes that fit.

Arguments:
  path: the folder; `~` is the home folder.
  train, test: the splits to train on and to evaluate on, if not those above.
  init: weights for images to start from, such as "FlexiViT-S i1k", a file or a
    workdir (see `interop.fetch`); of images and texts, such as CLIP's, both
    towers. Without it a ViT-Ti from scratch, which needs many images.
  vocabulary: that the text tower of `init` was trained with, clip or
    sentencepiece:/path/to.model; runs and CLIP's weights tell it themselves.
  size: side in pixels that images are fitted into, a multiple of 240; 480.
  most: boxes of an image that training sees, the largest ones; 50.
  epochs: 100.
  flip: mirrors images at random; `flip=False` where left and right matter.
  runlocal: a two-step check, on rendered scenes without `path`.
"""

import ml_collections

from configs import owl_vit
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.sources.coco import source as coco


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    path="",
    train="",
    test="",
    init="",
    vocabulary="",
    size=480,
    most=50,
    epochs=100,
    flip=True,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where images and boxes are: "
      "--config=configs/detection_folder.py:path=/data/dogs"
    )
  label = "label"
  if args["path"]:
    path = paths.local(args["path"].removeprefix(coco.PREFIX), "path")
    data = f"{coco.PREFIX}{path}"
    train, test = coco.choose_splits(path, args["train"], args["test"])
  else:
    data, label = "rendered_scenes/tiny", "shape"
    train, test = args["train"] or "train", args["test"] or "test"
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 16
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = args["epochs"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_epochs = c.eval_epochs = 10
  c.data = {}
  c.model = dict(
    variant="mu" if runlocal else "Ti",
    text=dict(width=64, depth=2, mlp_dim=256, num_heads=2),
  )
  if args["init"]:
    owl_vit.start_from(c, args["init"], args["vocabulary"])
  training, evaluation = owl_vit.boxes(
    data,
    train,
    test,
    120 if runlocal else args["size"],
    6 if runlocal else args["most"],
    label,
    flip=args["flip"] and not runlocal,
  )
  c.data.update(training)
  values = (40, 30, 24, 20, 16, 15, 12)
  c.flexi = dict(patch_size=dict(values=(40, 20) if runlocal else values))
  c.task = dict(name="detection")
  c.optimizer = dict(
    name="adamw",
    lr=1e-4 if args["init"] else 1e-3,
    lr_scales=((".*_head/.*", 5.0),) if args["init"] else None,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=10),
    grad_clip_norm=1.0,
  )
  c.evals = dict(test=evaluation)
  return c
