"""Segmenter with a FlexiViT-B on ADE20k or Cityscapes.

    python -m tokenlearner_flexivit.main --workdir=/shared/ade20k \
      --config=configs/segmenter.py:data=ade20k,path=/data/ADEChallengeData2016

FlexiViT-B is pre-trained flexibly and fine-tuned at one patch size (arXiv
2212.08013, figure 7). On Cityscapes the paper is reported to have /16 and /30
as good as ViTs of these sizes, within 0.2 to 0.4 points of mIoU; its recipe is
not published. This one is Segmenter's (arXiv 2105.05633, its train.py and
config.yml). Segmenter's own mIoU on ADE20k, at one scale, in %: S/16 with the
mask transformer 45.3, B/16 with it 48.5, B/8 with the linear decoder 49.5;
on Cityscapes L/16 with the mask transformer 79.1. Not yet run here.

Arguments:
  data: ade20k, in the layout of ADEChallengeData2016 (150 classes; 0 is none),
    or cityscapes, with the labelIds of gtFine (19 classes).
  path: its folder, as `mask_folder` reads it.
  init: a workdir, a file or a released name (see `interop.fetch`), whose head
    is left out; "none" trains from scratch.
  patch_size: that it is fine-tuned at, 16.
  flexible: draws one of `PATCH_SIZES` per step instead, for one model of all.
  decoder: linear, as FlexiViT is reported to use, or mask.
  runlocal: a two-step check on noise, untrained.

What had to be decided: evaluation scales the smaller side to 512 in
Segmenter's ADE20k; here an image is fitted into 768x768, so that all have one
shape (of an image of 3:2 the smaller side is then 512). Cityscapes is evaluated
at its own size. Both slide windows with the size of the training's crops and
count at the masks' own size. The padding of crops is grey, the mean.
"""

import dataclasses

import ml_collections

from configs import transfer
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import interop, models, paths

PATCH_SIZES = (32, 24, 16, 12, 8)
# Side of crops and windows, stride, smaller side of images before the jitter,
# learning rate, epochs, op for the labels, (height, width) that evaluated
# images are fitted into, and how their masks become arrays of one shape.
DATA = {
  "ade20k": dict(
    crop=512,
    stride=512,
    small=512,
    lr=1e-3,
    epochs=64,
    labels="ignore(reduce_zero=True)",
    fit=(768, 768),
    truth="|pad_to(2048,255,key='semantic')|keep('semantic','valid')",
  ),
  "cityscapes": dict(
    crop=768,
    stride=512,
    small=1024,
    lr=1e-2,
    epochs=216,
    labels="map_labels('cityscapes')",
    fit=(1024, 2048),
    truth="|keep('semantic')",
  ),
}
_GREY = 127
# What a tower has for its own head, and what says that it is a classifier.
_HEAD = ("name", "num_classes", "rep_size", "head_zeroinit", "head_bias_init")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    data="ade20k",
    path="",
    init="FlexiViT-B i21k 300ep",
    patch_size=16,
    flexible=False,
    decoder="linear",
    runlocal=False,
  )
  runlocal = args["runlocal"]
  recipe = configuration.choose(args["data"], DATA, "data")
  if not (args["path"] or runlocal):
    raise ValueError(
      "Say where the data are: --config=configs/segmenter.py:data=cityscapes,"
      "path=/data/cityscapes"
    )
  if runlocal:
    name, labels = "fake:48x48x3:5:16:dense", ""
    crop, fit, truth, window, stride = 24, 48, "|keep('semantic')", 24, 24
  else:
    name = f"mask_folder:{paths.local(args['path'], 'path')}"
    labels = f"|{recipe['labels']}"
    crop = window = recipe["crop"]
    stride, fit, truth = (recipe[key] for key in ("stride", "fit", "truth"))
  small = crop if runlocal else recipe["small"]

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = recipe["epochs"]
    c.eval_epochs = recipe["epochs"] // 4
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000

  # These images are stored as people see them.
  decode = f"decode(exif=False,masks='semantic'){labels}"
  c.data = dict(
    name=name,
    split="train",
    pp=f"{decode}|scale_jitter(0.5,2,size={small},masks='semantic')"
    f"|pad_to({crop},{_GREY},masks='semantic')"
    f"|random_crop({crop},cat_max_ratio=0.75,masks='semantic')"
    "|flip_lr(masks='semantic')|photometric_distortion"
    "|value_range(-1,1)|keep('image','semantic')",
  )
  c.model = dict(variant="mu")
  if args["init"] not in ("", "none") and not runlocal:
    start_from(c, args["init"])
  elif not runlocal:
    c.model = dict(variant="B", pool="tok")
  c.model.update(
    decoder=args["decoder"],
    stochastic_depth=0.1,
    dtype="float32" if runlocal else "bfloat16",
  )
  patch_size = 8 if runlocal else args["patch_size"]
  values = PATCH_SIZES if args["flexible"] else (patch_size,)
  c.flexi = dict(patch_size=dict(values=values))
  c.task = dict(name="segmentation")
  lr = recipe["lr"]
  c.optimizer = dict(
    name="sgd",
    lr=lr,
    momentum=0.9,
    schedule=dict(name="polynomial", power=0.9, end=1e-5 / lr),
  )
  c.evals = dict(
    val=dict(
      type="segmentation",
      data=dict(
        name=name,
        split="validation",
        pp=f"decode(exif=False)|resize_keep({fit})|pad_to({fit},{_GREY})"
        "|value_range(-1,1)|keep('image','valid')",
      ),
      truth=f"decode_ids(key='semantic'){labels}{truth}",
      window=window,
      stride=stride,
      patch_sizes=tuple(sorted({patch_size, *PATCH_SIZES}, reverse=True))
      if not runlocal
      else (8, 6),
    )
  )
  return c


def start_from(
  c: ml_collections.ConfigDict, source: str
) -> interop.Description:
  """Sets `init` and the model: the image tower of these weights.

  Returns:
    What the weights tell of themselves.

  Raises:
    ValueError: the weights are of a model for videos or of grey images, or
      cannot be read.
  """
  described = interop.describe(source)
  channels = transfer.start_from(c, source, described)
  if channels != 3:
    raise ValueError(
      f"{source} sees images of {channels} channels, this config shows 3."
    )
  fields = {field.name for field in dataclasses.fields(models.ViT)}
  known = {"variant", *fields}.difference(_HEAD)
  c.model = {k: v for k, v in c.model.items() if k in known}
  transfer.read_patches(c)
  return described
