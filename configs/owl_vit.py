"""OWL-ViT with a FlexiViT-B on LVIS or COCO.

    python -m tokenlearner_flexivit.main --workdir=/shared/owl \
      --config=configs/owl_vit.py:init=/shared/lit

FlexiViT-B is pre-trained flexibly and fine-tuned at one patch size (arXiv
2212.08013, figures 7 and 8): on LVIS its AP is reported to be no worse than
that of ViTs of one size, and two to three points above B/30 at finer grids. The
recipe is OWL-ViT's (arXiv 2205.06230, Scenic's projects/owl_vit): 140,000 steps
of 256, Adam without weight decay, learning rate 5e-5, 2e-6 for the text tower,
images of 768 pixels, padded; LVIS's rare classes are not seen in training, so
that their AP is that of unknown names. Published for CLIP's towers and more
data (Objects365 and Visual Genome): AP 19.3 and of rare classes 16.9 for B/32,
20.8 and 17.1 for B/16. Not yet run here.

Arguments:
  init: a workdir, a file or a released name (see `interop.fetch`) of images and
    texts, such as a run of configs/lit.py or CLIP, or of images alone: then the
    text tower begins from scratch. "none" is a B from scratch, for a plan.
  vocabulary: that the text tower of `init` was trained with, as in
    configs/captions.py; runs and CLIP's weights tell it themselves.
  data: lvis, or coco/2017.
  patch_size: that it is trained at, 16.
  flexible: draws one of `PATCH_SIZES` per step instead.
  runlocal: a two-step check on a few rendered scenes, untrained.

What had to be decided: mosaics of images, random prompts and the removal of
overlapping instances are left out; the gradient is clipped as a whole, where
Scenic clips that of each example; all names are asked for in every step, and
of LVIS's classes `negatives` drawn ones count as not there, beside those that
are.
"""

import ml_collections

from configs import lit, transfer
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import interop

PATCH_SIZES = (48, 32, 24, 16)  # Of 768 pixels.
_GREY = 127


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    vocabulary="",
    data="lvis",
    patch_size=16,
    flexible=False,
    runlocal=False,
  )
  runlocal, data = args["runlocal"], args["data"]
  if not (args["init"] or runlocal):
    raise ValueError(
      "OWL-ViT begins with trained images and texts: say which, such as "
      "configs/owl_vit.py:init=/shared/lit."
    )
  side, most = (96, 6) if runlocal else (768, 100)
  label = "shape" if runlocal else "label"
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 256
  c.total_steps = 2 if runlocal else 140_000
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = c.eval_steps = 5000
  c.data, c.evals = {}, {}
  c.model = dict(
    text=dict(
      width=32 if runlocal else 512,
      depth=1 if runlocal else 12,
      mlp_dim=64 if runlocal else 2048,
      num_heads=1 if runlocal else 8,
    )
  )
  if args["init"] in ("", "none"):
    c.model.update(variant="mu" if runlocal else "B", posemb_grid=24)
  else:
    start_from(c, args["init"], args["vocabulary"])
  training, evaluation = boxes(
    "rendered_scenes/tiny" if runlocal else data,
    "train",
    "test" if runlocal else "validation",
    side,
    most,
    label,
    flip=not runlocal,
  )
  c.data.update(training)
  size = 24 if runlocal else args["patch_size"]
  values = (24, 16) if runlocal else PATCH_SIZES
  c.flexi = dict(
    patch_size=dict(values=values if args["flexible"] else (size,))
  )
  c.task = dict(name="detection", prompt="a photo of a {}")
  if data.startswith("lvis") and not runlocal:
    c.task.negatives = 50
  c.optimizer = dict(
    name="adam",
    lr=5e-5,
    lr_scales=(("txt/.*", 0.04),),
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 1000),
    grad_clip_norm=1.0,
  )
  c.evals.test = dict(evaluation, patch_sizes=values)
  return c


def boxes(
  data: str,
  train: str,
  test: str,
  side: int,
  most: int,
  label: str = "label",
  *,
  flip: bool = True,
) -> tuple[dict, dict]:
  """Returns the sections of the training data and of an evaluation.

  Args:
    data: name of the dataset.
    train: the split to train on.
    test: the split to evaluate on.
    side: of the images, in pixels, which are padded to squares.
    most: boxes of an image that training sees, the largest ones.
    label: name of the classes of the objects.
    flip: whether images are mirrored.
  """
  moved = "boxes='boxes'"
  mirror = f"|flip_lr({moved})" if flip else ""
  last = "value_range(-1,1)|keep('image'"
  section = dict(
    name=data,
    split=train,
    pp=f"decode|objects({most},{label!r}){mirror}"
    f"|scale_jitter(0.5,2,size={side},{moved})|pad_to({side},{_GREY},{moved})"
    f"|random_crop({side},{moved},min_visible=0.6)|{last},'boxes','box_label')",
    features=("image", "objects"),  # The others take time to parse.
  )
  evaluation = dict(
    type="detection",
    data={
      **section,
      "split": test,
      "pp": f"decode|resize_keep({side})|pad_to({side},{_GREY})"
      f"|{last},'valid')",
    },
    # Of an image of COCO all objects count, those of LVIS are up to 300.
    truth=f"image_size|objects(400,{label!r},details=True)"
    "|keep('size','boxes','box_label'"
    + (",'box_area','box_crowd')" if data.startswith("coco") else ")"),
  )
  return section, evaluation


def start_from(
  c: ml_collections.ConfigDict, source: str, vocabulary: str = ""
) -> None:
  """Sets `init` and the model: the towers of the weights, with new heads.

  Args:
    c: the config, with a model that has `text`.
    source: the weights; see `interop.fetch`.
    vocabulary: that a text tower in them reads, if they do not tell it.

  Raises:
    ValueError: the weights are of a model for videos or of grey images, or
      cannot be read; or nothing tells the vocabulary of their text tower.
  """
  text = c.model.text.to_dict()
  described = interop.describe(source)
  channels = transfer.start_from(c, source, described)
  if channels != 3:
    raise ValueError(
      f"{source} sees images of {channels} channels, this config shows 3."
    )
  if described.model.get("text"):
    text = dict(described.model["text"])
    c.data.vocabulary = lit.vocabulary_of(source, text, vocabulary)
  left_out = ("num_classes", "rep_size", "head_zeroinit", "bias_init")
  c.model = {k: v for k, v in c.model.items() if k not in left_out}
  transfer.read_patches(c)
  c.model.update(name="owl_vit", text=text)
