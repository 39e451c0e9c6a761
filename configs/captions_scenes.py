"""rendered_scenes: images and their captions, at any patch size.

    python -m tokenlearner_flexivit.main --workdir=/tmp/pairs \
      --config=configs/captions_scenes.py
    python -m tokenlearner_flexivit.predict photo.jpg --workdir=/tmp/pairs \
      --labels="a red heart with fine stripes;a blue cross with fine dots"

The first run draws the data, see tokenlearner_flexivit/data/rendered_scenes.
Two towers learn from scratch, by CLIP's loss, which caption belongs to which
image. Retrieval is measured among the captions of all test images, and
zero-shot accuracy by captions that differ in one attribute alone: its texture
and the number of further objects need fine patches, its shape and colour do
not.

Arguments:
  init: a workdir, a file or a released name that the image tower starts from,
    or both towers if it has two: they go on with their texts' length.
  locked: the image tower stays as `init` has it (LiT).
  loss: softmax (CLIP) or sigmoid (SigLIP); by default that of two towers to
    start from, else softmax.
  vocabulary: words, clip, or sentencepiece:/path/to.model; by default words for
    a text tower from scratch. Runs and CLIP's weights tell their own.
  patch_sizes: drawn from in training, such as `15` or `15+12+10+6`, the
    default; all of the default are evaluated.
  steps: 1500.
  runlocal: a two-step check on a few images.
"""

import itertools
from typing import Any

import ml_collections

from configs import lit
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.data import vocabulary as vocabularies
from tokenlearner_flexivit.data.rendered_scenes import scene, shapes, textures

_SIDE = 60  # Of crops of 64-pixel images.
PATCH_SIZES = (15, 12, 10, 6)  # They divide it.
MAX_LEN = 24  # The longest caption has 22 words.
# What zero-shot evaluations tell apart.
ATTRIBUTES = ("texture", "num_objects", "shape", "colour")
_COUNTS = ("one", "two", "three", "four", "five")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(
    arg,
    init="",
    locked=False,
    loss="",
    vocabulary="",
    patch_sizes="",
    steps=1500,
    runlocal=False,
  )
  runlocal = args["runlocal"]
  drawn = configuration.read_sizes(args["patch_sizes"], PATCH_SIZES)
  name = f"rendered_scenes/{'tiny' if runlocal else 64}"
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 16 if runlocal else 128
  c.total_steps = 2 if runlocal else args["steps"]
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500

  c.data = dict(num_threads=1)
  c.model = dict(
    name="two_towers",
    width=32 if runlocal else 64,
    depth=1 if runlocal else 4,
    mlp_dim=64 if runlocal else 256,
    num_heads=1 if runlocal else 2,
    # The sizes of the smallest patches: small ones lose in larger buffers.
    patch_size=(6, 6),
    posemb_grid=(10, 10),
    num_classes=64,
    text=dict(
      width=32 if runlocal else 64,
      depth=1 if runlocal else 2,
      mlp_dim=64 if runlocal else 256,
      num_heads=1 if runlocal else 4,
    ),
  )
  texts = dict(max_len=MAX_LEN, vocabulary=args["vocabulary"])
  if args["init"]:
    texts = lit.start_from(c, args["init"], texts)
  else:
    texts = MAX_LEN, args["vocabulary"] or vocabularies.WORDS
  c.data.update(pairs(name, "train", f"random_crop({_SIDE})", *texts))
  c.flexi = dict(patch_size=dict(values=drawn))
  own = "softmax" if c.model.get("bias_init") is None else "sigmoid"
  c.task = dict(name="contrastive", loss=args["loss"] or own)
  if c.task.loss == "sigmoid" and own == "softmax":
    c.model.bias_init = -10.0  # As published.
  elif c.task.loss == "softmax" and own == "sigmoid":
    c.model.bias_init = None  # That of SigLIP's weights is then left out.
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_percent=5),
    grad_clip_norm=1.0,
  )
  if args["locked"]:
    c.optimizer.freeze = lit.IMAGE_TOWER
  sizes = PATCH_SIZES[::3] if runlocal else PATCH_SIZES
  c.evals = evaluations(name, _SIDE, sizes, *texts)
  return c


def pairs(
  name: str,
  split: str,
  crop: str,
  max_len: int = MAX_LEN,
  vocabulary: str = vocabularies.WORDS,
) -> dict:
  """Returns a data section of images and their captions.

  Args:
    name: of the dataset, a rendered_scenes.
    split: of it.
    crop: the op that cuts out images.
    max_len: tokens of a caption.
    vocabulary: as the op `tokenize` takes it.
  """
  # No flips: captions tell left from right.
  return dict(
    name=name,
    split=split,
    pp=f"decode|{crop}|tokenize({max_len},{vocabulary!r})|value_range(-1,1)"
    "|keep('image','tokens')",
    features=("image", "caption"),  # The others take time to parse.
  )


def evaluations(
  name: str, side: int, patch_sizes: tuple[int, ...], *texts: Any
) -> dict:
  """Returns `retrieval`, and a zero-shot evaluation of each of `ATTRIBUTES`.

  Args:
    name: of the dataset, a rendered_scenes; its test split is evaluated.
    side: of the crops, in pixels.
    patch_sizes: to evaluate at.
    *texts: the arguments `max_len` and `vocabulary` of `pairs`.
  """
  crop = f"central_crop({side})"
  evals = dict(
    retrieval=dict(
      type="retrieval",
      data=pairs(name, "test", crop, *texts),
      patch_sizes=patch_sizes,
    )
  )
  for attribute, (names, templates) in _prompts().items():
    label = f"copy('{attribute}','label')"
    if attribute == "num_objects":  # From 1 to 6.
      numbers = {i + 1: i for i in range(len(names))}
      label += f"|map_labels({numbers},key='label')"
    evals[attribute] = dict(
      type="zeroshot",
      data=dict(
        name=name,
        split="test",
        pp=f"decode|{crop}|{label}|value_range(-1,1)|keep('image','label')",
        features=("image", attribute),
      ),
      class_names=names,
      templates=templates,
      patch_sizes=patch_sizes,
    )
  return evals


def _prompts() -> dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]]:
  """Returns names and templates by attribute; they are whole captions.

  The other attributes vary from template to template.
  """
  examples = itertools.islice(
    zip(
      itertools.cycle(scene.SIZES),
      itertools.cycle(list(scene.COLOURS)),
      itertools.cycle(shapes.NAMES),
      itertools.cycle(textures.SCALES),
      itertools.cycle(textures.NAMES),
      strict=False,
    ),
    len(textures.NAMES),
  )
  templates = {attribute: [] for attribute in ATTRIBUTES}
  for size, colour, shape, scale, texture in examples:
    for attribute, words in (
      ("texture", (colour, shape, "{}")),
      ("shape", (colour, "{}", texture)),
      ("colour", ("{}", shape, texture)),
      ("num_objects", (colour, shape, texture)),
    ):
      first, second, third = words
      count = "{}" if attribute == "num_objects" else ""
      templates[attribute].append(
        f"a {size} {first} {second} with {scale} {third} upright {count} on a "
        "plain background"
      )
  further = [f"and {count} smaller objects" for count in _COUNTS]
  further[0] = "and one smaller object"
  counts = ("", *further)
  return {
    attribute: (counts if attribute == "num_objects" else None, tuple(texts))
    for attribute, texts in templates.items()
  }
