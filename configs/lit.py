"""LiT: a text tower that learns to describe what a FlexiViT-B sees.

    python -m tokenlearner_flexivit.main --workdir=/shared/lit \
      --config=configs/lit.py:init="FlexiViT-B i21k distilled"

The image tower is locked, the text tower learns from the captions of COCO (LiT,
arXiv 2111.07991); FlexiViT reports that such a model keeps the flexibility of
its image tower when it is trained at one patch size (arXiv 2212.08013, section
5.2). The recipe is big_vision's configs/proj/image_text/siglip_lit_coco.py, the
only published one whose data are public: 5,000 steps of 512 pairs, Adam,
learning rate 1e-3, texts of 16 tokens. Its README has R@1 47.2 % from image to
text and 32.1 % from text to image with ViT-B/16 (AugReg i21k) and a BERT-base;
here the text tower is big_vision's own text transformer, of the size B, from
scratch, so that less is to be expected. Not yet run here.

Arguments:
  init: a workdir, a file or a released name (see `interop.fetch`) of a model
    for images, whose head and, of a detector, text tower are left out, or of
    two towers; "none" for random weights of a FlexiViT-B, to plan a run.
  data: where images and captions are: coco_captions (TFDS; its splits are
    Karpathy's), captions:/path or coco:/path.
  train, test: the splits, `train+restval` and `test` for coco_captions.
  vocabulary: words, clip, or sentencepiece:/path/to/cc_en.32000, as published;
    by default words for a text tower from scratch. Runs and CLIP's weights tell
    their own.
  locked: `locked=False` tunes the image tower, too, at a tenth of the rate.
  loss: softmax (CLIP, LiT) or sigmoid (SigLIP); by default that of two towers
    to start from, else softmax.
  patch_size: that it is trained at, 16.
  flexible: draws one of `PATCH_SIZES` per step instead.
  runlocal: a two-step check on a few rendered scenes, untrained.

What had to be decided: mirrored images are left out, since captions tell left
from right. Weight decay is that of AdamW, where big_vision's is not multiplied
by the learning rate: 1e-2 there is 10 here, of the learning rate 1e-3.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import transfer
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import interop, paths
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.data.sources.captions import source as captions
from tokenlearner_flexivit.data.sources.coco import source as coco

# The divisors of 240 that FlexiViT is trained with.
PATCH_SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
# Parameters beside those of the image tower.
_ADDED = ("head/.*", "txt/.*", "t", "b")
IMAGE_TOWER = rf"(?!(?:{'|'.join(_ADDED)})$).*"
_SIDE, _MAX_LEN = 240, 16
# Captions of an image that are evaluated; COCO has five to seven.
_MOST = 7
_B = dict(variant="B", patch_size=32, posemb_grid=7, pool="tok")
TINY = dict(width=32, depth=1, mlp_dim=64, num_heads=1)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    data="coco_captions",
    train="",
    test="",
    vocabulary="",
    locked=True,
    loss="",
    patch_size=16,
    flexible=False,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  if not (args["init"] or runlocal):
    raise ValueError(
      "LiT begins with trained images: say which, such as "
      "configs/lit.py:init='FlexiViT-B i21k distilled'."
    )
  data = "rendered_scenes/tiny" if runlocal else args["data"]
  train, test = splits(data, args["train"], args["test"])
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 16 if runlocal else 512
  c.total_steps = 2 if runlocal else 5000
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000
  c.eval_steps = 1000

  text = TINY if runlocal else dict(variant="B")
  c.model = dict(name="two_towers", text=text)
  c.data = {}
  texts = dict(max_len=_MAX_LEN, vocabulary=args["vocabulary"])
  if args["init"] not in ("", "none"):
    max_len, vocabulary = start_from(c, args["init"], texts)
  else:
    c.model.update(dict(variant="mu", num_classes=32) if runlocal else _B)
    max_len, vocabulary = _MAX_LEN, args["vocabulary"] or vocabularies.WORDS
  side = 48 if runlocal else _SIDE
  training, evaluation = pairs(
    data, train, test, side, vocabulary, max_len, "|randaug(2,10)"
  )
  c.data.update(training)
  size = 24 if runlocal else args["patch_size"]
  values = PATCH_SIZES[3:8:4] if runlocal else PATCH_SIZES
  c.flexi = dict(
    patch_size=dict(values=values if args["flexible"] else (size,))
  )
  own = "softmax" if c.model.get("bias_init") is None else "sigmoid"
  c.task = dict(name="contrastive", loss=args["loss"] or own)
  if c.task.loss == "sigmoid":
    c.model.bias_init = -2.71  # As published, with t = 10.
  elif own == "sigmoid":
    c.model.bias_init = None  # That of SigLIP's weights is then left out.
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=10.0,
    schedule=dict(name="cosine", warmup_percent=3),
    grad_clip_norm=1.0,
  )
  if args["locked"]:
    c.optimizer.freeze = IMAGE_TOWER
  else:
    c.optimizer.lr_scales = ((IMAGE_TOWER, 0.1),)
  c.evals = dict(retrieval=dict(evaluation, patch_sizes=values))
  return c


def pairs(
  data: str,
  train: str,
  test: str,
  side: int,
  vocabulary: str,
  max_len: int,
  augment: str = "",
) -> tuple[dict, dict]:
  """Returns the sections of the training data and of a retrieval evaluation.

  Args:
    data: name of the dataset.
    train: the split to train on.
    test: the split to evaluate on.
    side: of the images, in pixels.
    vocabulary: as the op `tokenize` takes it.
    max_len: tokens of a text.
    augment: ops for images of the training, with a "|" in front of each.
  """
  one = "caption" if data.startswith("rendered_scenes") else "captions"
  texts = f"{max_len},{vocabulary!r}"
  resize = f"decode|resize({side})"
  last = "value_range(-1,1)|keep('image'"
  choice = "" if one == "caption" else "|choice"
  section = dict(
    name=data,
    split=train,
    pp=f"{resize}{augment}{choice}|tokenize({texts})|{last},'tokens')",
  )
  most = _MOST
  if data.startswith(captions.PREFIX):
    path = paths.local(data.removeprefix(captions.PREFIX), "path")
    listed = captions.find_splits(path).values() if path.exists() else ()
    counts = [len(texts) for split in listed for texts in split.captions]
    most = max(counts, default=_MOST)
  elif data.startswith(coco.PREFIX):
    section["features"] = ("image", one)
    path = paths.local(data.removeprefix(coco.PREFIX), "path")
    most = (coco.most_captions(path) if path.is_dir() else 0) or _MOST
  else:
    section["features"] = ("image", one)  # The others take time to parse.
  pp = (
    f"{resize}|tokenize_all({texts},{most},{one!r})|{last},'texts','text_mask')"
  )
  return section, dict(
    type="retrieval", data={**section, "split": test, "pp": pp}
  )


def start_from(
  c: ml_collections.ConfigDict, source: str, texts: dict
) -> tuple[int, str]:
  """Sets `init` and the model: two towers, with the image tower of the weights.

  Two towers are taken as they are. Otherwise the text tower is that of the
  config, and the images' representation their embedding.

  Args:
    c: the config, with a model that has `text`.
    source: the weights; see `interop.fetch`.
    texts: max_len and vocabulary ("" where none was asked for), if the weights
      do not tell them.

  Returns:
    max_len and vocabulary.

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
  if described.model.get("name") == "two_towers":
    c.model = dict(described.model)
    tower = c.model.text.to_dict()
    c.data.vocabulary = vocabulary_of(source, tower, texts["vocabulary"])
    return tower["max_len"], c.data.vocabulary.name
  c.model.update(name="two_towers", text=text)
  if described.model.get("text"):  # A detector's, which is not of whole images.
    c.init_fresh = ("txt/",)
  return texts["max_len"], texts["vocabulary"] or vocabularies.WORDS


def vocabulary_of(
  source: str, text: Mapping[str, Any], name: str
) -> dict[str, Any]:
  """Returns the vocabulary that a text tower was trained with, as JSON values.

  Args:
    source: the weights.
    text: arguments of the text tower.
    name: of the vocabulary, if the weights do not tell it.

  Raises:
    ValueError: nothing tells it, or it cannot be read.
  """
  stored = interop.vocabulary(source)
  if stored is not None:
    return stored
  if not name and text.get("vocab_size") == vocabularies.Clip.size:
    name = vocabularies.CLIP
  if not name or name == vocabularies.WORDS:
    raise ValueError(
      f"{source} does not tell which vocabulary its text tower of "
      f"{text.get('vocab_size')} tokens reads. Add vocabulary=clip or "
      "vocabulary=sentencepiece:/path/to.model to the config's arguments."
    )
  return vocabularies.open_named(name).describe()


def splits(name: str, train: str, test: str) -> tuple[str, str]:
  """Returns the splits of pairs to train on and to evaluate on.

  Args:
    name: of the dataset.
    train: the split that was asked for, or "".
    test: the split that was asked for, or "".

  Raises:
    ValueError: a folder has no such split.
  """
  kind, _, path = name.partition(":")
  for source in (captions, coco):
    if f"{kind}:" == source.PREFIX:
      return source.choose_splits(path, train, test)
  best = "train+restval" if name.startswith("coco_captions") else "train"
  return train or best, test or "test"
