"""The TokenLearner paper's image models: pre-training, then fine-tuning.

    python -m tokenlearner_flexivit.main --workdir=/shared/pretrained \
      --multihost \
      --config=configs/tokenlearner_paper.py:model=B/16,data=folder:/data/i21k
    python -m tokenlearner_flexivit.main --workdir=/shared/finetuned \
      --multihost \
      --config=configs/tokenlearner_paper.py:model=B/16,init=/shared/pretrained

Without `init` the model is pre-trained on `data` (a TFDS name or
`folder:/path`) at 224 px; with it, fine-tuned on ImageNet-1k at 384 px (S and
B) or 512 px (L), where the position embedding is resized and the head is new.
`plain` leaves TokenLearner out, for the ViT of as many layers; `runlocal` is a
two-step check on noise, of either stage.

Models (arXiv 2106.11297, section 4; TokenLearner is v1.0 with sum pooling, the
module that the published code says the paper used; `layers` beyond 12 or 24
are the paper's additional ones, cheap since they see 8 or 16 tokens):

    model        layers  tokens  before block  size  top-1 on ImageNet-1k
    S/32             12       8             6   384
    S/32-22          22       8            11   384
    B/32-20          20       8            10   384
    B/16             12       8             6   384  83.65  (ViT-B/16: 84.73)
    B/16-21          21       8            10   384  85.21
    B/16-21-16tl     21      16            10   384  85.45
    L/16             24      16            12   512  87.68  (ViT-L/16: 87.35)
    L/16-18          24      16            18   512
    L/16-35          35      16            18   512
    L/10-35          35      16            18   510
    L/8-35           35      16            18   512  88.87  (ReaL 91.05)

The accuracies are reported for pre-training on JFT-300M, which is not public;
with other data they are not to be expected. Where the paper puts TokenLearner
in L/10 and L/8 we could not find out: 18 is that of its L/16 with 35 layers.
510 px give L/10 the 51 x 51 patches that 512 px have room for.

Pre-training is big_vision's public recipe for ViT (configs/vit_i21k.py, with
its augmentation for each size), since the paper is only known to train as
ViT does; fine-tuning is ViT's (vision_transformer, configs/common.py, 20,000
steps).
Hardware and time are not published. Not yet run here.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration

# name: (variant, layers, learned tokens, before block, fine-tuning size)
MODELS = {
  "S/32": ("S/32", 12, 8, 6, 384),
  "S/32-22": ("S/32", 22, 8, 11, 384),
  "B/32-20": ("B/32", 20, 8, 10, 384),
  "B/16": ("B/16", 12, 8, 6, 384),
  "B/16-21": ("B/16", 21, 8, 10, 384),
  "B/16-21-16tl": ("B/16", 21, 16, 10, 384),
  "L/16": ("L/16", 24, 16, 12, 512),
  "L/16-18": ("L/16", 24, 16, 18, 512),
  "L/16-35": ("L/16", 35, 16, 18, 512),
  "L/10-35": ("L/10", 35, 16, 18, 510),
  "L/8-35": ("L/8", 35, 16, 18, 512),
}


# Size: RandAugment and mixup in pre-training.
AUGMENTATION = {
  "S": ("", 0.0),
  "B": ("randaug(2,10)|", 0.2),
  "L": ("randaug(2,15)|", 0.5),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    model="B/16",
    data="",
    init="",
    plain=False,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  if args["init"] and args["data"]:
    raise ValueError(
      f"The config's data={args['data']} is for the pre-training; with init it "
      "fine-tunes on imagenet2012. Give one of both, or fine-tune on other "
      "data by configs/transfer.py."
    )
  variant, depth, num_tokens, layer, size = configuration.choose(
    args["model"], MODELS, "The config's model"
  )
  patch = int(variant.partition("/")[2])
  if not args["init"]:
    size = 224 // patch * patch

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000
  c.model = dict(
    variant=f"mu/{patch}" if runlocal else variant,
    depth=2 if runlocal else depth,
    posemb_grid=(size // patch,) * 2,
    pool="gap",
    dtype="float32" if runlocal else "bfloat16",
  )
  if not args["plain"]:
    c.model.token_learner = dict(
      layer=1 if runlocal else layer,
      num_tokens=num_tokens,
      version="1.0",
      pooling="sum",
    )
  last = "value_range(-1,1)|keep('image','label')"
  if args["init"]:
    _finetune(c, args["init"], size, last, runlocal)
  else:
    _pretrain(
      c,
      args["data"] or "imagenet21k",
      size,
      last,
      AUGMENTATION[variant[0]],
      runlocal,
    )
  return c


def _pretrain(c, data, size, last, augmentation, runlocal):
  """ViT's public recipe for ImageNet-21k."""
  randaug, mixup_alpha = augmentation
  num_classes = 21_843
  name = f"fake:{size}x{size}x3:{num_classes}:16" if runlocal else data
  # The published TFDS builder calls its only split "full".
  split = "full" if name == "imagenet21k" else "train"
  held_out = 8 if runlocal else 51_200
  c.batch_size = 8 if runlocal else 4096
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = 300
  c.eval_steps = 5000
  c.data = dict(
    name=name,
    split=f"{split}[{held_out}:]",
    pp=f"decode|inception_crop({size})|flip_lr|{randaug}{last}",
  )
  c.model.num_classes = num_classes
  c.model.head_bias_init = -10.0
  c.task = dict(
    name="classification", loss="sigmoid_xent", mixup_alpha=mixup_alpha
  )
  c.optimizer = dict(
    name="scale_by_adam",
    lr=1e-3,
    weight_decay=1e-4,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 10_000),
    grad_clip_norm=1.0,
  )
  pp = f"decode|resize_small({size * 8 // 7})|central_crop({size})|{last}"
  c.evals = dict(
    val=dict(data=dict(name=name, split=f"{split}[:{held_out}]", pp=pp))
  )


def _finetune(c, init, size, last, runlocal):
  """ViT's fine-tuning on ImageNet-1k."""
  name = f"fake:{size}x{size}x3:1000:16" if runlocal else "imagenet2012"
  c.init = init
  c.batch_size = 8 if runlocal else 512
  c.total_steps = 2 if runlocal else 20_000
  c.eval_steps = 1000
  c.data = dict(
    name=name,
    split="train[:99%]",
    pp=f"decode|inception_crop({size})|flip_lr|{last}",
  )
  c.task = dict(name="classification", loss="softmax_xent")
  c.optimizer = dict(
    name="sgd",
    lr=0.03,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 500),
    grad_clip_norm=1.0,
  )
  pp = f"decode|resize_small({size * 7 // 6})|central_crop({size})|{last}"
  c.evals = dict(val=dict(data=dict(name=name, split="validation", pp=pp)))
  if not runlocal:  # Held out of the training split, to choose by.
    c.evals.minival = dict(data=dict(name=name, split="train[99%:]", pp=pp))
