"""Plans of runs: what their steps need of chips, which need not be there."""

import importlib
import importlib.util
import json
import math
import pathlib
import types

import jax
import pytest

from configs import (
  flexify,
  owl_vit,
  panoptic_scenes,
  segmenter,
  siglip,
  uvim,
  uvim_code,
)
from tests import image_text
from tests.conftest import make_config
from tokenlearner_flexivit import (
  data,
  interop,
  models,
  overrides,
  plan,
  planning,
)
from tokenlearner_flexivit.interop import released
from tokenlearner_flexivit.models import layer_costs
from tokenlearner_flexivit.parallel import compiled, topologies
from tokenlearner_flexivit.planning import stand_ins
from tokenlearner_flexivit.planning import steps as steps_lib
from tokenlearner_flexivit.train import setup

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def one_block_config():
  config = make_config()
  config.model.depth, config.model.token_learner = 1, None
  return config


def steps_of(config, *numbers):
  return steps_lib.Steps(
    stand_ins.config_without_files(config, *numbers),
    topologies.create(topologies.HERE),
    steps_lib.Progress(print),
  )


@pytest.fixture(scope="module")
def planned():
  """The plan of a tiny run for the devices of the tests."""
  said = []
  content = planning.make(
    one_block_config(), "here", dispatch="both", largest=False, say=said.append
  )
  return content, said


def test_a_plan_counts_what_its_programs_need(planned):
  content, said = planned
  assert content["chips"] == jax.device_count()
  assert content["batch_per_chip"] == 16 // jax.device_count()
  assert [row["patch_size"] for row in content["settings"]] == [6, 3]
  for row in [*content["settings"], content["switch"]]:
    assert row["fits"] and row["memory"] > content["state"] > 0
    assert row["bound_seconds"] is None  # A CPU's peak is not known.
  assert "about" in said[0] and "about" not in said[-1]


def test_operations_are_three_forward_passes(planned):
  content, _ = planned
  model = models.create(num_classes=5, **one_block_config().model)
  for row in content["settings"]:
    macs = model.cost((12, 12, 3), patch_size=(row["patch_size"],) * 2)
    assert row["flops"] == 6 * macs * content["batch_per_chip"]
  per_image = [
    6 * model.cost((12, 12, 3), patch_size=(size, size)) for size in (6, 4, 3)
  ]
  totals = content["totals"]
  assert totals["flops_per_image"] == pytest.approx(sum(per_image) / 3)
  assert (totals["steps"], totals["images"]) == (4, 64)


@pytest.mark.parametrize(
  "freeze, products, embeds",
  [
    ("(?!head/).*", 0, False),
    ("embedding|pos_embedding|Transformer/encoderblock_0", 4, False),
    # Gradients pass through what is frozen to the embedding.
    ("Transformer/encoderblock_[01]", 4, True),
    ("Transformer/encoderblock_2", 5, True),
    (None, 6, True),
  ],
)
def test_what_is_frozen_has_no_backward_pass(freeze, products, embeds):
  config = make_config()
  config.model.token_learner = None
  config.model.depth = 3
  config.optimizer.freeze = freeze
  steps = steps_of(config)
  model, size = steps.experiment.task.model, steps.branches[0].patch_size
  n = 12**2 // math.prod(size)
  block = layer_costs.block(n, model.width, model.mlp_dim, model.num_heads).macs
  others = 5 * model.width + embeds * 12 * 12 * 3 * model.width
  backward = products * block + 2 * others
  forward = model.cost((12, 12, 3), patch_size=size)
  assert steps.flops(0) == 2 * (forward + backward)


def test_a_locked_image_tower_learns_nothing():
  config = importlib.import_module("configs.lit").get_config("runlocal")
  config.data.num_threads = 1
  flops = {}
  for freeze in (config.optimizer.freeze, None):
    config.optimizer.freeze = freeze
    steps = steps_of(config, 64)
    flops[freeze is None] = steps.flops(0)
  model = steps.experiment.task.model
  tower = model.cost((48, 48, 3), patch_size=(24, 24)) - 32 * 32
  assert flops[True] - flops[False] == 2 * 2 * tower


def test_names_of_things_are_embedded_once_a_step_on_each_chip():
  config = owl_vit.get_config("init=none")
  config.model.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  config.model.text.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  config.batch_size = 4 * jax.device_count()
  config.accumulate, config.task.negatives = 2, 2
  steps = steps_of(config, 32, 4)
  model = steps.experiment.task.model
  image = model.cost((768, 768, 3), patch_size=(16, 16))
  # Four names for each two images.
  text = 4 * model.text_cost(model.text["max_len"]) // 2
  assert steps.flops(0) == 2 * 3 * (image + text)


def test_a_code_is_learned_without_decoding_it_to_labels():
  steps = steps_of(panoptic_scenes.get_config("runlocal"), 64, 6)
  task, shape = steps.experiment.task, (60, 60, 3)
  whole = task.model.cost(shape, **steps.branches[0])
  decoding = task.coder.decoding_cost(shape)
  encoding = task.coder.cost(shape) - decoding
  assert encoding > 0 and 0 < decoding < whole
  assert steps.flops(0) == 2 * (3 * (whole - decoding) + encoding)


def test_a_plan_is_text_and_json(planned):
  content, _ = planned
  assert json.loads(json.dumps(content)) == content
  text = planning.as_text(content)
  for words in ("| patch6 | 33 % |", "by a switch", "4 steps, 64 images"):
    assert words in text


class FakeSteps:
  """Programs for chips with 1,000 bytes, without a compiler."""

  topology = types.SimpleNamespace(chip=types.SimpleNamespace(memory=1000))

  def __init__(self, batch_per_chip, accumulate, needs):
    self.batch_per_chip, self._needs = batch_per_chip, needs
    self.experiment = types.SimpleNamespace(config={"accumulate": accumulate})

  def compile(self, branch, size):
    memory = self._needs(size)
    fits = memory is not None and memory <= 1000
    return compiled.Program(fits, memory, None, None, 0.0, 0.0, {})


@pytest.mark.parametrize(
  "batch, accumulate, needs, expected",
  [
    (16, 1, lambda n: 100 + 10 * n, (88, True)),  # 90, rounded to eights.
    (1, 1, lambda n: 100 + 100 * n, (9, True)),
    (64, 1, lambda n: 100 + 100 * n, (9, True)),
    (4, 2, lambda n: 100 + 100 * n, (8, True)),  # A multiple of two.
    (4, 1, lambda n: 2000 + 100 * n, (0, False)),
    # Larger steps than the line foresees.
    (4, 1, lambda n: 100 + 50 * n + 2 * n**2, (11, True)),
    # The compiler does not tell how much was too much.
    (4, 1, lambda n: None if n > 2 else 100 + 100 * n, (2, True)),
    (4, 1, lambda n: None, (None, False)),
    (2, 1, lambda n: 500, (128, True)),  # So few cost nothing.
  ],
)
def test_the_largest_batch_is_compiled(batch, accumulate, needs, expected):
  steps = FakeSteps(batch, accumulate, needs)
  assert steps_lib.largest_batch(steps, 0) == expected


@pytest.mark.parametrize(
  "arguments, words",
  [
    (dict(patch_sizes=[5]), "5x5 pixels, only patch6, patch4, patch3"),
    (dict(utilisation=40), "--utilisation=40"),
    (dict(settings="some"), "--settings='some' is unknown"),
    (dict(topology="v5e"), "Known are the chips v5e"),
  ],
)
def test_bad_arguments(arguments, words):
  arguments = {"topology": "here", **arguments}
  with pytest.raises(ValueError, match=words):
    planning.make(make_config(), **arguments)


def test_a_batch_that_the_chips_do_not_divide():
  config = make_config()
  config.batch_size = 12
  with pytest.raises(ValueError, match=r"batch_size=12.*multiple of 8"):
    planning.make(config, "here")


def test_a_config_that_only_evaluates():
  config = make_config()
  del config.optimizer
  with pytest.raises(ValueError, match="config needs optimizer"):
    planning.make(config, "here")


@pytest.mark.parametrize(
  "name", ["cifar10", "cifar10:3.0.2", "folder:/not/here"]
)
def test_data_that_are_not_here_are_replaced(name):
  config = make_config()
  config.data.name = name
  config.init = "weights.npz"
  replaced = stand_ins.config_without_files(config, 77, 3)
  assert replaced.data.name == "fake:256x256x3:3:77"
  assert replaced.init is None and not replaced.evals
  if name.startswith("cifar10"):
    known = stand_ins.config_without_files(config)
    assert known.data.name == "fake:256x256x3:10:50000"
    return
  with pytest.raises(ValueError, match="--num_examples and --num_classes"):
    stand_ins.config_without_files(config)


@pytest.mark.parametrize("kind", ["mask_folder", "coco"])
def test_masks_and_boxes_that_are_not_here_are_replaced(kind):
  config = make_config()
  config.data.name = f"{kind}:/not/here"
  replaced = stand_ins.config_without_files(config, 77, 3)
  assert replaced.data.name == "fake:256x256x3:3:77:dense"


@pytest.mark.parametrize("data", segmenter.DATA)
def test_segmentations_are_planned_with_the_classes_of_the_training(data):
  """Reads masks of noise, since those of the files have other numbers."""
  config = segmenter.get_config(f"data={data},path=/not/here,init=none")
  replaced = stand_ins.config_without_files(config, 77, 19)
  parts = setup.Experiment(replaced)
  assert parts.task.num_classes == 19
  crop = segmenter.DATA[data]["crop"]
  assert parts.image_shape == (crop, crop, 3)


@pytest.mark.parametrize(
  "name, arg, num_tokens",
  [
    ("lit", "init=none", 32_000),
    ("lit", "init=none,vocabulary=clip", 49_408),
    ("siglip", "vocabulary=sentencepiece:/not/here", 32_000),
    ("captions", "path=/not/here,max_len=8", 32_000),
  ],
)
def test_texts_that_are_not_here_are_replaced(name, arg, num_tokens):
  config = importlib.import_module(f"configs.{name}").get_config(arg)
  config.model.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  config.model.text.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  number = 77 if name == "captions" else None
  replaced = stand_ins.config_without_files(config, number)
  count = number or 113_287  # All pairs of both splits of COCO's training.
  assert replaced.data.name == f"fake:256x256x3:1:{count}:captions"
  parts = setup.Experiment(replaced)
  assert parts.task.vocabulary.size == num_tokens
  assert parts.task.model.text["vocab_size"] == num_tokens
  assert parts.about_data["num_examples"] in (count, round(0.9 * count))
  tokens = parts.task.max_len
  assert tokens == {"lit": 16, "siglip": 64, "captions": 8}[name]
  # Words of the noise are known.
  assert (data.peek(parts.data_section)["tokens"] != 2).all()


@pytest.mark.parametrize(
  "module, arg", [(uvim, "coder=none,init=none"), (uvim_code, "quantizer=vq")]
)
def test_segments_that_are_not_here_are_replaced(module, arg):
  replaced = stand_ins.config_without_files(module.get_config(arg))
  assert replaced.data.name == "fake:256x256x3:133:118287:dense"
  assert replaced.data.split == "train[4096:]"
  parts = setup.Experiment(replaced)
  assert parts.image_shape == (512, 512, 3)
  assert parts.task.num_classes == 133
  example = data.peek(parts.data_section)
  assert 1 < example["instances"].max() < 100


def test_photos_that_are_not_here_need_no_classes():
  config = flexify.get_config("runlocal")
  config.data.name = "images:/not/here"
  replaced = stand_ins.config_without_files(config, 77)
  assert replaced.data.name == "fake:256x256x3:1:77"
  (teacher,) = setup.Experiment(replaced).task.teachers
  assert teacher.source is None and teacher.model.num_classes is None


def test_boxes_that_are_not_here_are_replaced():
  config = owl_vit.get_config("init=none")
  config.model.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  config.model.text.update(depth=1, width=12, num_heads=1, mlp_dim=8)
  replaced = stand_ins.config_without_files(config)
  assert replaced.data.name == "fake:256x256x3:1203:100170:boxes"
  task = setup.Experiment(replaced).task
  assert len(task.class_names) == 1203 and task.class_names[0] == "word0"


def test_a_vocabulary_has_the_size_that_the_text_tower_names():
  config = siglip.get_config("data=captions:/not/here")
  config.model.text.vocab_size = 250_000
  replaced = stand_ins.config_without_files(config, 77)
  assert len(replaced.data.vocabulary) == 250_000 - 3
  with pytest.raises(ValueError, match="Give --num_examples of the training"):
    stand_ins.config_without_files(config)


def test_operations_of_texts_count(tmp_path):
  config = image_text.make_config(image_text.write_pairs(tmp_path))
  chips = topologies.create(topologies.HERE)
  steps = steps_lib.Steps(
    stand_ins.config_without_files(config), chips, steps_lib.Progress(print)
  )
  model = steps.experiment.task.model
  macs = model.cost((12, 12, 3), patch_size=(6, 6)) + model.text_cost(6)
  assert steps.flops(0) == steps.mean_flops() == 6 * macs


@pytest.mark.parametrize("name", ["folder:{}", "video_folder:{}?fps=12.5"])
def test_folders_that_are_here_are_read(tmp_path, name, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path.parent))
  config = make_config()
  for folder in (tmp_path, f"~/{tmp_path.name}"):
    config.data.name = name.format(folder)
    planned = stand_ins.config_without_files(config)
    assert planned.data.name == config.data.name


def test_prepared_datasets_are_read(tmp_path):
  config = make_config()
  config.data.update(name="mine/small", data_dir=str(tmp_path))
  (tmp_path / "mine/small/1.0.0").mkdir(parents=True)
  with pytest.raises(ValueError, match="these data are not here"):
    stand_ins.config_without_files(config)
  (tmp_path / "mine/small/1.0.0/dataset_info.json").touch()
  for name in ("mine/small", "mine/small:1.0.0"):
    config.data.name = name
    assert stand_ins.config_without_files(config).data.name == name
  with pytest.raises(ValueError, match="these data are not here"):
    config.data.name = "mine/large"
    stand_ins.config_without_files(config)


def test_a_teacher_needs_no_weights():
  config = overrides.load(str(CONFIGS / "flexivit_i21k_distill.py"))
  replaced = stand_ins.config_without_files(config)
  (teacher,) = replaced.task.teachers.values()
  assert teacher.model.variant == "B/8" and "init" not in teacher
  config.task.teachers.augreg.init = "not_here.npz"
  with pytest.raises(ValueError, match=r"--config.task.teachers.augreg.model"):
    stand_ins.config_without_files(config)


def test_the_models_of_released_names_are_known():
  for name in interop.RELEASED:
    models.create(num_classes=10, **released.model(name))
  assert released.model("deit3_B_384_1k")["variant"] == "B/16"
  assert released.model("FlexiViT-S i1k 90ep")["variant"] == "S"
  assert released.model("ViT-B/16 augreg i21k")["variant"] == "B/16"
  assert released.model("ViT-B/16 i21k")["variant"] == "B"
  assert released.model("elsewhere.npz") is None


def test_the_command(tmp_path, capsys, write_config, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = one_block_config()
  plan.main(
    [
      f"--config={write_config(config)}",
      "--topology=here",
      "--patch_sizes=6",
      "--no-largest",
      "--config.total_steps=8",
    ]
  )
  content = json.loads((tmp_path / "plan.json").read_text())
  assert content["totals"]["steps"] == 8
  assert content["values"] == ["total_steps=8"]
  assert "plan.json" in capsys.readouterr().out


def test_the_command_ends_with_a_line(tmp_path, write_config):
  config = write_config(make_config())
  with pytest.raises(SystemExit, match=r"Error: --out=.*no folder"):
    plan.main(
      [f"--config={config}", "--topology=here", f"--out={tmp_path}/no/where"]
    )


@pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda12_plugin") is None,
  reason="the GPU's compiler (jax_cuda12_plugin) is not installed",
)
def test_chips_that_are_not_here():
  content = planning.make(make_config(), "h200:8")
  assert content["chips"] == 8
  assert content["totals"]["chip_hours"] > 0
  assert all(row["bound_seconds"] > 0 for row in content["settings"])
