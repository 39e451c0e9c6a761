"""Tests the changes that a workdir takes, and those that it refuses."""

import json
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.conftest import make_config, write_untrained
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import report as report_lib
from tokenlearner_flexivit import train
from tokenlearner_flexivit.train import binding, loop, setup, spelled_out
from tokenlearner_flexivit.train import optimizer as optimizer_lib
from tokenlearner_flexivit.train import step as train_step

ROOT = pathlib.Path(__file__).parents[2]
ABOUT = {
  "name": "fake:12x12x3:5:64",
  "num_classes": 5,
  "class_names": ["ant", "bee", "cat", "dog", "elk"],
  "num_examples": 64,
  "digest": "0123",
  "image_shape": [12, 12, 3],
  "evals": {"test": [{"num_examples": 21, "digest": "4567"}]},
}


def complete(**changes):
  """Returns a config with keys such as `evals__test__batch_size` changed."""
  config = make_config()
  with config.unlocked():
    for key, value in changes.items():
      *sections, name = key.split("__")
      section = config
      for part in sections:
        section = section[part]
      if value is KeyError:
        del section[name]
      else:
        section[name] = value
  return setup.complete(config)


def claim(workdir, about=None, **changes):
  binding.claim_workdir(
    workdir, complete(**changes), {**ABOUT, **(about or {})}
  )


@pytest.fixture
def bound(tmp_path):
  """A workdir with a checkpoint."""
  binding.bind_workdir(tmp_path, complete(), ABOUT)
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  return tmp_path


def test_a_workdir_without_a_checkpoint_is_nobodys(bound):
  (bound / "checkpoints" / "2").rmdir()
  claim(bound, seed=9, optimizer__lr=3.0, about={"digest": "89"})
  # A report is not overwritten by another run, whatever was removed.
  (bound / "report.json").write_text("{}")
  with pytest.raises(ValueError, match=r"config\.seed: 1 -> 9"):
    claim(bound, seed=9)


@pytest.mark.parametrize(
  "key, value",
  [
    ("data__num_workers", 0),
    ("evals__test__type", "classification"),
    ("flexi__sandwich", False),
    ("model__norm_eps", 1e-6),
    ("model__pool", "gap"),
    ("optimizer__b2", 0.999),
    ("optimizer__decay", optimizer_lib.DECAYED),
    ("optimizer__schedule__end", 0.0),
    ("optimizer__schedule__name", "cosine"),
    ("task__label_smoothing", 0.0),
  ],
)
def test_a_default_that_is_spelled_out_is_no_change(bound, key, value, capsys):
  claim(bound, **{key: value})
  assert not capsys.readouterr().out
  if isinstance(value, float):
    with pytest.raises(ValueError, match=f"-> {value + 0.5}"):
      claim(bound, **{key: value + 0.5})


@pytest.mark.parametrize(
  "key, value",
  [
    *(("b2", 0.99), ("decay", optimizer_lib.DECAYED), ("weight_decay", 1e-3)),
    ("schedule", dict(name="cosine", warmup_steps=0, end=0.0)),
  ],
)
def test_a_default_of_optax_that_is_spelled_out_is_no_change(
  tmp_path, key, value, capsys
):
  config = dict(optimizer=dict(name="lion", lr=0.1))
  binding.bind_workdir(tmp_path, complete(**config), ABOUT)
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  claim(tmp_path, **config, **{f"optimizer__{key}": value})
  assert not capsys.readouterr().out
  other = dict(value, end=0.5) if key == "schedule" else 0.5
  with pytest.raises(ValueError, match=rf"optimizer\.{key}"):
    claim(tmp_path, **config, **{f"optimizer__{key}": other})


def test_the_decay_of_rmsprop_is_no_pattern(tmp_path):
  config = dict(optimizer=dict(name="rmsprop", lr=0.1))
  binding.bind_workdir(tmp_path, complete(**config), ABOUT)
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  claim(tmp_path, **config, optimizer__decay=0.9)
  with pytest.raises(ValueError, match=r"optimizer\.decay"):
    claim(tmp_path, **config, optimizer__decay=0.5)


def test_none_is_a_change_where_the_default_is_another(tmp_path):
  """scale_by_adam keeps its momentum in bfloat16 unless told otherwise."""
  adam = dict(optimizer__name="scale_by_adam")
  binding.bind_workdir(tmp_path, complete(**adam), ABOUT)
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"mu_dtype: 'left out' -> None"):
    claim(tmp_path, **adam, optimizer__mu_dtype=None)
  for key in (
    *("optimizer__b2", "optimizer__grad_clip_norm", "optimizer__unknown"),
    *("model__posemb", "evals__test__type", "data__data_dir"),
  ):
    claim(tmp_path, **adam, **{key: None})
  claim(tmp_path, **adam, optimizer__mu_dtype="bfloat16")


def test_what_is_built_alike_without_data_may_still_be_another_thing():
  """Before the data are opened, any coder serves."""
  configs = [
    setup.complete(make_config()) | {"task": {"name": "panoptic"}}
    for _ in range(2)
  ]
  for config, coder in zip(configs, ("/a", "/b"), strict=True):
    config["model"] = {"variant": "mu", "coder": coder}
  key = "config.model.coder"
  assert not spelled_out.is_same(key, *configs)
  configs[1]["model"]["coder"] = "/a"
  configs[1]["model"]["dtype"] = "float32"
  assert spelled_out.is_same("config.model.dtype", *configs)


def test_a_start_that_fails_leaves_the_workdir_free(config, tmp_path):
  def out_of_memory(*args, **kwargs):
    raise MemoryError

  closed, original = [], data_lib.train_batches

  class Batches:
    """Notes that it was closed."""

    def __init__(self, *args, **kwargs):
      self._iterator = original(*args, **kwargs)

    def __iter__(self):
      return self._iterator

    def close(self):
      self._iterator.close()
      closed.append(True)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data_lib, "train_batches", Batches)
    patch.setattr(train_step, "compile_steps", out_of_memory)
    with pytest.raises(MemoryError):
      train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
    config.optimizer.lr = 0.5
    config.total_steps = 8
    with pytest.raises(MemoryError):
      train.train_and_evaluate(config, tmp_path)
  assert closed == [True, True]


@pytest.mark.parametrize(
  "key, value",
  [
    ("log_steps", 7),
    ("eval_steps", 2),
    ("eval_first", True),
    ("checkpoint_epochs", 1),
    ("keep_checkpoints", 1),
    ("max_save_failures", 9),
    ("flexi__dispatch", "switch"),
    ("model__remat", True),
    ("model__scan", True),
    ("data__num_threads", 3),
    ("data__num_workers", 1),
    ("data__prefetch", 2),
    ("data__max_corrupt", 5),
    ("data__data_dir", "/elsewhere"),
    ("evals__test__batch_size", 8),
    ("evals__test__eval_epochs", 2),
    ("evals__test__data__num_threads", 2),
    ("evals__test__data__prefetch", 2),
    ("evals__test__data__data_dir", "/elsewhere"),
    ("accumulate", 2),
  ],
)
def test_what_changes_no_result_may_change(bound, key, value, capsys):
  claim(bound, **{key: value})
  name = key.replace("__", ".")
  assert f"Changed since the last start: config.{name}: " in (
    capsys.readouterr().out
  )
  kept = json.loads((bound / "config.json").read_text())
  assert kept == complete(**{key: value})
  claim(bound, **{key: value})
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  "key, value",
  [
    ("seed", 2),
    ("batch_size", 32),
    ("total_steps", 9),
    ("optimizer__lr", 0.5),
    ("model__depth", 3),
    ("model__dtype", "bfloat16"),
    ("flexi__patch_size__values", (6, 4)),
    ("data__pp", "decode"),
    ("data__split", "test"),
    ("data__name", "folder:/elsewhere"),
    ("ema_decay", 0.5),
  ],
)
def test_what_changes_the_result_is_refused(bound, key, value):
  name = key.replace("__", ".")
  with pytest.raises(ValueError, match=rf"config\.{name}: .* -> ") as error:
    claim(bound, **{key: value})
  assert f"another workdir with config.init='{bound}'" in str(error.value)


@pytest.mark.parametrize(
  "changes",
  [
    {"init": "weights.npz"},
    {"init": "weights.npz", "init_fresh": ("head/",)},
    {"init": "weights.npz", "init_optional": ("head/",)},
    {"init": "weights.npz", "init_inflate": "average"},
    {"init": "weights.npz", "init_mean": (0.5,), "init_std": (0.1, 0.2, 0.3)},
    {"model__head_zeroinit": False},
  ],
)
def test_what_only_the_beginning_reads_may_change(bound, changes, capsys):
  """The record of what the run began from stays."""
  kept, _ = binding.claim_workdir(bound, complete(**changes), ABOUT)
  said = capsys.readouterr().out
  for key in changes:
    key = key.replace("__", ".")
    assert f"Not read again after the first checkpoint: config.{key}: " in said
  assert kept["init"] is None and kept["init_fresh"] == []
  assert json.loads((bound / "config.json").read_text()) == kept
  # Without a checkpoint it would begin again.
  (bound / "checkpoints" / "2").rmdir()
  (bound / "report.json").write_text("{}")
  with pytest.raises(ValueError, match="a run of a different config"):
    binding.claim_workdir(bound, complete(init="other.npz"), ABOUT)


def test_a_run_is_continued_without_its_config_file(bound, tmp_path_factory):
  # In a process of its own: its flags have the names of other programs' flags.
  code = """
import json, sys
from absl import flags
from tokenlearner_flexivit import main
for workdir in sys.argv[1:]:
  flags.FLAGS(["main", f"--workdir={workdir}"])
  config = main._read_config()
  print(json.dumps(config and config.to_dict()))
"""
  empty = tmp_path_factory.mktemp("empty")
  printed = subprocess.check_output(
    [sys.executable, "-c", code, bound, empty], text=True, cwd=ROOT
  )
  continued, nothing = map(json.loads, printed.splitlines())
  assert continued == complete() and nothing is None


def test_a_new_evaluation_is_welcome(bound, capsys):
  (bound / "metrics.jsonl").write_text('{"step": 2, "test/patch4/accuracy": 1}')
  test = complete()["evals"]["test"]
  claim(bound, evals=dict(test=test, more=test))
  assert "The evaluation 'more' is new." in capsys.readouterr().out
  claim(bound, evals={})
  text = capsys.readouterr().out
  assert "'test' is left out now. Results so far stay in metrics.jsonl" in text
  # A run takes what it finds under a name for results of that evaluation.
  with pytest.raises(
    ValueError, match=r"(?s)evals\.test: 'an earlier one.*another name"
  ):
    claim(bound, evals__test__patch_sizes=(6,))


def test_an_evaluation_may_change_until_it_has_results(bound, capsys):
  # One whose name begins as its own has some.
  (bound / "metrics.jsonl").write_text('{"step": 2, "testing/accuracy": 1}\n')
  other = {"test": [{"num_examples": 22, "digest": "89"}]}
  claim(bound, about={"evals": other}, evals__test__patch_sizes=(6,))
  said = capsys.readouterr().out
  assert "evals.test.patch_sizes: None -> [6]. 'test' has no results" in said
  kept = json.loads((bound / "about_data.json").read_text())
  assert kept["evals"] == other


def test_two_evaluations_of_one_name_are_refused(bound):
  (bound / "metrics.jsonl").write_text('{"step": 2, "test/accuracy": 1}\n')
  with pytest.raises(
    ValueError, match=r"(?s)patch_sizes: None -> .*another name"
  ):
    claim(bound, evals__test__patch_sizes=(6,))
  other = {"test": [{"num_examples": 22, "digest": "89"}]}
  with pytest.raises(ValueError, match=r"config\.evals\.test\.data: .*22"):
    claim(bound, about={"evals": other})


@pytest.mark.parametrize(
  "about, message",
  [
    ({"class_names": ["ant", "wasp", "cat"]}, "class 1: 'bee' -> 'wasp'"),
    ({"num_examples": 74}, "num_examples: 64 -> 74"),
    ({"num_classes": 6}, "num_classes: 5 -> 6"),
    ({"digest": "89"}, "digest of the listing: '0123' -> '89'"),
  ],
)
def test_other_data_are_refused(bound, about, message):
  with pytest.raises(ValueError, match=message):
    claim(bound, about)


def test_a_run_that_kept_less_of_its_data_continues(bound, capsys):
  old = {"num_classes": 5, "class_names": ABOUT["class_names"]}
  path = bound / "about_data.json"
  path.write_text(json.dumps({**old, "image_shape": [12, 12, 3]}))
  claim(bound)
  assert "not compared at this start" in capsys.readouterr().out
  assert json.loads(path.read_text()) == ABOUT
  with pytest.raises(ValueError, match="num_examples"):
    claim(bound, {"num_examples": 3})
  path.unlink()
  claim(bound)


def test_stored_frames_are_the_data_of_their_videos(tmp_path, capsys):
  """The videos themselves may be gone."""

  def names(name):
    return dict(data__name=name, evals__test__data__name=name)

  binding.bind_workdir(tmp_path, complete(**names("video_folder:/a")), ABOUT)
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  stored = names("video_folder/a-25fps-256px-0123")
  claim(tmp_path, **stored)
  said = capsys.readouterr().out
  assert said.count("the same data in another place") == 2
  with pytest.raises(ValueError, match=r"data.name: 'video_folder/a-25fps"):
    claim(tmp_path, {"digest": "89"}, **names("video_folder:/b"))
  with pytest.raises(ValueError, match="'folder:/a'"):
    claim(tmp_path, **names("folder:/a"))


def write_images(folder, **counts):
  for name, count in counts.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      image = np.full((12, 12, 3), i, np.uint8)
      cv2.imwrite(str(folder / name / f"{i}.png"), image)


def test_a_folder_may_move_and_must_not_change(tmp_path, capsys):
  images, moved = tmp_path / "images", tmp_path / "moved"
  write_images(images / "train", bee=16, cat=16)
  write_images(images / "test", bee=8, cat=8)

  def start(folder):
    config = make_config()
    config.data.name = f"folder:{folder}"
    config.evals.test.data.name = f"folder:{folder}"
    run = setup.Experiment(config)
    workdir = tmp_path / "run"
    if not workdir.exists():
      write_untrained(run, workdir)
    binding.claim_workdir(workdir, run.config, run.about_data)

  start(images)
  shutil.copytree(images, moved)
  start(moved)
  text = capsys.readouterr().out
  for key in "data.name", "evals.test.data.name":
    assert f"config.{key}: " in text
  assert text.count("the same data in another place") == 2
  (moved / "train" / "bee").rename(moved / "train" / "dog")
  (moved / "test" / "bee").rename(moved / "test" / "dog")
  with pytest.raises(ValueError, match="class 0: 'bee' -> 'cat'"):
    start(moved)
  with pytest.raises(ValueError, match=r"config\.data\.name"):
    write_images(images / "train", cat=17)
    start(images)


def test_blocks_in_a_loop_are_evaluated_in_stacks(config, tmp_path):
  config.model.update(depth=2, scan=True)
  del config.model.token_learner
  config.flexi.patch_size.values = (4,)
  run = setup.Experiment(config)
  write_untrained(run, tmp_path)
  names = []

  def look(experiment, workdir, params, results, step):
    assert step == 0
    names.extend(params["Transformer"])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(report_lib, "write", look)
    patch.setattr(loop, "_evaluate", lambda *args, **kwargs: {})
    train.evaluate(None, tmp_path)
  assert "encoderblocks_0-1" in names


def test_changes_are_those_of_leaves():
  changes = configuration.changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
  assert list(changes) == [("config.a.b", 1, 3), ("config.a.c", 2, None)]


def test_an_evaluation_elsewhere_need_not_share_batches_of_training(config):
  """Of other devices, which the batches of the training do not suit."""
  about_data = setup.Experiment(config).about_data
  config.accumulate = 3
  setup.Experiment(config, about_data)
  config.batch_size = 12
  config.evals.test.batch_size = 16
  setup.Experiment(config, about_data)
  with pytest.raises(ValueError, match="multiple of 8"):
    setup.Experiment(config)
