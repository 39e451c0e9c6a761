"""FlexiViT-B on ImageNet-21k, supervised.

    python -m tokenlearner_flexivit.main --workdir=/shared/run --multihost \
      --config=configs/flexivit_i21k_sup.py:data=folder:/data/imagenet21k

The recipe of big_vision's flexivit/i21k_sup: from scratch, sigmoid loss,
RandAugment, light mixup, at one of ten patch sizes per step.

Arguments: `data=` a TFDS name or `folder:/path` of class folders (TFDS has no
public builder of the full ImageNet-21k with its 21,843 classes), from which
51,200 images are held out; `fixed=PATCH` trains a plain ViT of that patch size
instead, the paper's baselines (16 and 30, 300 epochs), whose kernel and
positions have the size that it uses (those of the released ones are 32x32 and
7x7, and resized in each step, which by their authors makes no difference);
`runlocal` is a two-step check on noise.

Time: not published; big_vision says that it never ran on public
infrastructure. No ImageNet-21k accuracy is published. Of the published
evaluations those on ImageNet-1k by a mapping of labels are not here. Not yet
run here.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import tiling

NUM_CLASSES = 21_843


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg, data="imagenet21k", fixed=0, runlocal=False
  )
  runlocal = args["runlocal"]
  name = f"fake:240x240x3:{NUM_CLASSES}:16" if runlocal else args["data"]
  # The published TFDS builder calls its only split "full".
  split = "full" if name == "imagenet21k" else "train"
  held_out = 8 if runlocal else 51_200

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 4096
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = 90
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000
  c.eval_steps = 5000

  last = "value_range(-1,1)|keep('image','label')"
  c.data = dict(
    name=name,
    split=f"{split}[{held_out}:]",
    pp=f"decode|inception_crop(240)|flip_lr|randaug(2,10)|{last}",
  )
  c.model = dict(
    variant="mu" if runlocal else "B",
    num_classes=NUM_CLASSES,
    pool="tok",
    patch_size=(8, 8),  # As published; the paper's 32x32 makes no difference.
    head_bias_init=-10.0,
    dtype="float32" if runlocal else "bfloat16",
  )
  if fixed := args["fixed"]:
    c.model.patch_size = (fixed, fixed)
    c.model.posemb_grid = tiling.check_patch_size(240, fixed)
  else:
    values = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
    c.flexi = dict(patch_size=dict(values=values[::9] if runlocal else values))
  c.task = dict(name="classification", loss="sigmoid_xent", mixup_alpha=0.2)
  c.optimizer = dict(
    name="scale_by_adam",
    lr=1e-3,
    weight_decay=1e-4,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 10_000),
    grad_clip_norm=1.0,
  )
  pp = f"decode|resize_small(272)|central_crop(240)|{last}"
  half = held_out // 2
  c.evals = {
    part: dict(data=dict(name=name, split=part_split, pp=pp))
    for part, part_split in (
      ("val", f"{split}[{half}:{held_out}]"),
      ("test", f"{split}[:{half}]"),
    )
  }
  return c
