"""Fine-tuning of a pretrained model at one patch size, evaluated at others.

    python -m tokenlearner_flexivit.main --workdir=/tmp/pets \
      --config="configs/transfer.py:init=FlexiViT-B i1k,data=oxford_iiit_pet"

This is FlexiViT's resource-efficient transfer (arXiv 2212.08013, figure 8):
train where tokens are few and steps cheap, then use small patches. On
ImageNet-1k, fine-tuned on a grid of 8x8 patches (30 px, the default here), the
paper is reported to reach 81.8 % there and 85.3 % on 24x24 (10 px), where a
plain ViT-B/30 collapses away from its size. `init=FlexiViT-B i21k 300ep` and
`init=ViT-B/30 i21k`, both with `data=imagenet2012`, are the two. Not yet run
here.

Arguments:
  init: a workdir, an exported folder, a file or a released name (see
    `interop.fetch`). The model, TokenLearner included, is the one described
    there. The head is new and starts at zero.
  data: a TFDS name (prepared where `TFDS_DATA_DIR` says) or `folder:/path`; it
    tells the number of classes.
  train, test: its splits. By default "train", and "validation" if it is there,
    else "test", of those with labels, by any usual name (see `data.splits`);
    of a dataset with neither, a tenth of "train" is held out. For a result to
    report, once the hyperparameters are chosen: `test=test`, and perhaps
    `train=train+validation`.
  size: of the images in pixels; by default that of the weights, if a run, an
    export or a config beside them tells a square one, else 240.
  patch_size: by default that of the weights, if a config of timm or Hugging
    Face beside them tells it; else, and for FlexiViT, the largest that cuts
    images into 8x8 patches or more, 30 at 240 px.
  eval_patch_sizes: such as `30+20+10`; by default all that cut the image into
    5x5 to 30x30 patches, which at 240 px are the ten of FlexiViT.
  layer_decay: such as 0.75: each layer learns so many times as fast as the
    next; by default all alike.
  freeze: `backbone` trains the head alone; or a regular expression of names,
    such as "embedding|Transformer/encoderblock_[0-5]".
  runlocal: a two-step check, on noise without `data` and untrained without
    `init`.

Optimizer, batch size, crops, and for five datasets learning rate and steps are
those of big_vision's configs/transfer.py, found for AugReg's ViT-B/32 at 384 px
(where its crops for CIFAR are others). For all other datasets the learning rate
is its default and 2,500 steps are ours. Its values are for training every
layer alike: with `layer_decay` or `freeze` try larger learning rates.

Images come in [-1, 1], as big_vision's models expect them, and grey where the
weights are of grey images. Where a run's preprocessing, or a config.json beside
the weights, tells that they expect others, `init_mean` and `init_std` say so,
and the patch embedding absorbs the difference. The evaluation resizes images
with the interpolation that such a config tells, at the weights' own size also
with its crop; training crops are resized as in big_vision.
"""

import ml_collections
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import interop, models, paths
from tokenlearner_flexivit.data import splits as split_names
from tokenlearner_flexivit.data.sources import folder
from tokenlearner_flexivit.models import token_learner

# Steps, percentage of them for the warmup, learning rate.
PUBLISHED = {
  "imagenet2012": (20_000, 2.5, 0.03),
  "cifar10": (10_000, 5, 0.003),
  "cifar100": (10_000, 5, 0.01),
  "oxford_iiit_pet": (500, 20, 0.003),
  "oxford_flowers102": (500, 20, 0.003),
}
OTHERS = (2_500, 10, 0.01)
ALL_BUT_THE_HEAD = "(?!head/).*"
# Kinds of folders whose images have no classes, or none as a whole.
WITHOUT_CLASSES = ("images", "mask_folder", "coco", "captions", "video_folder")
# The new head has another task.
HEAD = ("num_classes",)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    data="",
    train="",
    test="",
    size=0,
    patch_size=0,
    eval_patch_sizes="",
    layer_decay=1.0,
    freeze="",
    runlocal=False,
  )
  runlocal = args["runlocal"]
  for key, example in (
    ("init", "FlexiViT-B i21k 300ep"),
    ("data", "oxford_iiit_pet"),
  ):
    if not (args[key] or runlocal):
      raise ValueError(
        f"The config's {key} is missing; give one, such as {key}={example}."
      )
  init = args["init"]
  described = interop.describe(init) if init else None
  size, patch_size = sizes(described, args["size"], args["patch_size"])
  name = args["data"] or f"fake:{size}x{size}x3:5:16"
  if name.startswith("folder:"):
    name = f"folder:{paths.local(name.removeprefix('folder:'), 'data=folder:')}"
  train, test = splits(name, args["train"], args["test"])
  steps, warmup, lr = PUBLISHED.get(name.partition(":")[0], OTHERS)

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 512
  c.total_steps = 2 if runlocal else steps
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000

  last = "value_range(-1,1)|keep('image','label')"
  c.init = init or None
  c.model = dict(variant="mu")
  decode = "decode"
  if c.init:
    channels = start_from(c, c.init, described)
    if channels != 3:
      decode = f"decode({channels})"
    c.init_fresh = ("head/",)  # Also where the classes are as many.
  c.data = dict(
    name=name,
    split=train,
    pp=f"{decode}|inception_crop({size})|flip_lr|{last}",
  )
  c.model.dtype = "float32" if runlocal else "bfloat16"
  c.flexi = dict(patch_size=dict(values=(patch_size,)))
  c.task = dict(name="classification", loss="softmax_xent")
  c.optimizer = dict(
    name="sgd",
    lr=lr,
    momentum=0.9,
    schedule=dict(name="cosine", warmup_percent=warmup),
    grad_clip_norm=1.0,
  )
  if args["layer_decay"] != 1:
    c.optimizer.layer_decay = args["layer_decay"]
  if args["freeze"]:
    backbone = args["freeze"] == "backbone"
    c.optimizer.freeze = ALL_BUT_THE_HEAD if backbone else args["freeze"]

  evaluated = configuration.read_sizes(
    args["eval_patch_sizes"], patch_sizes(size), "eval_patch_sizes"
  )
  if runlocal and not args["eval_patch_sizes"]:
    evaluated = evaluated[:1]
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        name=name,
        split=test,
        pp=f"{decode}|{evaluation_ops(described, size)}|{last}",
      ),
      patch_sizes=tuple(sorted({*evaluated, patch_size}, reverse=True)),
    )
  )
  return c


def sizes(
  described: interop.Description | None, size: int, patch_size: int
) -> tuple[int, int]:
  """Returns the sizes of images and patches, by default those of weights.

  Args:
    described: the weights; None for none.
    size: of images; 0 for the default.
    patch_size: 0 for the default.

  Raises:
    ValueError: the weights' patches do not divide images of this size.
  """
  own_size, own_patch = None, None
  if described is not None:
    own_size, own_patch = described.images.size, described.trained_patch_size
  if own_patch and not own_size:
    own_size = [own_patch * side for side in described.model["posemb_grid"]]
  if not size:
    size = own_size[0] if own_size and len(set(own_size)) == 1 else 240
    if own_patch and not patch_size:
      size -= size % own_patch  # Convolutions leave out what is over, too.
  if patch_size:
    return size, patch_size
  if own_patch is None:
    coarse = [p for p in range(1, size // 8 + 1) if size % p == 0]
    return size, coarse[-1] if coarse else size
  if size % own_patch:
    raise ValueError(
      f"size={size} is no multiple of {own_patch}, the patch size of "
      f"{described.source}. Give another, such as "
      f"size={max(1, size // own_patch) * own_patch}, or patch_size."
    )
  return size, own_patch


def evaluation_ops(described: interop.Description | None, size: int) -> str:
  """Returns the ops that resize and crop the images of an evaluation.

  Args:
    described: the weights; None for none.
    size: of the images.
  """
  larger = size * 7 // 6
  if described is None or described.images.interpolation is None:
    return f"resize_small({larger})|central_crop({size})"
  images = described.images
  if images.size == (size, size):
    return images.ops
  return f"resize_small({larger},{images.method!r})|central_crop({size})"


def start_from(
  c: ml_collections.ConfigDict,
  source: str,
  described: interop.Description | None = None,
) -> int:
  """Sets `init`, the model, and which values its images have.

  Args:
    c: the config.
    source: weights of a model for images; see `interop.fetch`.
    described: by `interop.describe`; None calls it.

  Returns:
    The number of channels of the images.

  Raises:
    ValueError: the weights are of a model for videos, or cannot be read.
  """
  # It logs what it has to guess.
  described = described or interop.describe(source)
  c.init = source
  c.model = {k: v for k, v in described.image_model.items() if k not in HEAD}
  if models.MODELS[c.model.get("name") or "vit"].input != "image":
    raise ValueError(
      f"{source} is a model for videos; this config takes models for images."
    )
  if c.model.get("pool") == "tok_dist":
    c.model.pool = "tok"  # One new head, for both of DeiT's.
  mean, std = described.input_mean, described.input_std
  if mean and {*mean, *std} != {0.5}:
    c.init_mean, c.init_std = mean, std
  return described.channels


def read_patches(c: ml_collections.ConfigDict) -> None:
  """Sets pooling and norm of a tower of which every patch is read.

  Args:
    c: the config, after `start_from`.
  """
  if c.model.get("pool") == "map":  # Its head pools, the tower has no token.
    c.model.pool = "gap"
  elif c.model.get("pool") == "tok_gap":
    c.model.pool = "tok"
  if c.model.get("norm") == "after_pool":
    # Theirs is for the mean of the patches, and each needs one.
    c.model.norm = "before_pool"
    c.init_fresh = ("Transformer/encoder_norm/",)


def learn_tokens(
  c: ml_collections.ConfigDict, layer: int, num_tokens: int
) -> None:
  """Sets a TokenLearner, which begins anew if the weights have another one.

  Args:
    c: the config, after `start_from` if it has weights to start from.
    layer: index of the first block that sees learned tokens.
    num_tokens: how many are learned.
  """
  own = c.model.get("token_learner")
  c.model.token_learner = dict(layer=layer, num_tokens=num_tokens)
  if own is None:
    return
  theirs, ours = (
    token_learner.TokenLearnerConfig.from_dict({**section, "layer": 0})
    for section in (own, c.model.token_learner)
  )
  if theirs != ours:
    # TokenFusers of theirs, too.
    c.init_fresh = (*c.get("init_fresh", ()), "Transformer/Token")


def patch_sizes(size: int) -> list[int]:
  """Returns those that cut images as coarsely to finely as FlexiViT's do."""
  return [
    p for p in range(size, 0, -1) if size % p == 0 and 5 <= size // p <= 30
  ]


def splits(name: str, train: str, test: str) -> tuple[str, str]:
  """Returns the splits to train on and to evaluate on.

  Args:
    name: of the dataset.
    train: as sizes, or "".
    test: as sizes, or "".

  Raises:
    ValueError: no such dataset or split, or none to evaluate on.
  """
  kind, _, path = name.partition(":")
  if kind == "folder":
    return folder.choose_splits(path, train, test)
  if kind == "fake":
    return train or "train", test or "validation"
  if kind in WITHOUT_CLASSES:
    raise ValueError(
      f"The config's data={name} tells no class of a whole image. Give a "
      "dataset of TFDS by its name, or folder:/path with a folder for each "
      "class."
    )
  import tensorflow_datasets as tfds  # It takes a while.

  # Opened for its errors, and because some datasets prepare themselves.
  data_lib.open_source(dict(name=name, split="all"))
  return split_names.choose(
    list(tfds.builder(name).info.splits),
    name,
    train,
    test,
    # Labels that are kept secret, as those of ImageNet's test images, are -1.
    has_labels=lambda split: _has_labels(name, split),
  )


def _has_labels(name: str, split: str) -> bool:
  example = data_lib.open_source(dict(name=name, split=split))[0]
  return not np.any(np.asarray(example.get("label", 0)) == -1)
