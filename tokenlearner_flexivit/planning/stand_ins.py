"""Configs without their data and weights, whose programs stay the same."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from tokenlearner_flexivit import interop, tasks
from tokenlearner_flexivit.data import captions, preprocess, splits, vocabulary
from tokenlearner_flexivit.data.ops import decode, dense_label, panoptic
from tokenlearner_flexivit.data.sources import fake, tfds_errors
from tokenlearner_flexivit.interop import released
from tokenlearner_flexivit.train import setup

# Training examples and classes of the public datasets that configs name; for a
# sum of splits those of all of them.
DATASETS = {
  "coco_captions": (113_287, None),  # Karpathy's train and restval.
  "imagenet2012": (1_281_167, 1_000),
  "imagenet21k": (14_197_087, 21_843),
  "cifar10": (50_000, 10),
  "cifar100": (50_000, 100),
  "coco/2017": (118_287, 80),
  "coco/2017_panoptic": (118_287, 133),
  "lvis": (100_170, 1_203),
  "oxford_iiit_pet": (3_680, 37),
  "oxford_flowers102": (1_020, 102),
}
# These need no download: they are noise, or come with a library.
_AT_HAND = ("fake", "digits")
_FOLDERS = (
  *("folder", "images", "mask_folder", "coco", "captions", "video_folder"),
)
# Ids of the vocabularies of LiT and SigLIP.
_VOCABULARY = 32_000
_NUMBER_ANEW = ("map_labels", "ignore")
# Sizes before the preprocessing, which the device never sees.
_RAW = {"image": "256x256x3", "video": "64x256x256x3"}


def config_without_files(
  config: ml_collections.ConfigDict,
  num_examples: int | None = None,
  num_classes: int | None = None,
) -> ml_collections.ConfigDict:
  """Returns a config that trains the same programs and reads no file.

  Noise stands in for the training data, evaluations are left out, and the
  weights to start from are random, as those of teachers. Folders of data that
  exist, and datasets of TFDS that are prepared and not in `DATASETS`, are read
  unless both numbers are given. A vocabulary of texts that is
  not there, or whose captions are not, becomes one of as many words; if the
  config does not tell how many, of 32,000, as in published models.

  Args:
    config: of a training.
    num_examples: those of the training data, before a slice; None if they are
      there or in `DATASETS`.
    num_classes: theirs; None for those of `config.model` or of the data, and
      for tasks without classes, which need none.

  Raises:
    ValueError: the config is wrong, or one of the numbers is needed.
  """
  config = setup.complete(config)
  config["data"] = _data(config, num_examples, num_classes)
  config["evals"] = {}
  for key in setup.DEFAULTS:
    if key.startswith("init"):
      config[key] = setup.DEFAULTS[key]
  coder = config["model"].get("coder")
  if isinstance(coder, str):
    # Its weights are as random as those to start from.
    described = interop.describe(coder).model
    fields = {k: v for k, v in described.items() if k != "name"}
    config["model"] = {**config["model"], "coder": fields}
  task = config["task"]
  if isinstance(task.get("teachers"), dict):
    config["task"] = {
      **task,
      "teachers": {
        name: _teacher(section, f"config.task.teachers.{name}")
        for name, section in task["teachers"].items()
      },
    }
  return ml_collections.ConfigDict(config, allow_dotted_keys=True)


def _data(
  config: dict[str, Any], num_examples: int | None, num_classes: int | None
) -> dict[str, Any]:
  """Returns the data section, with noise in place of data that are not here."""
  data = config["data"]
  name, texts = data.get("name"), _texts(data.get("pp"))
  # A stored vocabulary needs no file.
  is_stored = data.get("vocabulary") is not None
  if texts and not is_stored and _is_file_lost(texts.vocabulary):
    data = _with_words(data, texts, config["model"])
  if not isinstance(name, str) or (num_examples is num_classes is None):
    kind, _, path = str(name).partition(":")
    if kind == "video_folder":
      path, _ = splits.split_options(path)
    is_folder = kind in _FOLDERS and path
    is_there = is_folder and pathlib.Path(path).expanduser().exists()
    if kind in _AT_HAND or is_there:
      return data
  # Without the version, as in "cifar10:3.0.2".
  known = DATASETS.get(str(name).partition(":")[0], (None, None))
  task = tasks.named(config["task"])
  if not {"num_classes", "class_names"} & {*task.remembered}:
    # What `num_classes` of the model is has nothing to do with the data.
    num_classes = num_classes or 1
  num_classes = num_classes or config["model"].get("num_classes") or known[1]
  num_examples = num_examples or known[0]
  missing = [
    flag
    for flag, number in (
      ("--num_examples", num_examples),
      ("--num_classes", num_classes),
    )
    if number is None
  ]
  if missing and tfds_errors.is_stored(str(name), data.get("data_dir")):
    return data
  if missing:
    raise ValueError(
      f"config.data.name={name!r}: these data are not here. Give "
      f"{' and '.join(missing)} of the training data. Known are those of "
      f"{', '.join(DATASETS)}."
    )
  kind = task.build_model(config["model"]).input
  data = {k: v for k, v in data.items() if k not in ("data_dir", "features")}
  has_boxes = _makes(data.get("pp"), dense_label.objects)
  has_segments = _makes(data.get("pp"), panoptic.canonical)
  is_dense = str(name).startswith(("mask_folder:", "coco:"))
  data["name"] = f"fake:{_RAW[kind]}:{num_classes}:{num_examples}"
  if "+" in data["split"] and "[" not in data["split"]:
    data["split"] = "train"  # All splits of the sum have so many together.
  if texts:
    data["name"] += ":captions"
    if data.get("vocabulary") is None:
      data = _with_words(data, texts, config["model"])
  elif has_boxes:
    data["name"] += ":boxes"
  elif has_segments:
    data["name"] += ":dense"
    data["pp"] = _segments_of_classes(data["pp"])
  elif is_dense:
    data["name"] += ":dense"
    data["pp"] = _without_ids(data["pp"])
  return data


def _texts(pp: Any) -> captions.Texts | None:
  """Returns length and vocabulary of the texts in a preprocessing, if any."""
  with contextlib.suppress(ValueError):  # A wrong one is refused later.
    return captions.vocabulary_of(pp) if isinstance(pp, str) else None
  return None


def _makes(pp: Any, op: Callable[..., Any]) -> bool:
  """Tells whether a preprocessing has an op."""
  with contextlib.suppress(ValueError):  # A wrong one is refused later.
    steps = preprocess.parse(pp).steps if isinstance(pp, str) else ()
    return any(step.op is op for step in steps)
  return False


def _is_file_lost(name: str) -> bool:
  """Tells whether a vocabulary is a file that is not there."""
  path = name.removeprefix(vocabulary.SENTENCEPIECE)
  return path != name and not pathlib.Path(path).expanduser().is_file()


def _with_words(
  data: dict[str, Any], texts: captions.Texts, model: dict[str, Any]
) -> dict[str, Any]:
  """Returns a data section whose vocabulary is words, as many as it had ids."""
  size = (model.get("text") or {}).get("vocab_size")
  if size is None:
    is_clip = texts.vocabulary == vocabulary.CLIP
    size = vocabulary.Clip.size if is_clip else _VOCABULARY
  added = vocabulary.Words(()).size
  words = [fake.word(i) for i in range(size - added)]
  pp = data["pp"]
  for quote in "'\"":
    old, new = (quote + n + quote for n in (texts.vocabulary, vocabulary.WORDS))
    pp = pp.replace(old, new)
  return {**data, "pp": pp, "vocabulary": words}


def _segments_of_classes(pp: str) -> str:
  """Returns a preprocessing that takes the classes of noise for segments."""
  texts = ["copy('semantic','instances')"]
  for step in preprocess.parse(pp).steps:
    if step.op is panoptic.panoptic or step.op is decode.decode_ids:
      continue
    # So decoded masks are those that the noise has.
    masks = "masks=('semantic', 'instances')"
    is_decode = step.op is decode.decode
    texts.append(f"decode({masks})" if is_decode else step.text)
  return "|".join(texts)


def _without_ids(pp: str) -> str:
  """Returns a preprocessing without the ops that number classes anew.

  Masks of noise have the classes that these ops lead to.
  """
  steps = preprocess.parse(pp).steps
  return "|".join(s.text for s in steps if s.op.__name__ not in _NUMBER_ANEW)


def _teacher(section: Any, where: str) -> Any:
  """Returns a teacher's section with a model in place of its weights."""
  if not isinstance(section, dict) or section.get("init") is None:
    return section
  source, model = section["init"], section.get("model")
  if model is None and isinstance(source, str):
    model = released.model(source)
    if model is None and pathlib.Path(source).expanduser().exists():
      model = interop.describe(source).model
  if model is None:
    raise ValueError(
      f"{where}.init={source!r}: these weights are not here, so their model is "
      f"not known. Give it, such as by --{where}.model.variant=B/16."
    )
  dropped = ("init", "input_mean", "input_std")
  kept = {k: v for k, v in section.items() if k not in dropped}
  return {**kept, "model": model}
