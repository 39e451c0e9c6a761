"""Opens runs, weights of other libraries, and test images for analyses."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import (
  dials,
  interop,
  models,
  paths,
  tasks,
  terminal,
)
from tokenlearner_flexivit.data import splits_read
from tokenlearner_flexivit.data.ops import text as text_ops
from tokenlearner_flexivit.interop import about, containers
from tokenlearner_flexivit.run import checkpoint
from tokenlearner_flexivit.run import workdir as workdir_lib
from tokenlearner_flexivit.tasks import classification

_KEPT = ("image", "label")
# By the kind of a model's input, the errors for a run of the other kind and for
# one without test data.
_REFUSED = {
  "image": (
    "The model of {} is for videos. Look at it with `python -m "
    "tokenlearner_flexivit.analysis.video_maps`.",
    "test images is not known. Call image_figure with preprocessed ones.",
  ),
  "video": (
    "The model of {} is for images. Look at it with `python -m "
    "tokenlearner_flexivit.analysis.token_maps`.",
    "videos is not known.",
  ),
}


def test_data(config: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns the data section of `test_evaluation`, with a split, or None."""
  entry = test_evaluation(config)
  return None if entry is None else evaluation_data(entry)


def test_evaluation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Returns the section of an evaluation of a config whose data have a split.

  It is the one that suits the training best by `splits_read.unlike_training`.
  Those that learn from one split and classify another come last.

  Args:
    config: of a run, complete.

  Returns:
    The entry of `config.evals`; None without such.
  """

  def rank(entry: Mapping[str, Any]) -> tuple[bool, ...]:
    data = evaluation_data(entry)
    return (
      splits_read.has_two_splits(entry),
      *splits_read.unlike_training(data, config.get("data") or data),
    )

  entries = [
    entry
    for entry in config["evals"].values()
    if evaluation_data(entry).get("split")
  ]
  return min(entries, key=rank) if entries else None


def evaluation_data(section: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the data section, with its test split, of an entry of config.evals.

  Args:
    section: the entry.
  """
  data = section["data"]
  if splits_read.has_two_splits(section):
    return {**data, "split": section.get("test_split") or "test"}
  return data


def read_examples(data_config: Mapping[str, Any], number: int) -> np.ndarray:
  """Returns evenly spaced images of a split, preprocessed by its section.

  Args:
    data_config: the data section of an evaluation: name, split and pp.
    number: how many images; all if the split has fewer.

  Returns:
    [number, H, W, C].

  Raises:
    ValueError: the split cannot be read, or no image is wanted.
  """
  (batch,) = read_batches(data_config, number, max(1, number))
  return batch["image"]


def read_batches(
  data_config: Mapping[str, Any],
  number: int,
  batch_size: int,
  attributes: Sequence[str] = (),
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the examples of `read_examples` in batches.

  Each batch has examples from the whole split: a folder lists its examples
  class by class, and a comparison of the examples in a batch, such as CKA,
  would otherwise see one class.

  Args:
    data_config: the data section of an evaluation: name, split and pp.
    number: how many images; all if the split has fewer.
    batch_size: images per batch; the last may have fewer, without padding.
    attributes: numbers that the dataset has for each example, such as "scale"
      of rendered_scenes, even if the preprocessing drops them.

  Yields:
    Arrays [n, ...]: `image`, `label` if the preprocessing keeps one, and the
    attributes.

  Raises:
    ValueError: the split cannot be read, no image is wanted, or it has no such
      attribute (lists those it has).
  """
  for name, value in (("images", number), ("images in a batch", batch_size)):
    if value < 1:
      raise ValueError(f"{value} {name} wanted; give 1 or more.")
  if attributes and data_config.get("features") is not None:
    # The config of a run may be limited to what its training needs.
    features = dict.fromkeys((*data_config["features"], *attributes))
    features.pop("id", None)  # There anyway: the position.
    data_config = {**data_config, "features": tuple(features)}
  source = data_lib.open_source(data_config)
  number = min(number, len(source))
  # Texts would need the run's vocabulary, and nothing here reads them.
  preprocess = text_ops.without_texts(data_lib.parse(data_config["pp"]))
  if attributes:
    _check_attributes(source, attributes)
  positions = np.arange(number) * len(source) // number
  if batch_size < number:
    positions = np.random.default_rng(0).permutation(positions)
  for start in range(0, number, batch_size):
    rows = []
    for i in positions[start : start + batch_size].tolist():
      raw = source[i]
      known = {name: np.asarray(raw[name]) for name in attributes}
      # Random ops draw the same numbers in each call.
      example = preprocess(raw, np.random.default_rng(i))
      kept = {key: example[key] for key in _KEPT if key in example}
      rows.append({**kept, **known})
    yield {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def value_names(
  data_config: Mapping[str, Any], attributes: Sequence[str]
) -> dict[str, list[str]]:
  """Returns the names of the values 0, 1, ... of attributes, where known.

  Args:
    data_config: as for `read_examples`. A TFDS dataset names the values of its
      class features, other data only those of the label.
    attributes: their names; "label" is the one that the preprocessing keeps.

  Raises:
    ValueError: the split cannot be read.
  """
  if not attributes:
    return {}
  source = data_lib.open_source(data_config)
  known = dict(source.value_names)
  _, known["label"] = data_lib.classes(data_config, source)
  return {name: list(known[name]) for name in attributes if known.get(name)}


def _check_attributes(source: data_lib.Source, names: Sequence[str]) -> None:
  numeric = [
    key
    for key, value in source[0].items()
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"
  ]
  for name in names:
    if name not in numeric:
      raise ValueError(
        f"The examples of {source.name} have no number {name!r}. They have "
        f"{', '.join(numeric)}."
      )


def read_files(paths: Sequence[str | pathlib.Path], pp: str) -> np.ndarray:
  """Returns image files, preprocessed by `pp`, as [len(paths), H, W, C].

  Raises:
    ValueError: a file cannot be read or preprocessed; names it.
  """
  preprocess = data_lib.parse(pp).only("image")
  images = []
  for path in paths:
    try:
      encoded = pathlib.Path(path).expanduser().read_bytes()
      # Ops of users may read the label.
      example = {"image": encoded, "label": np.int32(0), "id": np.int32(0)}
      images.append(preprocess(example, np.random.default_rng(0))["image"])
    except (OSError, ValueError) as error:
      raise ValueError(f"{path}: {error}") from error
  sizes = {image.shape for image in images}
  if len(sizes) > 1:
    raise ValueError(
      f"The preprocessing {pp!r} gives images of several sizes: "
      f"{sorted(sizes)}. Give files of one size."
    )
  return np.stack(images)


class Run(NamedTuple):
  """A finished run, opened from its workdir.

  Attributes:
    config: of the run, complete; for weights of other libraries without the
      parts about training.
    model: a `models.ViT` or `models.ViViT`.
    params: of its newest checkpoint.
    dials: the dials that its training drew from.
    data: the data section of its evaluation, whose data need not exist; for
      weights of other libraries only `pp`, or nothing.
    class_names: of its data, if they are known.
  """

  config: dict[str, Any]
  model: Any
  params: Any
  dials: dials.Dials
  data: dict[str, Any]
  class_names: list[str] | None = None


def open_run(workdir: str | pathlib.Path, kind: str) -> Run:
  """Opens the workdir of a run; its data need not exist.

  Args:
    workdir: of a run that has a checkpoint.
    kind: the input that its model must have, "image" or "video".

  Raises:
    ValueError: the folder has no run, one of the other kind, or one without
      evaluation or without a file that building its model needs.
  """
  workdir = paths.local(workdir, "workdir")
  config = workdir_lib.read_config(workdir)
  other, unknown = _REFUSED[kind]
  if models.MODELS[config["model"].get("name") or "vit"].input != kind:
    raise ValueError(other.format(workdir))
  report = workdir_lib.read_report(workdir) or {}
  # The config of its evaluation may differ from that of its training.
  data = test_data(config) or test_data(report.get("config", {"evals": {}}))
  if data is None:
    raise ValueError(
      f"The run in {workdir} has no evaluation with data.split in config.evals,"
      f" so how to preprocess {unknown}"
    )
  params = checkpoint.read_params(workdir)
  section, about = dict(config["model"]), {}
  # A loop over the blocks would first copy the parameters into stacks.
  section.pop("scan", None)
  task = tasks.named(config["task"])
  is_classification = issubclass(task, classification.Classification)
  try:
    about = workdir_lib.read_about_data(workdir)
  except ValueError:
    if not is_classification:
      raise  # Of a classification only pictures need it, for the names.
  names = about.get("class_names")
  if is_classification:
    # The config need not state the number of classes, which the data determine.
    number = len(params["head"]["bias"]) if "head" in params else None
    model = models.create(**{**section, "num_classes": number})
  else:
    model = task.build_model(section, **{k: about[k] for k in task.remembered})
  _check_sees_images(model, workdir)
  return Run(config, model, params, trained_dials(config, model), data, names)


def open_weights(
  source: str,
  *,
  num_heads: int | None = None,
  posemb_grid: Sequence[int] | None = None,
  input_mean: Sequence[float] | None = None,
  input_std: Sequence[float] | None = None,
) -> Run:
  """Opens a model for images from any source that `config.init` takes.

  It prints what was loaded, and which parts of the model were guessed.

  Args:
    source: a file, an address, a released name or the folder of a run or an
      export, as for `interop.load_params_and_report`.
    num_heads: as `interop.describe` takes it.
    posemb_grid: as `interop.describe` takes it.
    input_mean: as `interop.load_params_and_report` takes it.
    input_std: as `interop.load_params_and_report` takes it.

  Returns:
    The model at its stored patch size. `pp` resizes images as a config of timm
    or Hugging Face tells, else to the size that the stored position embedding
    is for, and scales them to the values that a run was trained on, or else to
    [-1, 1], where mean and std that such a config tells are absorbed. Without a
    stored position embedding there is no `pp`.

  Raises:
    ValueError, OSError: as `interop.describe` and `interop.load_params`, or the
      source is a run of a model for videos.
  """
  path = interop.fetch(source)
  config = {"task": {}}
  if (path / workdir_lib.CONFIG_FILE).is_file():
    config = workdir_lib.read_config(path)
  else:
    # How logits are answers: an export may have a sigmoid, or be of masks.
    with containers.open_file(path) as opened:
      config["task"] = about.export_task(opened.metadata, path)
  described = interop.describe(
    source, num_heads=num_heads, posemb_grid=posemb_grid
  )
  arguments, options = described.for_images()
  model = models.create(**arguments)
  if model.input != "image":
    raise ValueError(_REFUSED["image"][0].format(source))
  _check_sees_images(model, source)
  has_posemb = model.posemb == "learn"
  images = described.images
  as_given = input_mean is None and input_std is None
  is_run = interop.preprocessing(source) is not None
  if as_given and images.size and images.mean and not is_run:
    # A config tells them: they are absorbed.
    input_mean, input_std, as_given = images.mean, images.std, False
  if has_posemb and not options:
    # The description has told what this grid may be mistaken for.
    options = dict(posemb_grid=model.posemb_grid)
  params, report = interop.load_params_and_report(
    source, model, input_mean=input_mean, input_std=input_std, **options
  )
  terminal.say(str(report))
  for guess in described.guesses:
    if guess not in report.warnings:
      terminal.say(f"WARNING: {guess}.")
  data = {}
  if has_posemb:
    sides = np.multiply(model.patch_size, model.posemb_grid).tolist()
    size = sides[0] if len(set(sides)) == 1 else tuple(sides)
    channels = params["embedding"]["kernel"].shape[2]
    decode = "decode" if channels == 3 else f"decode({channels})"
    values = _values(described) if as_given else "value_range(-1,1)"
    resize = f"resize({size})"
    if images.size == tuple(sides) and not is_run:
      resize = images.ops
    data["pp"] = f"{decode}|{resize}|{values}"
  own_dials = dials.from_config(None, model.own_patch_size)[0]
  return Run(config, model, params, own_dials, data)


def _check_sees_images(model: Any, source: str | pathlib.Path) -> None:
  """Raises ValueError for a model of a source that sees labels."""
  if isinstance(model, models.LabelCoder):
    raise ValueError(
      f"{source} holds a 'label_coder', which sees labels. Give a model that "
      "sees images."
    )


def _values(described: interop.Description) -> str:
  """Returns the ops that give images the values that a model was trained on."""
  mean, std = described.input_mean, described.input_std
  if mean is None or {*mean, *std} == {0.5}:
    return "value_range(-1,1)"
  if min(std) > 0:
    return f"value_range(0,1)|standardize({mean},{std})"
  mean, std = (tuple(x.tolist()) for x in (1 - np.array(mean), -np.array(std)))
  return f"value_range(1,0)|standardize({mean},{std})"


def fits(model: Any, shape: Sequence[int], setting: dials.Setting) -> bool:
  """Tells whether a setting of the dials suits images or videos of a shape.

  A run may be evaluated at another resolution than in training, and the patch
  sizes of the training need not divide it.

  Args:
    model: the one that reads them.
    shape: [H, W, C], for videos [T, H, W, C].
    setting: of the dials.
  """
  try:
    model.check(tuple(shape[:-1]), **setting)
  except ValueError:
    return False
  return True


def trained_dials(config: Mapping[str, Any], model: Any) -> dials.Dials:
  """Returns the dials that the training of a config drew from."""
  return dials.from_config(config["flexi"], model.own_patch_size)[0]
