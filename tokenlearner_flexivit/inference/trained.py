"""A trained model, with what its users must know about its training.

It is read from the workdir of a run or from one safetensors file, which keeps
everything that is not an array in its metadata.
"""

import dataclasses
import functools
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, interop, paths, tasks
from tokenlearner_flexivit.figures import metric as metric_lib
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.inference import images, published, runs, videos
from tokenlearner_flexivit.models import tiling
from tokenlearner_flexivit.run import checkpoint
from tokenlearner_flexivit.run import workdir as workdir_lib
from tokenlearner_flexivit.tasks import classification, views

MODEL_FILE = "model.safetensors"
_METADATA = "tokenlearner_flexivit"


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained model with its dials: a classifier, or a model of another task.

  Attributes:
    params: nested dicts of NumPy arrays.
    model_section: keys of `models.create`, with `num_classes`.
    pp: how the run's evaluation preprocesses an example.
    image_shape: (H, W, C) of the images of its evaluation, or of the windows
      that it slides over them; or (T, H, W, C) of a view of its videos.
    loss: of the training, a key of `classification.LOSSES`; None for another
      task.
    settings: of the dials, those of the training.
    class_names: in order, or None if the data has none.
    recorded: the rows of the run's report, one per evaluated setting; empty
      before its end.
    training: facts about the run: data, split, evaluation, and after its end
      steps, seconds, hardware, date and the number of test examples.
    headline: the metric of `recorded` that settings are compared by, such as
      "accuracy", or "mAP" for examples with several classes.
    shown: the display of the headline, as arguments of `figures.metric.Metric`;
      None for files of version 0.1, which do not record it.
    other_task: `section`, its `config.task`, and `about`, what it remembers
      about its data; None for classification.
    video: for a model for videos, the frames per second and the largest shorter
      side at which its data were read: fps and size.
  """

  params: Mapping[str, Any]
  model_section: Mapping[str, Any]
  pp: str
  image_shape: tuple[int, int, int]
  loss: str | None
  settings: tuple[dials.Setting, ...]
  class_names: tuple[str, ...] | None
  recorded: tuple[Mapping[str, Any], ...]
  training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  headline: str = "accuracy"
  shown: Mapping[str, Any] | None = None
  other_task: Mapping[str, Any] | None = None
  video: Mapping[str, Any] | None = None
  stride: tuple[int, int] | None = None

  # A copy in another process builds its own model and task.
  def __getstate__(self) -> dict[str, Any]:
    """Returns the fields, without the values that properties have cached."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @functools.cached_property
  def model(self) -> nn.Module:
    """Returns the Flax module, whose call returns (answer, out)."""
    section = dict(self.model_section)
    # A loop over the blocks would copy all parameters into stacks at each call.
    section.pop("scan", None)
    cls = tasks.named(self.task_section)
    return cls.build_model(section, **self._remembered)

  @functools.cached_property
  def task(self) -> tasks.Task:
    """Returns the task, which answers by the model."""
    return tasks.create(self.task_section, model=self.model, **self._remembered)

  @property
  def classifies(self) -> bool:
    """Tells whether the answers are logits of classes."""
    return self.other_task is None

  @property
  def task_section(self) -> Mapping[str, Any]:
    """Returns the section of the task, with its name."""
    if self.classifies:
      return {"name": "classification", "loss": self.loss}
    return self.other_task["section"]

  @property
  def _remembered(self) -> Mapping[str, Any]:
    """Returns what the task remembers about its data."""
    if not self.classifies:
      return self.other_task["about"]
    number = self.model_section["num_classes"]
    return {"num_classes": number, "class_names": self.class_names}

  @property
  def kind(self) -> str:
    """Returns the kind of the model's input, "image" or "video"."""
    return "image" if self.video is None else "video"

  @property
  def headline_metric(self) -> Metric:
    """Returns the display of the headline metric."""
    about = {} if self.shown is None else {self.headline: self.shown}
    return metric_lib.from_report({"metrics": about}, self.headline)

  def preparation(self) -> images.Preparation | videos.Preparation:
    """Returns the preparation of images or videos as model inputs."""
    if self.video is None:
      return images.Preparation(
        self.pp,
        self.image_shape,
        whole=tasks.named(self.task_section).has_places,
        any_size=self.stride is not None,
      )
    return videos.Preparation(self.pp, self.image_shape, **self.video)

  @property
  def known_settings(self) -> tuple[dials.Setting, ...]:
    """Returns the settings that were evaluated, then others of the training.

    Settings of the training that do not fit the evaluation's images are left
    out.
    """
    evaluated = map(dials.Setting.from_row, self.recorded)
    model, shape = self.model, self.image_shape
    fitting = (s for s in self.settings if runs.fits(model, shape, s))
    return tuple(dict.fromkeys((*evaluated, *fitting)))

  def row(self, setting: dials.Setting) -> Mapping[str, Any] | None:
    """Returns the report's row of a setting, or None."""
    return next(
      (row for row in self.recorded if dials.Setting.from_row(row) == setting),
      None,
    )

  def metric(self, setting: dials.Setting) -> float | None:
    """Returns the headline metric of a setting, None if it has none."""
    return self.metrics(setting)[self.headline]

  def metrics(self, setting: dials.Setting) -> dict[str, float | None]:
    """Returns the recorded metrics of a setting, None for missing ones.

    Args:
      setting: of the dials.

    Returns:
      The headline metric; of a classifier also the accuracy.
    """
    row = self.row(setting) or {}
    names = ("accuracy", self.headline) if self.classifies else [self.headline]
    return {name: row.get(name) for name in names}

  def describe(self) -> dict[str, Any]:
    """Returns everything but the parameters, as JSON values."""
    about = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "params"
    }
    return {**about, "settings": [setting.row for setting in self.settings]}

  def save(self, path: str | os.PathLike) -> None:
    """Writes one safetensors file for `load`, complete or not at all."""
    path = paths.local(path, "path")
    flat = traverse_util.flatten_dict(self.params, sep="/")
    content = safetensors.numpy.save(
      {name: np.ascontiguousarray(array) for name, array in flat.items()},
      metadata={_METADATA: json.dumps(self.describe())},
    )
    # Not by `save_file`, whose files only their owner may read.
    workdir_lib.write_whole(path, content)


def load(source: str | os.PathLike) -> Trained:
  """Opens a trained model.

  Args:
    source: the workdir of a run, a file of `Trained.save`, a classifier of timm
      or Hugging Face with configs that tell mean, std and size of its images, a
      folder with one named model.safetensors, or the address of such a file or
      folder: all that `interop.fetch` takes, such as hf://owner/name.

  Raises:
    FileNotFoundError: the source does not exist.
    ValueError: a folder without a model, a run without a checkpoint, a backbone
      without a head, a task that is not registered here, a run without an
      evaluation (whose preprocessing would be missing), or a file of something
      else.
    OSError: the download failed.
    ImportError: the download needs a library that is not installed.
  """
  if "://" in str(source):
    path = interop.fetch(source)
  else:
    path = paths.local(source, "source")
  if not path.exists() and str(source) in interop.RELEASED:
    raise ValueError(
      f"{source} is published as weights alone. Fine-tune them (configs/"
      "transfer.py) and give the workdir of that run, or load them into a model"
      " with interop.load_params."
    )
  if not path.exists():
    raise FileNotFoundError(f"There is no file or folder {path}.")
  is_run = (path / workdir_lib.CHECKPOINTS).is_dir()
  if not is_run and (path / MODEL_FILE).exists():
    path = path / MODEL_FILE
  if not path.is_dir():
    return _from_file(path)
  if not (path / workdir_lib.CONFIG_FILE).exists():
    raise ValueError(
      f"{path} holds no run and no exported model: neither "
      f"{workdir_lib.CONFIG_FILE} nor {MODEL_FILE} is there."
    )
  return _from_run(path)


def _from_run(workdir: pathlib.Path) -> Trained:
  config = workdir_lib.read_config(workdir)
  report = workdir_lib.read_report(workdir) or {}
  evaluation = _evaluation(config, report)
  if evaluation is None:
    raise ValueError(
      f"The run in {workdir} has no evaluation with data.split in config.evals,"
      " so its preprocessing is not known. Evaluate it by a config that "
      "has one: python -m tokenlearner_flexivit.main --mode=eval "
      f"--workdir={workdir} --config=..."
    )
  data = runs.evaluation_data(evaluation)
  loss, section = config["task"].get("loss") or "softmax_xent", config["model"]
  about, other_task = workdir_lib.read_about_data(workdir), None
  task_class = tasks.named(config["task"])
  remembered = {key: about[key] for key in task_class.remembered}
  section, remembered = task_class.public(section, remembered)
  model = task_class.build_model(section, **remembered)
  if issubclass(task_class, classification.Classification):
    section = {**section, "num_classes": about["num_classes"]}
  else:
    options = task_class.public_options(config["task"])
    other_task = {"section": options, "about": remembered}
    loss = None
  params = checkpoint.read_params(workdir)
  # The evaluation may have another resolution than the training.
  shape, video = report.get("image_shape", about["image_shape"]), None
  window, stride = evaluation.get("window"), None
  if model.input == "video":
    from tokenlearner_flexivit.data.sources.video_folder import (
      source as video_folder,  # Importing TFDS takes a while.
    )

    fps, size = video_folder.fps_and_size(data["name"])
    video = {"fps": fps, "size": size}
    prepared = videos.Preparation(data["pp"], shape, **video).shape
    shape = views.shape_of_one(prepared, model)
  elif window is not None:
    shape = (*tiling.to_pair(window), shape[-1])
    stride = tiling.to_pair(evaluation.get("stride") or window)
  else:
    shape = images.common_shape(data["pp"], shape[-1]) or shape
  if not report:
    warnings.warn(
      f"The run in {workdir} has no report, so it has not ended: these are the "
      "weights of its newest checkpoint, and no accuracies are known.",
      stacklevel=4,
    )
  step = checkpoint.newest_step(workdir)
  reported = report.get("train", {}).get("steps", step)
  if reported != step:
    warnings.warn(
      f"The report in {workdir} is of step {reported}, but the newest weights, "
      f"which are taken, are of step {step}: its accuracies are not theirs. "
      "Let the run end, or evaluate it: python -m tokenlearner_flexivit.main "
      f"--mode=eval --workdir={workdir}",
      stacklevel=4,
    )
  trained = runs.trained_dials(config, model)
  return _build(
    params,
    model_section=section,
    pp=data["pp"],
    image_shape=shape,
    loss=loss,
    settings=trained.settings,
    class_names=about.get("class_names"),
    recorded=_named_alike(report.get("settings", []), trained, model),
    training=_about_training(config["data"], data, report),
    headline=_headline(report),
    shown=report.get("metrics", {}).get(_headline(report)),
    other_task=other_task,
    video=video,
    stride=stride,
  )


def _evaluation(
  config: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Returns the section of the evaluation that a report's settings are of.

  Args:
    config: of the run.
    report: of the run, or empty. It holds the config of the evaluation, which
      may differ, unless it is of an older version.

  Returns:
    The section, or that of `runs.test_evaluation`; None without evaluations.
  """
  configs = [report.get("config") or config, config]
  for candidate in configs:
    entry = candidate["evals"].get(report.get("evaluation"))
    if entry is not None:
      return entry
  return next(filter(None, map(runs.test_evaluation, configs)), None)


def _headline(report: Mapping[str, Any]) -> str:
  """Returns the metric that a report's settings are compared by."""
  if "headline" in report:
    return report["headline"]
  # Reports of version 0.1 may not name it.
  rows = report.get("settings") or [{}]
  names = [name for name in ("accuracy", "mAP", "agree1") if name in rows[0]]
  few = [name for name in rows[0] if name.endswith("shot") and "/" not in name]
  few.sort(key=lambda name: int(name.removesuffix("shot")))
  return (names or few[-1:] or ["accuracy"])[0]


def _named_alike(
  rows: Sequence[Mapping[str, Any]], trained: dials.Dials, model: nn.Module
) -> list[Mapping[str, Any]]:
  """Returns rows of a report whose settings are named as in the training.

  A training without a dial, such as for learned tokens, names the model's own
  value None; an evaluation may name it by its value.
  """
  own = {
    name: dials.KINDS[name].in_json(value)
    for name, value in model.own_setting.items()
    if None in trained[name].values
  }
  return [
    {
      key: None if own.get(key) is not None and own[key] == value else value
      for key, value in row.items()
    }
    for row in rows
  ]


def _about_training(
  data: Mapping[str, Any],
  test_data: Mapping[str, Any],
  report: Mapping[str, Any],
) -> dict[str, Any]:
  known = ("hardware", "date", "num_examples")
  return {
    "data": _public_name(data["name"]),
    "split": data["split"],
    "evaluation": f"{_public_name(test_data['name'])}, {test_data['split']}",
    **report.get("train", {}),
    **{key: report[key] for key in known if key in report},
  }


def _public_name(name: str) -> str:
  """Returns the name of data without the path, which may be private."""
  kind, colon, rest = name.partition(":")
  return f"{kind}:{pathlib.Path(rest).name}" if colon else name


def _from_file(path: pathlib.Path) -> Trained:
  try:
    with safetensors.safe_open(path, framework="np", backend="pread") as file:
      about = (file.metadata() or {}).get(_METADATA)
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is damaged or no safetensors file: {error}. Give the workdir of"
      " a run, or what export wrote from one."
    ) from error
  if about is None:
    if (path.parent / "config.json").is_file():
      params, about = published.read(path)
      return _build(params, **about)
    raise ValueError(
      f"{path} holds weights alone. Its preprocessing, labels and settings are"
      " missing; give the workdir of its run, a file that export wrote from"
      " one, or a classifier of timm or Hugging Face with configs that tell"
      " them."
    )
  params = traverse_util.unflatten_dict(arrays, sep="/")
  about = json.loads(about)
  about["settings"] = map(_setting, about["settings"])
  return _build(params, **about)


def _setting(saved: Mapping[str, Any] | Sequence[Any]) -> dials.Setting:
  """Returns a setting from its form in a file, a pair in version 0.1."""
  if not isinstance(saved, Mapping):
    saved = dict(zip(("patch_size", "num_tokens"), saved, strict=True))
  return dials.Setting.from_row(saved)


def _build(
  params: Mapping[str, Any],
  *,
  image_shape: Sequence[int],
  settings: Sequence[dials.Setting],
  class_names: Sequence[str] | None,
  recorded: Sequence[Mapping[str, Any]],
  loss: str | None,
  stride: Sequence[int] | None = None,
  **plain: Any,
) -> Trained:
  """Returns the trained model from its JSON values and the parameters."""
  if loss is not None:
    configuration.choose(loss, classification.LINKS, "config.task.loss")
  return Trained(
    params=params,
    image_shape=tuple(image_shape),
    settings=tuple(settings),
    class_names=None if class_names is None else tuple(class_names),
    recorded=tuple(recorded),
    loss=loss,
    stride=None if stride is None else tuple(stride),
    **plain,
  )
