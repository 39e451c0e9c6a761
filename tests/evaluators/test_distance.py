"""Distances to teachers, by hand and over a split, and what does not fit."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import interop, models, parallel, train
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.evaluators import distance
from tokenlearner_flexivit.tasks import distillation
from tokenlearner_flexivit.tasks import teachers as teachers_lib
from tokenlearner_flexivit.train import setup

MODEL = dict(
  variant="mu",
  depth=1,
  patch_size=(4, 4),
  posemb_grid=(3, 3),
  head_zeroinit=False,
)
TEACHER = dict(model=MODEL, dtype="float32")
LARGE = TEACHER | {"image": "large", "patch_size": 8}
PP = (
  "decode|copy('image','large')|value_range(-1,1)|resize(24,key='large')"
  "|value_range(-1,1,key='large')|keep('image','large','label')"
)
DATA = dict(name="fake:12x12x3:5:21", split="test", pp=PP, num_threads=1)


@pytest.fixture
def config(config):
  """A classification that is compared with a model of its own kind."""
  config.data.pp = PP
  config.model.depth = 1
  config.model.token_learner = None
  config.flexi.patch_size.values = (6, 4)
  evals = dict(type="distance", data=DATA, teachers=dict(prof=TEACHER))
  config.evals = dict(dist=evals)
  return config


# One example

distances = jax.jit(distance.distances, static_argnums=2)


def test_distances_by_hand():
  teacher = np.asarray([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], np.float32)
  student = np.asarray([[0.25, 0.5, 0.25], [0.1, 0.6, 0.3]], np.float32)
  measures = distances(np.log(student), np.log(teacher), "kl")
  kl = [
    0.2 * np.log(0.8) + 0.3 * np.log(0.6) + 0.5 * np.log(2),
    0.8 * np.log(4 / 3) + 0.1 * np.log(1 / 3),
  ]
  np.testing.assert_allclose(measures["kl"], kl, rtol=1e-5)
  euclidean = [
    np.linalg.norm(np.log([0.8, 0.6, 2])),
    np.linalg.norm(np.log([1, 4 / 3, 1 / 3])),
  ]
  np.testing.assert_allclose(
    measures["logsoftmax_euclidean"], euclidean, rtol=1e-5
  )
  np.testing.assert_array_equal(measures["agree1"], [0, 1])
  assert "agree5" not in measures  # Of three classes.


def test_agree5_looks_for_the_teachers_best_among_the_students_five():
  """Not the other way round."""
  ranked = np.arange(10, 0, -1, dtype=np.float32)
  student = np.stack([ranked] * 3)
  # The student's fifth; its sixth; and its sixth, with its best as the second.
  sixth = [2, 1, 1, 1, 1, 3, 1, 1, 1, 1]
  teacher = np.stack([np.roll(ranked, 4), np.roll(ranked, 5), sixth])
  measures = distances(student, teacher.astype(np.float32), "kl")
  np.testing.assert_array_equal(measures["agree5"], [1, 0, 0])
  np.testing.assert_array_equal(measures["agree1"], [0, 0, 0])


@pytest.mark.parametrize("name", list(distillation.DISTANCES))
def test_a_model_is_at_no_distance_from_itself(name):
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((3, 10)).astype(np.float32)
  measures = jax.device_get(distances(logits, logits, name))
  np.testing.assert_allclose(measures[name], 0, atol=1e-5)
  assert (measures["logsoftmax_euclidean"] == 0).all()
  assert (measures["agree1"] == 1).all() and (measures["agree5"] == 1).all()


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_what_is_not_a_number_agrees_with_nothing(broken):
  """The first class is best of none, and is not the answer of a NaN."""
  logits = np.zeros((2, 9), np.float32)
  logits[:, 0] = 1
  both = {"student": logits, "teacher": logits}
  both[broken] = np.where([[True], [False]], np.float32(np.nan), logits)
  measures = distances(both["student"], both["teacher"], "kl")
  np.testing.assert_array_equal(measures["agree1"], [0, 1])
  np.testing.assert_array_equal(measures["agree5"], [0, 1])


# A split


def softmax(x):
  return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def check_softmax(measures, answers, logits, labels):
  target, student = softmax(answers).mean(axis=1), softmax(logits)
  kl = (target * np.log(target / student)).sum(axis=-1).mean()
  assert measures["kl"] == pytest.approx(kl, rel=1e-4)
  difference = np.log(target / student)
  norm = np.linalg.norm(difference, axis=-1).mean()
  assert measures["logsoftmax_euclidean"] == pytest.approx(norm, rel=1e-4)
  loss = -np.log(target[np.arange(len(labels)), labels]).mean()
  return target, loss


def check_sigmoid(measures, answers, logits, labels):
  target, student = sigmoid(answers).mean(axis=1), sigmoid(logits)
  present = target * np.log(target / student)
  absent = (1 - target) * np.log((1 - target) / (1 - student))
  kl = (present + absent).sum(axis=-1).mean()
  assert measures["binary_kl"] == pytest.approx(kl, rel=1e-4)
  right = np.eye(5)[labels]
  chosen = right * np.log(target) + (1 - right) * np.log(1 - target)
  return target, -chosen.sum(axis=-1).mean()


@pytest.mark.parametrize("sigmoids", [True, False])
def test_every_example_counts_once_for_every_setting(
  config, sigmoids, monkeypatch
):
  """Read once, asked once, and the same as one batch of the whole split.

  Linear maps stand in for the models: what they are is no matter here.
  """
  noise = np.random.default_rng(0).standard_normal
  weights = {
    key: noise((3, 5)).astype(np.float32) for key in ("image", "large")
  }
  params = {p: noise((3, 5)).astype(np.float32) for p in ("patch6", "patch4")}
  reads, traces = collections.Counter(), collections.Counter()
  read = fake.FakeSource.__getitem__

  def counting_read(source, index):
    reads[index] += 1
    return read(source, index)

  def linear(weights, images):
    corners = images[:, 0, 0] + images[:, -1, -1]
    # A bias, so that the zeros which fill the last batch are not all equal.
    return corners @ weights + weights[:1]

  def teacher_logits(teacher, weights, images):
    assert (
      images.shape[1:]
      == dict(image=(12, 12, 3), large=(24, 24, 3))[teacher.image]
    )
    traces[teacher.image] += 1
    return linear(weights, images)

  monkeypatch.setattr(teachers_lib.Teacher, "logits", teacher_logits)
  monkeypatch.setattr(
    teachers_lib.Teacher, "load", lambda teacher: weights[teacher.image]
  )
  config.task = dict(
    name="distillation",
    teachers=dict(large=LARGE, prof=TEACHER),
    distance="binary_kl" if sigmoids else "kl",
    loss="sigmoid_xent" if sigmoids else "softmax_xent",
    temperature=2.0,  # Of training alone.
  )
  del config.evals.dist["teachers"]
  experiment = setup.Experiment(config)
  monkeypatch.setattr(
    experiment.task,
    "predict",
    lambda params, batch, setting: linear(params[setting.name], batch["image"]),
  )
  evaluator = experiment.evaluators["dist"]
  traces.clear()  # Of the check at the start.
  with monkeypatch.context() as patch:
    patch.setattr(fake.FakeSource, "__getitem__", counting_read)
    results = dict(evaluator.run(parallel.create().place(params)))
  assert reads == dict.fromkeys(range(21), 1)
  assert traces == {"large": 1, "image": 1}  # In no setting's program.

  (batch,) = data_lib.eval_batches(DATA, batch_size=21)
  labels = batch["label"]
  answers = np.stack([linear(w, batch[k]) for k, w in weights.items()], axis=1)
  for name, matrix in params.items():
    logits = linear(matrix, batch["image"])
    measures = {
      k.removeprefix(f"{name}/"): v
      for k, v in results.items()
      if k.startswith(f"{name}/")
    }
    check = check_sigmoid if sigmoids else check_softmax
    target, loss = check(measures, answers, logits, labels)
    agree = np.mean(logits.argmax(axis=-1) == target.argmax(axis=-1))
    assert measures["agree1"] == pytest.approx(agree)
    assert measures["examples"] == 21  # In batches of 16: 16 and 5.
    assert len(measures) == 4  # Of five classes, no `agree5`.
  accuracy = np.mean(target.argmax(axis=-1) == labels)
  assert results["teacher/accuracy"] == pytest.approx(accuracy)
  assert results["teacher/loss"] == pytest.approx(loss, rel=1e-4)
  assert len(results) == 2 * 4 + 4


def test_a_model_compared_with_its_own_weights(config, tmp_path):
  """Without labels, which nothing but the teacher's accuracy needs."""
  model = models.create(**MODEL, num_classes=5)
  params = tiny.init(model, np.zeros((1, 12, 12, 3)))
  interop.save_params(params, tmp_path / "prof.npz")
  config.model = MODEL
  config.flexi.patch_size.values = (4,)
  config.evals.dist.data.pp = "decode|value_range(-1,1)|keep('image')"
  config.evals.dist.teachers.prof = dict(
    init=str(tmp_path / "prof.npz"), model=MODEL, dtype="float32"
  )
  evaluator = setup.Experiment(config).evaluators["dist"]
  params = parallel.create().place(params)
  results = dict(evaluator.run(params))
  names = ("kl", "agree1", "logsoftmax_euclidean", "examples")
  assert sorted(results) == sorted(f"patch4/{name}" for name in names)
  assert results["patch4/agree1"] == 1
  assert results["patch4/kl"] == pytest.approx(0, abs=1e-6)
  assert results["patch4/logsoftmax_euclidean"] == pytest.approx(0, abs=1e-5)
  speed = evaluator.throughput(params, repeats=1)
  assert list(speed) == list(evaluator.settings) and min(speed.values()) > 0


@pytest.mark.slow
def test_a_run_logs_and_reports_them(config, tmp_path):
  config.task = dict(name="distillation", teachers=dict(prof=TEACHER))
  config.evals.dist = dict(type="distance", data=DATA)
  config.evals.ens = dict(type="ensemble", data=DATA)
  _, history = train.train_and_evaluate(config, tmp_path)
  logged = {k: v for record in history for k, v in record.items()}
  assert 0 <= logged["dist/teacher/accuracy"] <= 1
  assert 0 <= logged["ens/patch6+patch4/accuracy"] <= 1
  report = (tmp_path / "report.json").read_text()
  assert "dist/kl" in report
  results = train.evaluate(None, tmp_path)
  for name, value in results["dist"].items():
    assert value == pytest.approx(logged[f"dist/{name}"])


# Mistakes in the config, found before the first step


def test_one_class_is_always_agreed_on(config):
  config.data.name = config.evals.dist.data.name = "fake:12x12x3:1:21"
  config.task.loss = "sigmoid_xent"
  with pytest.raises(ValueError, match=r"one class .* agree1 says nothing"):
    setup.Experiment(config)


@pytest.mark.parametrize(
  "teachers, message",
  [
    (None, "evals.dist needs teachers, .* this run trains without"),
    ({}, "evals.dist.teachers is empty"),
    (
      {"prof": TEACHER | {"model": MODEL | {"num_classes": 7}}},
      "dist.teachers.prof has 7 classes, the student 5",
    ),
    (
      {"prof": TEACHER | {"model": MODEL | {"num_classes": None}}},
      "dist.teachers.prof: .*no head",
    ),
    ({"prof": {}}, "dist.teachers.prof needs init, model, or both"),
    ({"prof": TEACHER | {"image": "huge"}}, "dist.data.pp gives no 'huge'"),
    (
      {"prof": TEACHER | {"patch_size": 7}},
      r"dist.data.pp: .*dist.teachers.prof, which sees 'image' \[12, 12, 3\]",
    ),
  ],
)
def test_teachers_that_do_not_fit(config, teachers, message):
  if teachers is None:
    del config.evals.dist["teachers"]
  else:
    config.evals.dist["teachers"] = teachers
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)


def test_weights_that_are_not_complete_are_found_before_the_first_step(
  config, tmp_path
):
  model = models.create(**MODEL, num_classes=5)
  images = jnp.zeros((1, 12, 12, 3))
  params = jax.jit(model.init)(jax.random.key(1), images)["params"]
  del params["head"]
  interop.save_params(params, tmp_path / "prof.npz")
  config.evals.dist.teachers.prof.init = str(tmp_path / "prof.npz")
  with pytest.raises(ValueError, match=r"dist.teachers.prof: .* lacks head/"):
    setup.Experiment(config)


def test_labels_of_other_classes(config, monkeypatch):
  monkeypatch.setattr(teachers_lib.Teacher, "load", lambda _: {})
  monkeypatch.setattr(teachers_lib.Teacher, "logits", lambda *_: None)
  config.evals.dist.data.name = "fake:12x12x3:9:21"
  with pytest.raises(ValueError, match=r"dist.data has 9 classes"):
    setup.Experiment(config)
  config.evals.dist.data.pp = "decode|value_range(-1,1)|keep('image')"
  setup.Experiment(config)


def test_teachers_of_the_task_see_the_images_of_the_evaluation(
  config, untrained_run, capsys
):
  """Refuses what does not fit them before the first step."""
  teacher = dict(init=str(untrained_run), dtype="float32")
  config.task = dict(name="distillation", teachers=dict(prof=teacher))
  pp = "decode|value_range({})|keep('image')"
  config.data.pp = pp.format("-1,1")
  config.evals.dist = dict(
    type="distance", data=DATA | {"pp": pp.format("0,1")}
  )
  setup.Experiment(config)
  warning = (
    f"WARNING: config.task.teachers.prof.init={untrained_run} was trained on "
    "images in [0, 1] minus [0.5], divided by [0.5], but 'image' of "
    "config.evals.dist.data.pp is"
  )
  assert warning in capsys.readouterr().out
  config.evals.dist.data.pp = "decode(1)|value_range(-1,1)|keep('image')"
  message = r"teachers\.prof, which sees 'image' \[12, 12, 1\].*channels"
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)
