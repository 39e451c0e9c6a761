"""UViM with a FlexiViT on COCO panoptic: stage II, the code from the image.

    python -m tokenlearner_flexivit.main --workdir=/shared/uvim \
      --config=configs/uvim.py:coder=/shared/codes

FlexiViT-B is pre-trained flexibly and fine-tuned at one patch size (arXiv
2212.08013, figure 7): its PQ at /16 and /30 is reported to be that of ViTs of
these sizes. The recipe is UViM's (arXiv 2205.10337, big_vision's
train_coco_panoptic_pretrained.py): 512 pixels, 200 epochs of batches of 512,
the image tower at a tenth of the learning rate. Published there for ViT-L/16
with a decoder of 24 blocks: PQ 43.1 on COCO's validation images. Not yet run
here.

Arguments:
  coder: the workdir of configs/uvim_code.py; "none" for random weights, for a
    plan.
  init: a workdir, a file or a released name (see `interop.fetch`) that the
    image tower starts from; "none" is a B from scratch.
  data: coco/2017_panoptic of TFDS, or coco:/path with COCO's own files.
  holdout: as in uvim_code.py.
  patch_size: that it is trained at, 16.
  flexible: draws one of `PATCH_SIZES` per step instead.
  tokens: of a TokenLearner in the middle of the tower, to which alone the
    decoder attends; 0 for none.
  runlocal: a two-step check on a few rendered scenes, with a random coder.

What had to be decided: the decoder has as many blocks as the tower, as
published; Adam with b2=0.95 takes the place of Adafactor, as in uvim_code.py.
"""

import ml_collections

from configs import panoptic_scenes, segmenter, transfer, uvim_code
from tokenlearner_flexivit import config as configuration

PATCH_SIZES = (64, 32, 16)  # Of 512 pixels.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    coder="",
    init="FlexiViT-B i21k 300ep",
    data="coco/2017_panoptic",
    holdout=uvim_code.HOLDOUT,
    patch_size=16,
    flexible=False,
    tokens=0,
    runlocal=False,
  )
  if args["runlocal"]:
    return panoptic_scenes.get_config(f"runlocal,tokens={args['tokens']}")
  if not args["coder"]:
    raise ValueError(
      "Stage II predicts the codes of stage I: say whose, as in "
      "--config=configs/uvim.py:coder=/shared/codes, the workdir of a run of "
      "configs/uvim_code.py."
    )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 512
  c.total_epochs = 200
  c.log_steps = 50
  c.checkpoint_steps = 1000
  c.eval_steps = 10_000
  c.data = uvim_code.data(args["data"], args["holdout"])
  if args["init"] in ("", "none"):
    c.model = dict(variant="B", posemb_grid=32)
  else:
    segmenter.start_from(c, args["init"])
  c.model.dtype = "bfloat16"
  is_none = args["coder"] == "none"
  c.model.coder = uvim_code.MODEL if is_none else args["coder"]
  size = args["patch_size"]
  values = PATCH_SIZES if args["flexible"] else (size,)
  c.flexi = dict(patch_size=dict(values=values))
  if args["tokens"]:
    layer = c.model.get("depth", 12) // 2
    transfer.learn_tokens(c, layer, args["tokens"])
  c.task = dict(name="panoptic")
  c.optimizer = dict(
    name="scale_by_adam",
    lr=1e-3,
    b2=0.95,
    weight_decay=1e-6,
    lr_scales=(("(?!code_decoder/|label_coder/).*", 0.1),),
    schedule=dict(name="cosine", warmup_steps=4000),
  )
  c.evals = uvim_code.evaluations(
    args["data"],
    args["holdout"],
    patch_sizes=tuple(sorted({size, *PATCH_SIZES}, reverse=True)),
  )
  return c
