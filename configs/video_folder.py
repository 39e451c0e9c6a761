"""Your own videos in class folders: a small ViViT with TokenLearner.

    python -m tokenlearner_flexivit.main --workdir=/tmp/mine \
      --config=configs/video_folder.py:path=/data/clips

`/data/clips/jump/1.mp4` is a video of class "jump". With `train` and `val` or
`test` below the path, as folders or CSV files and by any usual name (see
`data.splits`), these are the splits: `val` is evaluated if it is there, else
`test`. Without them a tenth of the videos, fixed by their names, is held out,
of each class in proportion, rounded up or down, and all clips of one file are
on the same side (see `data.sources.video_folder.listing`). A dozen videos are
enough to try it.

Arguments:
  path: the folder; `~` is the home folder. Frames are stored once, 25 a second
    of 256 pixels, or as in path=/data/clips?fps=12.5&size=128 (see
    `data.sources.video_folder`).
  train, test: the splits to train on and to evaluate on, such as `test=test` or
    `train=train+val,test=test`, if not those above.
  frames, stride: of a clip; 16 and 2.
  size: of its frames in pixels, a multiple of 112, which all the patch sizes
    divide.
  tokens: how many are learned of each layer of tubelets; 8.
  several: for videos that may have several classes, joined by ";" in the CSV.
  init: weights to start from, of a model for images or videos, such as
    init=howto-i21k-Ti/16 or a run of configs/folder.py; the model then has
    their size. Without it, from scratch, which takes many videos.
  epochs: 50.
  runlocal: a two-step check, on noise without `path`.
"""

import ml_collections

from configs import transfer
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.data.sources.video_folder import (
  listing as video_listing,
)
from tokenlearner_flexivit.data.sources.video_folder import (
  source as video_folder,
)
from tokenlearner_flexivit.models import hyperparameters

# What models for images and for videos have alike.
_SHARED = ("width", "depth", "mlp_dim", "num_heads", "pool", "norm_eps", "gelu")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    path="",
    train="",
    test="",
    frames=16,
    stride=2,
    size=112,
    tokens=8,
    several=False,
    init="",
    epochs=50,
    runlocal=False,
  )
  runlocal, size, several = args["runlocal"], args["size"], args["several"]
  frames, stride = (4, 1) if runlocal else (args["frames"], args["stride"])
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where the videos are:"
      " --config=configs/video_folder.py:path=/data/clips"
    )
  if frames < 2 or frames % 2 or size < 112 or size % 112:
    raise ValueError(
      f"frames={frames} must be even, since a tubelet has two, and size={size} "
      "a multiple of 112, which all the patch sizes divide."
    )
  if args["path"]:
    name = video_folder.local_name(f"video_folder:{args['path']}")
    train, test = video_folder.choose_splits(name, args["train"], args["test"])
    _check_several(name, several)
  else:
    name = f"fake:8x{size}x{size}x3:5:16"
    train, test = args["train"] or "train", args["test"] or "test"

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 32
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = args["epochs"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_epochs = 5
  c.eval_epochs = 5

  # No flips: left and right may be what tells the classes apart.
  last = "value_range(-1,1,key='video')|keep('video','label')"
  c.data = dict(
    name=name,
    split=train,
    pp=f"decode_video|temporal_crop({frames},{stride})"
    f"|resize_small({size * 8 // 7},key='video')|video_scale_jitter(0.9,1.33)"
    f"|random_crop({size},key='video')|video_colour_jitter(0.8,0.1)|{last}",
  )
  c.model = dict(
    name="vivit",
    variant="mu/16x2" if runlocal else "Ti/16x2",
    posemb_grid=(frames // 2, size // 16, size // 16),
    pool="tok",
    token_learner=dict(layer=0 if runlocal else 6, num_tokens=args["tokens"]),
  )
  c.flexi = dict(patch_size=dict(values=(28, 16) if runlocal else (28, 16, 14)))
  c.init = args["init"] or None
  if c.init:
    _resemble(c)
  c.init_inflate = "central_frame"  # Or "average": a kernel for images.
  c.task = dict(
    name="classification",
    loss="sigmoid_xent" if several else "softmax_xent",
    label_smoothing=0.0 if several else 0.1,
  )
  c.optimizer = dict(
    name="adamw",
    lr=1e-4 if args["init"] else 1e-3,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=10),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="multilabel" if several else "classification",
      data=dict(
        name=name,
        split=test,
        pp=f"decode_video|temporal_views({frames},{stride},4)"
        f"|resize_small({size * 8 // 7},key='video')|spatial_views({size},1)"
        f"|{last}",
        prefetch=2,
      ),
    )
  )
  return c


def _resemble(c: ml_collections.ConfigDict) -> None:
  """Gives the model the size and pooling of the weights that it starts from."""
  weights = models.create(**interop.describe(c.init).image_model)
  ours = models.create(**c.model.to_dict())
  for name in _SHARED:
    value = getattr(weights, name, None)
    if name == "pool" and value not in hyperparameters.POOLS:
      value = "tok"  # Models for images have more.
    if value not in (None, getattr(ours, name)):
      c.model[name] = value
  learned = c.model.token_learner
  layer = c.model.depth // 2 if "depth" in c.model else learned.layer
  c.model.token_learner = weights.token_learner and dict(weights.token_learner)
  transfer.learn_tokens(c, layer, learned.num_tokens)


def _check_several(name: str, several: bool) -> None:
  """Raises ValueError if videos have several classes and the loss is for one.

  Args:
    name: of the dataset; if its folder is not there, opening it says so.
    several: whether the loss is for several classes per video.
  """
  if several or not video_folder.folder_exists(name):
    return
  path, *_ = video_folder.parse_name(name)
  if video_listing.list_videos(path).has_several:
    raise ValueError(
      f"Videos in {path} have several classes, joined by ';', and the loss is "
      "for one per video. Add several to the config's argument: "
      f"path={name.removeprefix('video_folder:')},several."
    )
