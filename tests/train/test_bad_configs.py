"""Bad configs are refused before the first step, and before data are read."""

import re

import pytest

from configs import quickstart
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, train
from tokenlearner_flexivit.train import before_data, setup


@pytest.mark.parametrize(
  "change, message",
  [
    ({"flexi.patch_size.values": (6, 5)}, r"5.*1, 2, 3, 4, 6, 12"),
    ({"evals.test.patch_sizes": (6, 5)}, r"5.*1, 2, 3, 4, 6, 12"),
    ({"model.token_learner.layer": 2}, "layer=2.*depth"),
    ({"model.token_learner.num_tokens": 0}, "num_tokens"),
    ({"model.token_learner.num_tokens": 50}, "=50.*12x12 pixels .* most"),
    ({"model.variant": "XL"}, "XL.*mu, Ti, S, M, B, L, H, g, G"),
    ({"model.pool": "mean"}, "mean.*gap, tok, map"),
    ({"task.name": "clustering"}, "Known: classification"),
    ({"evals.test.type": "recall"}, "Known: classification"),
    ({"optimizer.name": "adamww"}, "Did you mean 'adamw'.* Known: .*lion"),
    ({"parallel": "pjit"}, "Known: pmap"),
    ({"data.pp": "decode|resise(12)"}, "resise"),
    ({"data.pp": "decode|keep('image')"}, "gives no 'label'"),
    ({"data.name": "imagenetz"}, "imagenetz"),
    ({"data.name": "folder:/nowhere"}, "/nowhere"),
    ({"evals.test.data.name": "folder:/nowhere"}, "/nowhere"),
    ({"evals.test.data.pp": "decode|keep('label')"}, "gives no 'image'"),
    ({"batch_size": 12}, "multiple of 8"),
    ({"evals.test.batch_size": 12}, "multiple of 8"),
    ({"accumulate": 3}, "does not divide the 2 examples"),
    ({"keep_checkpoints": 0}, r"config\.keep_checkpoints=0 .*\[1"),
    ({"keep_checkpoints": "3"}, r"config\.keep_checkpoints='3' .*whole"),
    ({"max_save_failures": 0}, r"config\.max_save_failures=0 .*\[1"),
    ({"accumulate": 0}, r"config\.accumulate=0 "),
    ({"accumulate": 2.0}, r"config\.accumulate=2\.0 .*whole"),
    ({"accumulate": True}, r"config\.accumulate=True "),
    ({"seed": -1}, r"config\.seed=-1 "),
    ({"seed": 2**32}, r"config\.seed=4294967296 "),
    ({"seed": 1.5}, r"config\.seed=1\.5 "),
    ({"seed": "1"}, r"config\.seed='1' "),
    ({"batch_size": 16.0}, r"config\.batch_size=16\.0 "),
    ({"batch_size": "16"}, r"config\.batch_size='16' "),
    ({"evals.test.batch_size": "16"}, r"evals\.test\.batch_size='16' "),
    ({"ema_decay": 1.5}, r"config\.ema_decay=1\.5 .*\[0, 1\)"),
    ({"ema_decay": 1}, r"config\.ema_decay=1 "),
    ({"ema_decay": "0.9"}, r"config\.ema_decay='0\.9' "),
    ({"total_steps": "4"}, r"config\.total_steps='4' "),
    ({"total_steps": 4.5}, r"config\.total_steps=4\.5 "),
    ({"log_steps": True}, r"config\.log_steps=True "),
    ({"checkpoint_steps": "9"}, r"config\.checkpoint_steps='9' "),
    ({"evals.test.eval_steps": "9"}, r"config\.evals\.test\.eval_steps='9' "),
    ({"evals.test.eval_steps": 0}, r"config\.evals\.test needs .*above 0"),
    (
      {"evals.test.data.pp": "decode(1)|value_range(-1,1)"},
      r"evals\.test\.data\.pp gives images of 1 channel, .*trained on 3",
    ),
    ({"data.pp": "decode"}, r"config\.data\.pp gives images of uint8"),
    ({"evals.test.data.pp": "decode"}, r"test\.data\.pp gives .* of uint8"),
    ({"evals": [1]}, r"config\.evals=\[1\] must be"),
    ({"evals": {"a/b": {}}}, r"named 'a/b'.* no '/'"),
    ({"evals": {"": {}}}, r"named ''.* not empty"),
    ({"evals": {"test": 3}}, r"config\.evals\.test=3 must be"),
    ({"evals.test.data": "fake"}, r"evals\.test\.data='fake' must be"),
    ({"init": 3}, r"config\.init=3 must be"),
    ({"init": ""}, r"config\.init='' must be"),
    ({"init_fresh": "head"}, r"config\.init_fresh='head' must be a list"),
    ({"init_optional": "head"}, r"config\.init_optional='head' must be a list"),
    ({"init_optional": ("x",)}, r"config\.init_optional=.*init, which is None"),
    ({"init_inflate": "max"}, "Known: average, central_frame"),
    ({"init_fresh": ("head/",)}, r"config\.init_fresh=.*init, which is None"),
    ({"init_inflate": "average"}, r"init_inflate='average' .* is None"),
    ({"data.data_dir": "/x"}, r"config\.data\.data_dir='/x' .*fake.* none"),
    ({"init_mean": 0.5}, r"config\.init_mean=0\.5 must be a list"),
    ({"init": "x", "init_std": (0.2, 0, 0.2)}, r"config\.init_std=0 "),
    ({"init_mean": (0.5,)}, r"config\.init_mean=\[0\.5\] .*init.* is None"),
    ({"parallel": "shard_map"}, r"version 0\.1\. Use 'pmap'"),
    ({"parallel": ["pmap"]}, r"config\.parallel=\['pmap'\] is unknown"),
    ({"data.pp": 3}, r"config\.data\.pp=3 must be a string"),
    ({"optimizer.lr": "1"}, r"config\.optimizer\.lr='1' "),
    ({"optimizer.schedule": 3}, r"config\.optimizer\.schedule=3 "),
    ({"optimizer.schedule": False}, r"config\.optimizer\.schedule=False "),
    ({"optimizer.schedule.name": 0}, r"optimizer\.schedule\.name=0 is unknown"),
    ({"optimizer.name": ""}, r"config\.optimizer\.name='' is unknown"),
    ({"optimizer.freeze": False}, r"config\.optimizer\.freeze=False must be"),
    ({"optimizer.freeze": ""}, r"config\.optimizer\.freeze: '' matches no"),
    ({"optimizer.lr_scales": 0}, r"config\.optimizer\.lr_scales=0 must be"),
    ({"task.name": False}, r"config\.task\.name=False is unknown"),
    ({"model.patch_size": True}, r"patch_size: .* positive .* got True"),
    ({"model.posemb_grid": (3, True)}, r"posemb_grid: .* got \[3, True\]"),
    ({"evals.test.patch_size": None}, r"'patch_size'.* mean 'patch_sizes'"),
    ({"evals.test.eval_step": None}, r"evals\.test has no key 'eval_step'"),
    ({"optimizer.b2": 1}, r"config\.optimizer\.b2=1 "),
    ({"model.num_classes": 5.0}, r"config\.model\.num_classes=5\.0 "),
    ({"model.dtype": "float16"}, "float16' is for inference .*'bfloat16'"),
    ({"flexi.num_tokens": 0}, r"config\.flexi\.num_tokens=0 must be"),
    ({"flexi.patch_size": 6}, r"config\.flexi\.patch_size=6 must be"),
    ({"flexi.patch_size.values": 6}, r"flexi\.patch_size\.values=6 must be"),
    ({"flexi.patch_size.weights": "123"}, r"weights='123' must be 3 positive"),
    ({"flexi.sandwich": "false"}, r"flexi\.sandwich='false' must be True or"),
    ({"flexi.sandwich": 0}, r"config\.flexi\.sandwich=0 must be True or"),
    (
      {"data.name": "fake:12x12x3:1:64", "evals": {}},
      "a single class.*one level too high or too low",
    ),
    ({"total_steps": 0}, "total_epochs, total_examples, above 0"),
    ({"total_steps": None}, "total_epochs, total_examples, above 0"),
    ({"log_steps": 0}, "log_steps.* above 0"),
    ({"model.num_classes": 4}, "has 5 classes"),
    ({"evals.test.data.name": "fake:12x12x3:6:8"}, "6 classes.* knows 5"),
    ({"total_epochs": 3}, "more than once"),
  ],
)
def test_bad_values_are_found_before_the_first_step(
  config, tmp_path, change, message
):
  with config.unlocked():
    for key, value in change.items():
      *sections, name = key.split(".")
      section = config
      for part in sections:
        section = section[part]
      with section.ignore_type():
        section[name] = value
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(config, tmp_path / "work")
  assert not (tmp_path / "work" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
  "section",
  [
    "",
    "data",
    "model",
    "model.token_learner",
    "flexi",
    "flexi.patch_size",
    "task",
    "optimizer",
    "optimizer.schedule",
    "evals.test",
    "evals.test.data",
  ],
)
def test_keys_that_nothing_reads_are_refused(config, tmp_path, section):
  with config.unlocked():
    target = config
    for part in section.split(".") if section else ():
      target = target[part]
    target.tpyo = 1
  with pytest.raises(ValueError, match="tpyo"):
    train.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"init": "/no/weights.npz"}, "/no/weights.npz"),
    (
      {
        "task": {
          "name": "distillation",
          "teachers": {"prof": {"init": "/no/weights.npz"}},
        }
      },
      "/no/weights.npz",
    ),
    (
      {
        "evals.test.type": "distance",
        "evals.test.teachers": {"a": {"init": "/no/x.npz"}},
      },
      "/no/x.npz",
    ),
    ({"model.tpyo": 1}, "tpyo"),
    ({"task.tpyo": 1}, "tpyo"),
    ({"flexi.tpyo": 1}, "tpyo"),
    ({"optimizer.tpyo": 1}, "tpyo"),
    ({"optimizer.schedule.tpyo": 1}, "tpyo"),
    ({"data.pp": "decode|tpyo"}, "tpyo"),
    ({"evals.test.tpyo": 1}, "tpyo"),
    ({"evals.test.type": "tpyo"}, "tpyo"),
    ({"evals.test.data.pp": "decode|tpyo"}, "tpyo"),
  ],
)
def test_what_needs_no_data_is_checked_before_these_are_made(
  config, tmp_path, monkeypatch, change, message
):
  """The first reading of a folder of videos decodes all, for hours."""
  monkeypatch.setattr(setup.data_lib, "open_source", lambda *_: 1 / 0)
  with config.unlocked(), config.ignore_type():
    (tmp_path / "videos").mkdir()
    name = f"video_folder:{tmp_path / 'videos'}"
    config.update_from_flattened_dict({"data.name": name})
    for key, value in change.items():
      *sections, name = key.split(".")
      section = config
      for part in sections:
        section = section[part]
      section[name] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train.train_and_evaluate(config, tmp_path)


def write_splits(kind, root):
  """Returns the name of a dataset with the splits train and validation."""
  if kind == "tfds":
    name = "digits"
    data_lib.open_source({"name": name, "split": "train"})  # Prepares it.
    return name
  for split in ("train", "validation"):
    (root / split / "cats").mkdir(parents=True)
  return f"{kind}:{root}"


@pytest.mark.parametrize("kind", ["folder", "video_folder", "tfds"])
@pytest.mark.parametrize(
  "key, split",
  [
    ("config.data.split", "nonsense"),
    ("config.data.split", "train+nonsense[:9]"),
    ("config.data.split", "train[:"),
    ("config.evals.test.data.split", "nonsense[:50%]"),
    ("config.evals.few.train_split", "nonsense"),
    ("config.evals.few.test_split", "nonsense"),
  ],
)
def test_every_split_is_checked_before_anything_is_read(
  config, tmp_path, monkeypatch, kind, key, split
):
  """Nor are the weights of a teacher downloaded."""
  name, pp = write_splits(kind, tmp_path / "data"), config.data.pp
  config.data = dict(name=name, split="train", pp=pp)
  config.evals.test.data.update(name=name, split="train")
  few = dict(name=name, pp=pp)
  config.evals.few = dict(type="fewshot", data=few, test_split="train[90%:]")
  config.task.name = "distillation"
  config.task.teachers = dict(prof=dict(init="AugReg-S/16"))
  *sections, last = key.removeprefix("config.").split(".")
  section = config
  for part in sections:
    section = section[part]
  with section.unlocked():
    section[last] = split
  for module, read in (
    (before_data.interop, "fetch"),
    (setup.interop, "fetch"),
    (setup.data_lib, "open_source"),
  ):
    monkeypatch.setattr(module, read, lambda *_: 1 / 0)
  allowed = "Its splits are: train, (test|validation)"
  if split == "train[:":
    allowed = "Cannot read the split"
  message = rf"{re.escape(f'{key}={split!r}')}: .*{allowed}"
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)


def test_none_is_the_default_everywhere(config):
  """As the command line gives it."""
  test = config.evals.test
  for section, keys in (
    (config, ("seed", "ema_decay")),
    (config.task, ("name", "loss", "label_smoothing")),
    (config.model, ("name",)),
    (config.flexi, ("dispatch", "num_tokens", "sandwich")),
    (test, ("type", "batch_size", "patch_sizes", "eval_steps")),
    (test.data, ("num_threads", "prefetch", "data_dir")),
  ):
    with section.unlocked(), section.ignore_type():
      for key in keys:
        section[key] = None
  assert setup.Experiment(config).dispatch in ("host", "switch")


def dearer_settings(config):
  made = setup.Experiment(config)
  return made.task.model.dearer_settings(made.image_shape, made.dials.settings)


def test_settings_that_token_learner_makes_dearer_are_told():
  """With what they cost; and settings are in the order of their true cost."""
  config = quickstart.get_config()
  said = dearer_settings(config)
  assert (
    "patch24: from 4 patches to 8 tokens, 3.379 M multiply-adds instead of 2.4"
  ) in said
  assert "patch16" not in said
  config.flexi = dict(
    patch_size=dict(values=(24, 6)),
    num_tokens=dict(values=(8, "all")),
    sandwich=True,
  )
  drawn_from = setup.Experiment(config).dials
  assert drawn_from.largest == dials.Setting((6, 6), "all")
  assert drawn_from.smallest == dials.Setting((24, 24), "all")
  del config.model.token_learner
  config.flexi = None
  assert dearer_settings(config) is None


def test_sum_pooling_under_several_patch_sizes_warns(config):
  config.model.token_learner = dict(layer=0, num_tokens=3, version="1.0")
  with pytest.warns(UserWarning, match="pooling='mean' or version='1.1'"):
    setup.Experiment(config)


def test_a_workdir_that_is_no_path(config):
  with pytest.raises(ValueError, match=r"gs://bucket/run is no path.*gcsfuse"):
    train.train_and_evaluate(config, "gs://bucket/run")


def test_eval_mode_without_a_run(tmp_path):
  with pytest.raises(ValueError, match="holds no run"):
    train.evaluate(None, tmp_path)
