r"""A public backbone at all patch sizes, learned from itself, without labels.

    python -m tokenlearner_flexivit.main --workdir=/tmp/dino \
      --config=configs/flexify.py:init=hf://facebook/dinov2-small,data=folder:/photos

The model starts as the weights of `init`, and learns to represent an image at
every patch size as these do at their own: the task `feature_distillation`. Its
own patch size stays in training. With `tokens=16` it learns so many tokens
(TokenLearner, arXiv 2106.11297) after its middle block, too; the number is then
a second dial. The paper makes plain ViTs flexible with labels (FlexiViT, arXiv
2212.08013, section 3.4 and the recipe of flexivit_i1k_distill, whose optimizer
this has); here the teacher is the model itself. Not yet run on public weights.

The report shows before (PI-resize alone) and after: the cosine of the features
to the teacher's and, for images in class folders or a labelled dataset, the
accuracy of nearest neighbours. The run is used as any other, such as by
`Predictor.load("/tmp/dino")` and `configs/transfer.py:init=/tmp/dino`.

Arguments:
  init: weights with a description; see `interop.fetch`. A head is left out.
    Where nothing beside them tells mean and std of their images, give these as
    `--config.init_mean`, `--config.init_std`, and to the teacher as
    `--config.task.teachers.itself.input_mean` and `...input_std`.
  data: `folder:/path`, all images below it, in class folders or not; or a TFDS
    name. A few thousand images of the kind that the model is for are better
    than none of them.
  tokens: of TokenLearner; by default none.
  size: pixels, a multiple of the patch size of the weights. By default the one
    of at most 256 pixels that most patch sizes divide: 240 for 16, 252 for 14.
  patch_sizes: such as `28+14+7`; by default all that cut the image into 5x5 to
    30x30 patches.
  steps: of 256 images; 5,000.
  runlocal: a two-step check, on noise without `data` and untrained without
    `init`.
"""

import warnings

import ml_collections

from configs import transfer
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import interop, models, paths, terminal
from tokenlearner_flexivit.data.sources import folder

LARGEST = 256  # Pixels of a side, unless `size` says more.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    data="",
    tokens=0,
    size=0,
    patch_sizes="",
    steps=5000,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  for key, example in (
    ("init", "hf://facebook/dinov2-small"),
    ("data", "folder:/photos"),
  ):
    if not (args[key] or runlocal):
      raise ValueError(
        f"The config's {key} is missing; give one, such as {key}={example}."
      )

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 256
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000
  c.eval_first = True

  c.init = args["init"] or None
  c.model = dict(variant="mu/16")
  channels, teacher = 3, dict(model=dict(variant="mu/16"))
  described = interop.describe(c.init) if c.init else None
  if described:
    channels = transfer.start_from(c, c.init, described)
    if described.image_model.get("pool") == "tok_dist":
      c.model.pool = "tok_dist"  # No head is new: both tokens stay in use.
    teacher = dict(init=c.init)
    if "init_mean" in c:  # The teacher sees the same images.
      teacher |= dict(input_mean=c.init_mean, input_std=c.init_std)
  model = models.create(**c.model)
  own, depth = model.patch_size, model.depth
  size = args["size"] or default_size(own)
  if any(size % side for side in own):
    raise ValueError(
      f"The config's size={size} is no multiple of the patch size of "
      f"{c.init}, {'x'.join(map(str, own))}, at which the teacher sees it. "
      f"Give one that is, such as size={default_size(own)}."
    )
  known = transfer.patch_sizes(size)
  sizes = configuration.read_sizes(args["patch_sizes"], known)
  if own[0] == own[1]:
    sizes = sorted({*sizes, own[0]}, reverse=True)
  c.flexi = dict(patch_size=dict(values=sizes[:: 9 if runlocal else 1]))
  if args["tokens"]:
    transfer.learn_tokens(c, depth // 2, args["tokens"])
    c.flexi.num_tokens = dict(values=(args["tokens"], None))
    if c.init:
      c.init_optional = ("Transformer/TokenLearner",)
  c.model.dtype = "float32" if runlocal else "bfloat16"

  name = args["data"] or f"fake:{size}x{size}x3:5:64"
  name, train, test, is_labelled = _data(name)
  decode = "decode" if channels == 3 else f"decode({channels})"
  last = "value_range(-1,1)|keep('image')"
  seen = f"{decode}|{transfer.evaluation_ops(described, size)}|{last}"
  c.data = dict(
    name=name,
    split=train,
    pp=f"{decode}|inception_crop({size})|flip_lr|{last}",
  )
  c.task = dict(
    name="feature_distillation",
    teachers=dict(itself=teacher | dict(patch_size=own)),
  )
  c.optimizer = dict(
    name="scale_by_adam",
    lr=1e-4,
    weight_decay=1e-5,
    schedule=dict(name="cosine", warmup_percent=5),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    held_out=dict(type="similarity", data=dict(name=name, split=test, pp=seen))
  )
  if is_labelled:
    c.evals.neighbours = dict(
      type="knn",
      data=dict(name=name, pp=seen),
      train_split=train,
      test_split=test,
    )
  return c


def default_size(own: tuple[int, int]) -> int:
  """Returns the multiple of a patch size that most patch sizes divide."""
  step = max(own)
  multiples = range(step, max(LARGEST, 5 * step) + 1, step)
  return max(multiples, key=lambda n: (len(transfer.patch_sizes(n)), n))


def _data(name: str) -> tuple[str, str, str, bool]:
  """Returns the dataset, two of its splits, and whether it has classes.

  Images in a folder that has no class folders are read without labels.
  """
  kind, _, path = name.partition(":")
  if kind == "folder":
    path = paths.local(path, "data=folder:")
    if not path.is_dir():  # Opening it says so.
      return f"images:{path}", "train[:95%]", "train[95%:]", False
    try:
      train, test = folder.choose_splits(path)
      name = f"folder:{path}"
      with warnings.catch_warnings(action="ignore"):  # Of a single class.
        source = data_lib.open_source(dict(name=name, split=train))
    except ValueError as error:
      terminal.say(f"{path} is read as images without classes: {error}")
      source = None
    if source is None or source.num_classes < 2:
      return f"images:{path}", "train[:95%]", "train[95%:]", False
    return name, train, test, True
  if kind == "images":
    return name, "train[:95%]", "train[95%:]", False
  if kind in transfer.WITHOUT_CLASSES:
    raise ValueError(
      f"The config's data={name} is read for more than its photos. Give the "
      "folder of these as images:/path, which is all images below it, or "
      "folder:/path, or a dataset of TFDS by its name."
    )
  train, test = transfer.splits(name, "", "")
  source = data_lib.open_source(dict(name=name, split=train))
  return name, train, test, (source.num_classes or 0) > 1
