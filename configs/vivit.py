"""The TokenLearner paper's ViViT models, on Kinetics and the like.

    python -m tokenlearner_flexivit.main --workdir=/shared/run --multihost \
      --config=configs/vivit.py:model=L/16-16at18,data=k400,path=/data/k400

Arguments:
  model: of the table.
  data: a dataset of `DATASETS`: k400, k600, charades or avid.
  path: where its videos are, in folders of classes or with a CSV, as
    `video_folder` reads them.
  train, test: the splits to train on and to evaluate on; by default "train",
    and "validation" if it is there, else "test", by any usual name (see
    `data.splits`).
  init: weights of a model for images, a released name or a workdir; by default
    AugReg's of ImageNet-21k at patch size 16, "none" for training from scratch.
    The kernel is resized and goes to the central frame of a tubelet, the
    position embedding to each of them (ViViT, section 3.4). Or those of a model
    for videos, of which all is taken.
  plain: leaves TokenLearner out; so `model=L/16-16at12,plain` is ViViT-L/16.
  runlocal: a two-step check on noise.

Models (arXiv 2106.11297, section 4; tubelets of 2 frames, joint attention
over space and time, TokenLearner v1.0 on each layer of tubelets). "16at12" is
16 tokens of each after block 12; the last has 11 blocks behind L's 24, as the
paper's. GMACs per view are ours (`python -m experiments.cost.run`), with the
reported ones in brackets; accuracies of 4x3 views as reported, in %:

    model        layers  pixels  GMACs per view  K400    K600
    L/16-16at12      24     224     761  (766)
      without it     24     224    1435 (1446)  83.4
    L/16-8at18       24     224    1088
    L/16-16at18      24     224    1098
    L/14-16at18      24     224    1572
    L/10-16at18      35     220    4028         85.4    86.3
    B/16             12     224     451         79.9 *
    B/16-FE       12+12     224     283         78.4 *
    L/16-FE       24+24     224     987         80.3 *  81.6 *

The reported ones are for pre-training on JFT-300M, which is not public. Those
marked * are ViViT's own (README of scenic's vivit) after ImageNet-21k: models
without TokenLearner, FE with the factorised encoder. What the paper reports for
Charades and AViD is another model: see vivit_bottleneck.py.

The recipe is that of ViViT's published configs for Kinetics (scenic,
vivit_base_k400 and vivit_large_factorised_encoder): 32 frames with stride 2,
momentum, 30 epochs of batches of 64, jitter of scale and colour. What had to be
decided:

* That the paper trains as ViViT does. Its code has no config for videos.
* A cls token, as ViViT and the image weights have one. TokenLearner's published
  code averages tokens. It is not in the GMACs, of which it is 0.1 %.
* TokenLearner pools by sums, as its published code does (the paper's formula
  has the average), and computes in bfloat16.
* 220 px for L/10, which 10 divides and 224 not.
* Where "+11" puts TokenLearner: after 18 blocks, as the model's name says.
* Charades and AViD: the recipe of Kinetics-400. Charades has several labels per
  video, hence a sigmoid loss and mean average precision.

ViViT names no hardware and no hours. A clip of L/16 takes 22 GiB in training
with all tokens, 13 GiB with 16 after block 12 (`python -m benchmarks
--suite=memory`, float32 and no `remat`). Not yet run here.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.data.sources.video_folder import (
  source as video_folder,
)

# name: (variant, layers, learned tokens, before block, pixels, layers in time)
MODELS = {
  "L/16-16at12": ("L/16x2", 24, 16, 12, 224, None),
  "L/16-8at18": ("L/16x2", 24, 8, 18, 224, None),
  "L/16-16at18": ("L/16x2", 24, 16, 18, 224, None),
  "L/14-16at18": ("L/14x2", 24, 16, 18, 224, None),
  "L/10-16at18": ("L/10x2", 35, 16, 18, 220, None),
  "B/16": ("B/16x2", 12, None, None, 224, None),
  "B/16-FE": ("B/16x2", 12, None, None, 224, 12),
  "L/16-FE": ("L/16x2", 24, None, None, 224, 24),
}

# name: (loss, evaluator, learning rate)
DATASETS = {
  "k400": ("softmax_xent", "classification", 0.1),
  "k600": ("softmax_xent", "classification", 0.05),
  "charades": ("sigmoid_xent", "multilabel", 0.1),
  "avid": ("softmax_xent", "classification", 0.1),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    model="L/16-16at18",
    data="k400",
    path="",
    train="",
    test="",
    init="",
    plain=False,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  variant, depth, num_tokens, layer, size, temporal_depth = (
    configuration.choose(args["model"], MODELS, "The config's model")
  )
  loss, evaluator, lr = configuration.choose(
    args["data"], DATASETS, "The config's data"
  )
  if not (args["path"] or runlocal):
    raise ValueError(
      "The config's path is missing; say where the videos are, such as"
      f" path=/data/{args['data']}."
    )
  frames = 4 if runlocal else 32
  stride = 1 if runlocal else 2
  crop = 32 if runlocal else size

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 64
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = 30
    c.eval_epochs = 5
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000

  if runlocal:
    name = f"fake:8x40x48x3:{7 if loss == 'softmax_xent' else 5}:16"
    train, test = "train", "validation"
  else:
    name = video_folder.local_name(f"video_folder:{args['path']}")
    train, test = video_folder.choose_splits(name, args["train"], args["test"])
  c.data = dict(
    name=name,
    split=train,
    pp=training_pp(frames, stride, crop),
  )
  c.model = dict(
    name="vivit" if temporal_depth is None else "vivit_factorised",
    variant="mu/16x2" if runlocal else variant,
    depth=2 if runlocal else depth,
    pool="tok",
    scan=not runlocal,
    dtype="float32" if runlocal else "bfloat16",
  )
  if temporal_depth is not None:
    c.model.temporal_depth = 1 if runlocal else temporal_depth
  patch = 16 if runlocal else int(variant.partition("/")[2].partition("x")[0])
  c.model.posemb_grid = (frames // 2, crop // patch, crop // patch)
  if num_tokens and not args["plain"]:
    c.model.token_learner = dict(
      layer=1 if runlocal else layer,
      num_tokens=2 if runlocal else num_tokens,
      version="1.0",
    )
  if not runlocal and args["init"] != "none":
    c.init = args["init"] or f"howto-i21k-{variant[0]}/16"
    # What no model for images has, or not that deep.
    optional = [f"Transformer/encoderblock_{i}/" for i in range(24, depth)]
    if temporal_depth is not None:
      starts = ("", "pos_embedding_", "cls_")
      optional += [f"{start}TemporalTransformer" for start in starts]
    c.init_optional = tuple(optional)
    c.init_inflate = "central_frame"
  c.task = dict(name="classification", loss=loss)
  c.optimizer = dict(
    name="sgd",
    lr=lr,
    momentum=0.9,
    schedule=dict(name="cosine"),
    grad_clip_norm=1.0,
  )
  if runlocal:
    c.optimizer.schedule.warmup_steps = 1
  else:
    c.optimizer.schedule.warmup_epochs = 2.5
  # Each video is decoded once, for all its views: 58 MB on the way to a device.
  c.evals = dict(
    val=dict(
      type=evaluator,
      data=dict(
        name=name,
        split=test,
        pp=evaluation_pp(frames, stride, crop),
        prefetch=1,
      ),
    )
  )
  return c


LAST = "value_range(-1,1,key='video')|keep('video','label')"


def training_pp(num_frames: int, stride: int, size: int) -> str:
  """Returns ViViT's crops and jitter of one random clip of a video."""
  return (
    f"decode_video|temporal_crop({num_frames},{stride})"
    f"|resize_small({size * 8 // 7},key='video')|video_scale_jitter(0.9,1.33)"
    f"|random_crop({size},key='video')|flip_lr(key='video')"
    f"|video_colour_jitter(0.8,0.1)|{LAST}"
  )


def evaluation_pp(num_frames: int, stride: int, size: int) -> str:
  """Returns the preprocessing to four clips of a video, three crops each."""
  return (
    f"decode_video|temporal_views({num_frames},{stride},4)"
    f"|resize_small({size * 8 // 7},key='video')|spatial_views({size},3)|{LAST}"
  )
