"""A task, its head and its evaluator from outside of the package."""

import contextlib
import csv
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_config
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import (
  evaluators,
  inference,
  models,
  predict,
  tasks,
  train,
)
from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.inference import export, model_card


class Counting(tasks.Task):
  """Says how many there are, and how sure it is of it: two numbers."""

  headline = "within"
  remembered = ("unit",)
  is_mean = False

  def __init__(self, model, unit, delta=1.0):
    super().__init__(model)
    self.unit, self._delta = unit, delta

  @classmethod
  def about(cls, model_section, data_section, source):
    return {"unit": f"things in {source.name}"}

  @classmethod
  def build_model(cls, section, **about):
    return models.create(**{**section, "num_classes": 2})

  @property
  def batch_keys(self):
    return self.model.input, "label"

  def _answer(self, outputs):
    return {"count": outputs[:, 0], "doubt": jax.nn.softplus(outputs[:, 1])}

  def loss(self, params, batch, key, setting, parallel=None):
    outputs, _ = self.model.apply(
      {"params": params}, batch["image"], **setting, train=True
    )
    answer = self._answer(outputs)
    error = jnp.abs(answer["count"] - batch["label"])
    loss = (error / self._delta + (answer["doubt"] - error) ** 2).mean()
    return loss, ({"error": error.mean()}, answer)

  def predict(self, params, batch, setting):
    return self._answer(super().predict(params, batch, setting))


class Evaluator(base.Evaluator):
  """Measures how far the counts are from the truth."""

  metrics = {  # noqa: RUF012
    "within": Metric("within 1", "%", is_share=True),
    "error": Metric("mean error", "things"),
  }
  headline = "within"

  def __init__(self, context, data):
    super().__init__(context)
    source = data_lib.open_source(data, f"{context.where}.data")
    self.sources = (source,)
    self._images = self._open(data, source)
    self.image_shape = self._images.shape
    self._answers = self._answer_programs()

  def run(self, params):
    errors = {setting: [] for setting in self.settings}
    for batch in self._images:
      real = np.asarray(batch["mask"]).ravel() > 0
      truth = np.asarray(batch["label"]).ravel()[real]
      for setting, program in self._answers.items():
        answer = program(params, self._inputs(batch))
        counts = np.asarray(answer["count"]).ravel()[real]
        errors[setting].extend(np.abs(counts - truth))
    for setting, values in errors.items():
      yield f"{setting.name}/within", float(np.mean(np.less(values, 1)))
      yield f"{setting.name}/error", float(np.mean(values))
      yield f"{setting.name}/examples", len(values)

  def _timed(self, params):
    inputs = self._inputs(next(iter(self._images)))
    return self._answers, (params, inputs)


@pytest.fixture(scope="module", autouse=True)
def _registered():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.TASKS, "counting", Counting)
    patch.setitem(evaluators.EVALUATORS, "counting", Evaluator)
    yield


def counting_config():
  config = make_config()
  config.task = dict(name="counting", delta=2.0)
  config.flexi = dict(patch_size=dict(values=(6,)))
  config.evals.test.update(type="counting", patch_sizes=(6, 4))
  config.model.update(rep_size=8, depth=1)
  config.model.token_learner = None
  return config


@pytest.fixture
def counting():
  return counting_config()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run: its workdir, state, history and what it printed."""
  workdir = tmp_path_factory.mktemp("run")
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    state, history = train.train_and_evaluate(counting_config(), workdir)
  return workdir, state, history, printed.getvalue()


def test_it_is_trained_evaluated_and_reported(run, tmp_path):
  workdir, state, history, printed = run
  tmp_path = shutil.copytree(workdir, tmp_path / "run")
  assert state.params["head"]["kernel"].shape == (8, 2)
  assert all("error" in record for record in history if "loss" in record)
  about = json.loads((tmp_path / "about_data.json").read_text())
  assert about["unit"].startswith("things in fake")
  assert "num_classes" not in about

  report = json.loads((tmp_path / "report.json").read_text())
  assert report["headline"] == "within" and report["num_examples"] == 21
  assert report["metrics"]["error"]["unit"] == "things"
  assert [row["patch_size"] for row in report["settings"]] == [6, 4]
  text = (tmp_path / "report.md").read_text()
  for column in ("within 1 %", "95 % interval", "mean error things"):
    assert column in text
  assert (tmp_path / "patch_sizes.png").stat().st_size > 10_000
  assert "test within 1 in %" in printed

  again = train.evaluate(None, tmp_path)
  assert again["test"]["patch4/error"] == report["settings"][1]["error"]


def test_it_is_used(run, tmp_path, capsys, monkeypatch):
  workdir, state, *_ = run
  predictor = inference.Predictor.load(workdir)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (3, 12, 12, 3), np.uint8)
  predictions = predictor.predict(images, patch_size=4)
  prepared, _ = predictor.preprocess(images)
  setting = predictions[0].setting
  answer = jax.jit(predictor.trained.task.predict, static_argnums=2)
  expected = answer(state.params, {"image": prepared}, setting)
  for i, prediction in enumerate(predictions):
    assert not prediction.labels
    for key, value in prediction.answer.items():
      np.testing.assert_allclose(value, expected[key][i], rtol=1e-4, atol=1e-5)

  embedded = predictor.embed([*images[:2], b"nothing"], patch_size=4)
  assert list(embedded.errors) == [2] and np.isnan(embedded.vectors[2]).all()
  batch = {"image": prepared[:2]}
  represent = jax.jit(
    predictor.trained.task.representation, static_argnums=(2, 3)
  )
  rep = represent(state.params, batch, setting, "pre_logits")
  assert rep.shape == (2, 8)
  np.testing.assert_allclose(embedded.vectors[:2], rep, rtol=1e-4, atol=1e-5)
  patches = predictor.embed(images, patch_size=4, representation="with_posemb")
  assert patches.vectors.shape == (3, predictor.trained.model.width)
  with pytest.raises(ValueError, match=r"representation='text'.*pre_logits"):
    predictor.embed(images, representation="text")

  path = tmp_path / "photo.png"
  Image.fromarray(images[0]).save(path)
  count = float(predictions[0].answer["count"])

  def printed(*flags):
    command = [str(path), f"--workdir={workdir}", "--patch_size=4", *flags]
    with pytest.raises(SystemExit) as done:
      predict.main(command)
    assert not done.value.code, done.value.code
    return capsys.readouterr().out

  capsys.readouterr()
  (answer,) = json.loads(printed("--json"))["predictions"]
  assert answer["answer"]["count"] == pytest.approx(count, rel=1e-4)
  head, line = csv.reader(printed("--csv").splitlines())
  assert head == ["image", "count", "doubt", "error"]
  assert line[0] == str(path) and not line[3]
  assert float(line[1]) == pytest.approx(count, rel=1e-4)
  folder = tmp_path / "answers"
  assert f"in {folder}" in printed(f"--output={folder}")
  assert [file.name for file in folder.iterdir()] == ["photo.npz"]
  with np.load(folder / "photo.npz") as file:
    saved = dict(file)
  assert saved["count"] == pytest.approx(count, rel=1e-4)

  # An answer that no table holds, and a file of the task's own.
  def with_a_map(self, params, batch, setting):
    answer = self._answer(tasks.Task.predict(self, params, batch, setting))
    return {**answer, "map": batch["image"][..., 0] > 0}

  def write(self, answer, path):
    path = path.with_suffix(".png")
    Image.fromarray(np.uint8(255 * answer["map"])).save(path)
    return path

  monkeypatch.setattr(Counting, "predict", with_a_map)
  monkeypatch.setattr(Counting, "write", write)
  assert "'map': 'bool [12, 12]'" in printed()
  with pytest.raises(
    AssertionError, match=r"--csv: .*map \[12, 12\].*--output"
  ):
    printed("--csv")
  folder = tmp_path / "maps"
  printed(f"--output={folder}")
  shown = np.asarray(Image.open(folder / "photo.png"))
  np.testing.assert_array_equal(shown > 0, prepared[0, ..., 0] > 0)


def test_it_is_exported_and_described(run, tmp_path):
  workdir, *_ = run
  trained = inference.Predictor.load(workdir).trained
  setting = trained.known_settings[-1]
  path = export.write(trained, tmp_path / "export", [setting])
  manifest = json.loads(path.read_text())
  assert manifest["output"] == {"values": "answer", "task": "counting"}
  assert manifest["metric"] == "within"
  (row,) = manifest["settings"]
  assert row["answer"]["count"] == {"shape": ["batch"], "dtype": "float32"}
  assert 0 <= row["within"] <= 1 and "accuracy" not in row
  readme = (path.parent / "README.md").read_text()
  assert "# An image model for counting, exported" in readme
  assert "within 1 %" in readme and "`doubt` float32 [batch]" in readme
  code = readme.split("```python\n")[1].split("```")[0]
  images = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype("f4")
  code = code.replace("np.zeros((1, 12, 12, 3), np.float32)", "given")
  names = {"given": images}
  with contextlib.chdir(path.parent):
    exec(code, names)
  answer = jax.jit(trained.task.predict, static_argnums=2)
  expected = answer(trained.params, {"image": images}, setting)
  assert names["answer"].keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(names["answer"][key], value, atol=1e-5)

  card = model_card.write(trained, tmp_path / "hub")
  text = card.read_text()
  for words in (
    "# An image model for counting with 2 settings",
    "## Within 1 and cost",
    "within 1 %, 21 images",
    "An answer has `count` float32 [batch], `doubt` float32 [batch].",
    '"name": "within 1 (patch4)"',
  ):
    assert words in text
  for words in ("classif", "pipeline_tag", "logits", "ccuracy", "classes"):
    assert words not in text
  assert (tmp_path / "hub" / "plane.png").stat().st_size > 10_000
  for folder in ("export", "hub"):
    again = inference.Predictor.load(tmp_path / folder)
    assert again.trained.describe() == trained.describe()
    assert again.choose(gmacs=1e3) in trained.known_settings


def test_a_loss_that_is_no_mean_is_not_accumulated(counting, tmp_path):
  counting.accumulate = 2
  with pytest.raises(ValueError, match="loss of Counting is no mean"):
    train.train_and_evaluate(counting, tmp_path)


def test_its_keys_are_checked(counting, tmp_path):
  counting.task.dleta = 3
  with pytest.raises(ValueError, match=r"dleta.*delta"):
    train.train_and_evaluate(counting, tmp_path)


def test_answers_that_are_no_targets(counting, tmp_path):
  counting.flexi.patch_size.values = (6, 4)
  counting.flexi.update(sandwich=True, inplace_distillation=True)
  with pytest.raises(ValueError, match="Counting cannot learn from its own"):
    train.train_and_evaluate(counting, tmp_path)
