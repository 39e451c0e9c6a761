"""Distances against values worked out by hand; teachers that fit or do not."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.models import test_label_coder
from tests.one_device import OneDevice
from tokenlearner_flexivit import dials, interop, models, parallel, tasks, train
from tokenlearner_flexivit.tasks import distillation
from tokenlearner_flexivit.tasks import teachers as teachers_lib
from tokenlearner_flexivit.train import setup
from tokenlearner_flexivit.train import step as train_step_lib

KEY = jax.random.key(0)
SETTING = dials.Setting((4, 4))
MODEL = dict(
  variant="mu", patch_size=4, posemb_grid=3, head_zeroinit=False, num_classes=5
)
TEACHER = dict(model=MODEL, dtype="float32")
TOWERS = dict(
  name="two_towers",
  head_zeroinit=False,
  text=dict(width=8, depth=1, mlp_dim=8, num_heads=1, vocab_size=5, max_len=4),
)


def make_task(teachers=None, **section):
  teachers = {"prof": TEACHER} if teachers is None else teachers
  section = {"name": "distillation", "teachers": teachers, **section}
  return tasks.create(section, model=models.create(**MODEL), num_classes=5)


def make_batch(*keys):
  rng = np.random.default_rng(0)
  batch = {
    key: jnp.asarray(rng.standard_normal((4, 12, 12, 3), np.float32))
    for key in keys
  }
  return batch | {"label": jnp.asarray([0, 1, 2, 4])}


def weights_of(task):
  """Returns weights of noise for the teachers."""
  images = np.zeros((1, 12, 12, 3))
  return tuple(tiny.init(teacher.model, images) for teacher in task.teachers)


def softmax(x):
  return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def test_kl():
  targets = np.asarray([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], np.float32)
  logits = np.log(np.asarray([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32))
  expected = [
    0.2 * np.log(0.4) + 0.3 * np.log(1.2) + 0.5 * np.log(2),
    np.log(5),  # Where the teacher is sure, no 0 * log(0) gets in.
  ]
  distance = distillation.kl(jnp.asarray(targets), jnp.asarray(logits))
  np.testing.assert_allclose(distance, expected, rtol=1e-5)


def test_binary_kl():
  targets = jnp.asarray([[0.25, 1.0]])
  logits = jnp.asarray([[0.0, np.log(3.0)]])  # Probabilities 1/2 and 3/4.
  expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5) + np.log(4 / 3)
  distance = distillation.binary_kl(targets, logits)
  np.testing.assert_allclose(distance, [expected], rtol=1e-5)


@pytest.mark.parametrize("distance", list(distillation.DISTANCES))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(distance):
  task = make_task(distance=distance, loss="sigmoid_xent", temperature=2.0)
  constants, batch = weights_of(task), make_batch("image")

  @jax.jit
  def step(params):
    prepared = task.prepare(batch, KEY, constants)
    loss = functools.partial(task.loss, setting=SETTING)
    return jax.value_and_grad(loss, has_aux=True)(params, prepared, KEY)

  (value, (metrics, _)), grads = step(constants[0])
  np.testing.assert_allclose(value, 0, atol=1e-6)
  assert metrics["agreement"] == 1
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-5


def test_a_single_class_is_always_agreed_on_and_the_log_leaves_it_out():
  model = MODEL | {"num_classes": 1}
  section = {
    "name": "distillation",
    "loss": "sigmoid_xent",
    "label_weight": 1.0,
  }
  section["distance"] = "binary_kl"
  section["teachers"] = {"prof": TEACHER | {"model": model}}
  task = tasks.create(section, model=models.create(**model), num_classes=1)
  constants = weights_of(task)
  batch = make_batch("image") | {"label": jnp.ones((4, 1))}

  def loss(params):
    prepared = task.prepare(batch, KEY, constants)
    return task.loss(params, prepared, KEY, setting=SETTING)

  _, (metrics, _) = jax.eval_shape(loss, constants[0])
  assert set(metrics) == {"distance", "label_loss"}


def test_loss_is_the_scaled_distance_to_the_mean_of_the_teachers():
  second = TEACHER | {"model": MODEL | {"head_bias_init": 0.0, "pool": "map"}}
  task = make_task(
    {"a": TEACHER, "b": second}, temperature=2.0, label_weight=0.5
  )
  batch, constants = make_batch("image"), weights_of(task)
  params = tiny.init(task.model, batch["image"][:1], scale=0.3)

  @jax.jit
  def program(params, constants):
    answers = [
      teacher.logits(weights, batch["image"])
      for teacher, weights in zip(task.teachers, constants, strict=True)
    ]
    prepared = task.prepare(batch, KEY, constants)
    loss = task.loss(params, prepared, KEY, setting=SETTING)
    logits = task.predict(params, batch, SETTING)
    return answers, prepared["target"], loss, logits

  answers, given, (value, (metrics, _)), logits = jax.device_get(
    program(params, constants)
  )
  target = np.mean([softmax(a / 2) for a in answers], axis=0)
  np.testing.assert_allclose(given, target, rtol=1e-5)
  kl = (target * np.log(target / softmax(logits / 2))).sum(axis=-1).mean()
  label = -np.log(softmax(logits))[np.arange(4), batch["label"]].mean()
  np.testing.assert_allclose(metrics["distance"], kl, rtol=1e-4)
  np.testing.assert_allclose(metrics["label_loss"], label, rtol=1e-5)
  np.testing.assert_allclose(value, 4 * kl + 0.5 * label, rtol=1e-4)


def test_weights_are_read_once_and_lie_on_the_devices(monkeypatch):
  """One copy, which the training and all evaluations share."""
  reads = []
  weights = {"kernel": np.ones((2, 3), np.float32)}

  def load(teacher):
    reads.append(teacher.where)
    return weights

  monkeypatch.setattr(teachers_lib.Teacher, "load", load)
  task = make_task({"a": TEACHER, "b": TEACHER})
  assert not reads
  devices = parallel.create()
  first, again = task.constants(devices), task.constants(devices)
  assert reads == ["config.task.teachers.a", "config.task.teachers.b"]
  for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
    assert x is y
    assert x.sharding.device_set == set(jax.devices())
    assert x.is_fully_replicated


def test_a_model_in_place_of_its_teacher():
  """The targets of the others are the answers of its largest setting."""
  task = make_task(temperature=2.0, label_weight=0.5)
  answer = jnp.asarray([[2.0, 0.0, 0.0, 1.0, 0.0]] * 4)
  prepared = {"image": jnp.zeros((4, 12, 12, 3)), "target": 0, "label": 0}
  batch = task.imitate(prepared, answer)
  np.testing.assert_allclose(batch["target"], softmax(answer / 2), rtol=1e-6)
  np.testing.assert_allclose(batch["label"], softmax(answer), rtol=1e-6)


def test_teacher_sees_the_same_mixup_at_its_own_resolution(monkeypatch):
  teacher = TEACHER | {"image": "large", "patch_size": 8}
  task = make_task({"prof": teacher}, mixup_alpha=1.0)
  assert task.batch_keys == ("image", "large")  # No labels.
  batch = make_batch("image", "large")
  batch["large"] = jnp.repeat(jnp.repeat(batch["image"], 2, 1), 2, 2)
  seen = []

  def logits(teacher, params, images):
    del teacher, params
    seen.append(images)
    return jnp.zeros((4, 5))

  monkeypatch.setattr(teachers_lib.Teacher, "logits", logits)
  prepared = task.prepare(batch, KEY, ({},))
  assert set(prepared) == {"image", "target"}
  chex.assert_shape(seen[0], (4, 24, 24, 3))
  np.testing.assert_array_equal(seen[0][:, ::2, ::2], prepared["image"])
  assert not np.allclose(prepared["image"], batch["image"])


def test_teacher_is_computed_once_outside_the_branches(small_config):
  """In a switch over three sizes, the teacher's products are there once."""
  config = small_config
  config.flexi.patch_size.values = (6, 4, 3)
  model = dict(width=40, depth=1, mlp_dim=80, num_heads=2, patch_size=4)
  teachers = dict(prof=dict(model=model, dtype="float32"))
  config.task = dict(name="distillation", teachers=teachers)
  run = setup.Experiment(config)
  batch = {"image": jnp.zeros((2, 12, 12, 3))}
  step = train_step_lib.make_train_step(
    run.task, optax.sgd(0.1), run.dials, OneDevice(), seed=0
  )
  state = jax.eval_shape(
    lambda params: train_step_lib.create_state(
      params, optax.sgd(0.1), ema=False
    ),
    run.init_shapes(),
  )
  shapes = run.task.constant_shapes()
  text = str(jax.make_jaxpr(step)(state, batch, shapes))
  # The MLP of the teacher, and of nothing else, has 80 hidden features; its
  # backward pass would have products with that width as well.
  products = [
    line
    for line in text.splitlines()
    if "dot_general" in line and ",80]" in line
  ]
  assert len(products) == 1, products


@pytest.mark.slow
def test_a_run_teaches_a_student_that_starts_from_it(config, tmp_path):
  """Teacher: a workdir. Student: the same weights by `init`, fewer tokens."""
  config.evals = {}
  config.flexi = dict(patch_size=dict(values=(6, 4)))
  train.train_and_evaluate(config, tmp_path / "teacher")
  config.init = str(tmp_path / "teacher")
  config.task = dict(
    name="distillation",
    teachers=dict(prof=dict(init=config.init, patch_size=3, dtype="float32")),
    mixup_alpha=1.0,
  )
  state, history = train.train_and_evaluate(config, tmp_path / "student")
  assert state.step == 4
  assert all(0 <= r["agreement"] <= 1 for r in history if "agreement" in r)
  # A teacher is no part of the student's checkpoint.
  assert set(vars(state)) == {"step", "params", "opt_state", "ema"}
  loaded = interop.load_params(
    tmp_path / "student", models.create(**config.model, num_classes=5)
  )
  chex.assert_trees_all_close(loaded, jax.device_get(state.params))


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(teachers={}), "at least one"),
    (dict(teachers=["x.npz"]), r"teachers=\['x.npz'\] must be a dict"),
    (dict(teachers={"prof": "x.npz"}), r"prof='x.npz' must be a dict"),
    (dict(label_smoothing=0.1), "label_smoothing=0.1 .*label_weight=0"),
    (dict(temperature="2"), "temperature='2' must be a number"),
    (dict(temperature=0), r"task\.temperature=0 must be a number in \(0, inf"),
    (dict(label_weight=-1), r"task\.label_weight=-1 .*\[0, inf"),
    (dict(distance="binary_kl"), "loss='softmax_xent' .*Set .*'sigmoid_xent'"),
    (dict(distance="l2"), "Known: binary_kl, kl"),
    (dict(teachers={"prof": {}}), "teachers.prof needs init, model, or both"),
    (dict(teachers={"prof": {"file": "x"}}), "prof has no key 'file'"),
    (
      dict(teachers={"prof": {"model": MODEL | {"num_classes": 7}}}),
      "teachers.prof has 7 classes, the student 5",
    ),
    (
      dict(teachers={"prof": {"model": MODEL | {"num_classes": None}}}),
      "no head",
    ),
    *(
      (dict(teachers={"prof": {"model": MODEL | other}}), "a class of an image")
      for other in (dict(name="segmenter"), TOWERS)
    ),
    (dict(teachers={"prof": TEACHER | {"patch_size": 0}}), "no patch size"),
    (dict(teachers={"prof": TEACHER | {"patch_size": True}}), "no patch size"),
    (dict(teachers={"prof": TEACHER | {"num_tokens": True}}), "no number of"),
    (dict(teachers={"prof": {"init": 3}}), "prof.init=3 must be a string"),
    (dict(teachers={"prof": {"model": "B/16"}}), "prof.model='B/16' must be"),
    (
      dict(teachers={"prof": TEACHER | {"image": ["large"]}}),
      r"prof.image=\['large'\] must be a string",
    ),
    (
      dict(teachers={"prof": TEACHER | {"input_mean": [0.4]}}),
      r"prof\.input_mean=\[0\.4\] .*prof\.init expect, which is None",
    ),
    (
      dict(
        teachers={"prof": TEACHER | {"model": MODEL | {"dtype": "bfloat16"}}}
      ),
      r"prof\.dtype='float32', but .*prof\.model\.dtype='bfloat16'",
    ),
    (
      dict(teachers={"prof": TEACHER | {"input_mean": 0.5}}),
      "prof.input_mean=0.5 must be a list",
    ),
    (
      dict(teachers={"prof": TEACHER | {"input_std": [0.2, 0]}}),
      r"prof.input_std=0 must be a number in .* or \(0, inf\)",
    ),
  ],
)
def test_bad_sections(section, message):
  with pytest.raises(ValueError, match=message):
    make_task(**section).teachers  # noqa: B018


def test_a_coder_of_labels_is_no_teacher(tmp_path):
  """It has no number of classes at all."""
  coder = test_label_coder.tiny_model()
  params = tiny.init(coder, np.zeros((1, *coder.image_size, 3)))
  path = tmp_path / "coder.safetensors"
  interop.save_params(params, path, model=coder)
  with pytest.raises(ValueError, match=r"coder.* has no head"):
    make_task({"prof": {"init": str(path)}}).teachers  # noqa: B018


def test_a_student_is_evaluated_without_its_teachers(config, tmp_path):
  config.task = dict(
    name="distillation", teachers={"prof": {"init": str(tmp_path / "gone")}}
  )
  with pytest.raises(FileNotFoundError, match="gone"):
    setup.Experiment(config)
  about = dict(num_classes=5, class_names=None, image_shape=[12, 12, 3])
  assert setup.Experiment(config, about).evaluators["test"].settings


def test_example_without_the_teachers_image(config):
  teacher = TEACHER | {"image": "large"}
  config.task = dict(name="distillation", teachers={"prof": teacher})
  with pytest.raises(
    ValueError, match="pp gives no 'large', only image, label"
  ):
    setup.Experiment(config)


def test_image_that_the_teacher_cannot_cut(config):
  teacher = TEACHER | {"patch_size": 7}
  config.task = dict(name="distillation", teachers={"prof": teacher})
  message = r"teachers\.prof, which sees 'image' .*7x7 does not divide"
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)


def test_a_teacher_computes_as_its_model_says():
  for section, dtype in (
    ({"model": MODEL}, "bfloat16"),
    ({"model": MODEL | {"dtype": "float32"}}, "float32"),
  ):
    (teacher,) = make_task({"prof": section}).teachers
    assert teacher.model.dtype == dtype


def test_a_teacher_of_images_of_other_channels():
  task = make_task()
  (teacher,), (weights,) = task.teachers, weights_of(task)
  message = r"teachers\.prof, which sees 'image' \[12, 12, 1\].*channels"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(teacher.logits, weights, jnp.zeros((2, 12, 12, 1)))


@pytest.fixture
def library_teacher(tmp_path):
  """Returns a function that writes timm's weights, which name five classes."""

  def write(names):
    model = models.create(**MODEL, pool="tok", gelu="erf")
    params = tiny.init(model, np.zeros((1, 12, 12, 3)))
    folder = tmp_path / "timm"
    interop.save_params(
      params, folder, "timm", model=model, input_mean=(0.5,), input_std=(0.5,)
    )
    config = json.loads((folder / "config.json").read_text())
    config["label_names"] = names
    (folder / "config.json").write_text(json.dumps(config))
    return {"prof": {"init": str(folder)}}

  return write


def test_a_teacher_of_a_library_spells_its_classes_otherwise(
  library_teacher, capsys
):
  teachers = library_teacher(["Ant", "big bee", "tench, fish", "dog", "emu"])
  names = ["ant", "big_bee", "n01440764", "dog", "emu"]
  task = make_task(teachers, class_names=names)
  assert task.teachers[0].model.num_classes == 5
  assert (
    "teachers.prof calls 1 of 5 classes by names that the student's training "
    "data does not have, such as 'tench, fish' for 'n01440764'"
  ) in capsys.readouterr().out


def test_a_teacher_of_a_library_with_classes_in_another_order(library_teacher):
  teachers = library_teacher(["Ant", "cat", "Bee", "dog", "emu"])
  task = make_task(teachers, class_names=["ant", "bee", "cat", "dog", "emu"])
  message = "another order than .*'cat' is the class 1 here and 2 there"
  with pytest.raises(ValueError, match=message):
    task.teachers  # noqa: B018


def test_teacher_without_all_its_weights(tmp_path):
  params = jax.device_get(weights_of(make_task())[0])
  del params["head"]
  path = tmp_path / "headless.npz"
  interop.save_params(params, path)
  with pytest.raises(ValueError, match=r"prof: .* has no head"):
    make_task({"prof": {"init": str(path)}}).teachers  # noqa: B018
  task = make_task({"prof": {"init": str(path), "model": MODEL}})
  with pytest.raises(ValueError, match=r"lacks head/.*must be complete"):
    task.constants(parallel.create())
