"""Stage I of UViM on COCO panoptic: a short code of the labels.

    python -m tokenlearner_flexivit.main --workdir=/shared/codes \
      --config=configs/uvim_code.py
    python -m tokenlearner_flexivit.main --workdir=/shared/uvim \
      --config=configs/uvim.py:coder=/shared/codes

The recipe is UViM's (arXiv 2205.10337, big_vision's vqvae_coco_panoptic.py):
labels and images of 512 pixels in patches of 16, a code of 16 x 16 words, 1,000
epochs of batches of 1,024. Published there: PQ 75.8 of what the code keeps of
the labels of COCO's validation images, with a codebook of 4,096 words. The
words of `quantizer=fsq`, 4,375 by levels 7, 5, 5, 5, 5, take their place here:
FSQ (arXiv 2309.15505) reports 43.2 in place of 43.4 for the PQ of stage II. Not
yet run here.

Arguments:
  data: coco/2017_panoptic of TFDS, or coco:/path with COCO's own files.
  quantizer: fsq, or vq for the published codebook.
  holdout: how many training images are held out and evaluated, too: 4096, as
    published; 0 for none, as for a smaller folder.
  runlocal: a two-step check on a few rendered scenes.

What had to be decided: big_vision's Adafactor, whose second moments have a
decay of at most 0.95, is Adam with b2=0.95 here. Crowds, which big_vision
trains on as segments, are void.
"""

import ml_collections

from configs import panoptic_code_scenes
from tokenlearner_flexivit import config as configuration

SIDE, PATCH = 512, 16
# The largest number of segments of an image of COCO is 98.
NUMBERS = 100
HOLDOUT = 4096
FEATURES = ("image", "panoptic_image", "panoptic_objects")
_IDS = "decode_ids(rgb=True,key='panoptic_image')"
_MASKS = "masks=('semantic','instances')"
MODEL = dict(
  num_instances=NUMBERS,
  width=768,
  encoder_depth=6,
  decoder_depth=12,
  mlp_dim=3072,
  num_heads=12,
  patch_size=(PATCH, PATCH),
  posemb_grid=(SIDE // PATCH, SIDE // PATCH),
  code_grid=(16, 16),
  levels=(7, 5, 5, 5, 5),
  num_words=4096,
  code_dropout="random",
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    data="coco/2017_panoptic",
    quantizer="fsq",
    holdout=HOLDOUT,
    runlocal=False,
  )
  if args["runlocal"]:
    return panoptic_code_scenes.get_config(
      f"runlocal,quantizer={args['quantizer']}"
    )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 1024
  c.total_epochs = 1000
  c.log_steps = 50
  c.checkpoint_steps = 1000
  c.eval_steps = 10_000
  c.data = data(args["data"], args["holdout"])
  c.model = dict(MODEL, quantizer=args["quantizer"], dtype="bfloat16")
  c.task = dict(name="panoptic_code")
  c.optimizer = dict(
    name="scale_by_adam",
    lr=4e-4,
    b2=0.95,
    weight_decay=4e-5,
    schedule=dict(name="cosine", warmup_steps=4000),
    grad_clip_norm=1.0,
  )
  c.evals = evaluations(args["data"], args["holdout"])
  return c


def data(name: str, holdout: int) -> dict:
  """Returns the section of the training data.

  Args:
    name: of the dataset.
    holdout: number of images that are not trained on.
  """
  configuration.check_number(holdout, "holdout", "[0, inf)", whole=True)
  return dict(
    name=name,
    split=f"train[{holdout}:]" if holdout else "train",
    pp=f"{_IDS}|decode(masks='panoptic_image')|panoptic|flip_lr({_MASKS})"
    f"|inception_crop({SIDE},{_MASKS})|canonical({NUMBERS - 1})"
    "|value_range(-1,1)|keep('image','semantic','instances')",
    features=FEATURES,
  )


def evaluations(name: str, holdout: int, **others) -> dict:
  """Returns the evaluations: on held-out training images, and validation.

  Args:
    name: of the dataset.
    holdout: number of the training images that are held out.
    **others: keys of the sections, such as patch sizes.
  """
  pp = (
    f"{_IDS}|decode(masks='panoptic_image')|panoptic|resize({SIDE},{_MASKS})"
    f"|canonical({NUMBERS - 1})|value_range(-1,1)"
    "|keep('image','semantic','instances')"
  )
  # Images of COCO have up to 640 pixels at their longer side.
  truth = (
    f"{_IDS}|panoptic(crowds=True)"
    "|pad_to(640,255,key='semantic',masks=('instances','crowd'))"
    "|keep('semantic','instances','crowd','valid')"
  )
  splits = {"val": "validation"}
  if holdout:
    splits["holdout"] = f"train[:{holdout}]"
  return {
    key: dict(
      type="panoptic",
      data=dict(name=name, split=split, pp=pp, features=FEATURES),
      truth=truth,
      batch_size=256,
      **others,
    )
    for key, split in splits.items()
  }
