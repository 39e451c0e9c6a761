"""Values of a config that the command line gives."""

import pathlib

import ml_collections
import pytest

from tokenlearner_flexivit import overrides
from tokenlearner_flexivit.train import setup

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
QUICKSTART = f"{CONFIGS / 'quickstart.py'}:runlocal"


def quickstart(*values):
  """Returns the config with values, and what is said of them."""
  config = overrides.load(QUICKSTART)
  said = overrides.apply(config, values, setup.DEFAULTS)
  return config.to_dict(), said


def test_flags_of_the_config_are_told_from_others():
  values, others = overrides.split(
    [
      *("main", "--config=f.py:a", "--config.data.pp=a=b|c('d','e')"),
      *("--config.seed", "-1", "--config.flexi.sandwich", "--workdir=/x"),
      *("--noconfig.flexi.inplace_distillation", "--config.scan"),
      *("--", "--config.x=1"),
    ]
  )
  assert values == [
    "data.pp=a=b|c('d','e')",
    "seed=-1",
    "flexi.sandwich=True",
    "flexi.inplace_distillation=False",
    "scan=True",
  ]
  assert others == [
    *("main", "--config=f.py:a", "--workdir=/x", "--", "--config.x=1")
  ]


@pytest.mark.parametrize(
  "value, section, key, expected",
  [
    ("data.max_corrupt=5", "data", "max_corrupt", 5),
    ("keep_checkpoints=1", None, "keep_checkpoints", 1),
    ("ema_decay=0.9", None, "ema_decay", 0.9),
    ("init=/runs/a,b", None, "init", "/runs/a,b"),
    ("init_fresh=head", None, "init_fresh", ("head",)),
    ("init_fresh='head/'", None, "init_fresh", ("head/",)),
    ("init_fresh='a{1,2}'", None, "init_fresh", ("a{1,2}",)),
    ("optimizer.grad_clip_norm=None", "optimizer", "grad_clip_norm", None),
    ("optimizer.lr=1e-4", "optimizer", "lr", 1e-4),
    ("optimizer.lr=1", "optimizer", "lr", 1.0),
    (
      "optimizer.lr_scales={'head/.*': 2}",
      "optimizer",
      "lr_scales",
      {"head/.*": 2},
    ),
    ("batch_size=1e2", None, "batch_size", 100),
    ("model.token_learner=None", "model", "token_learner", None),
    (
      "model.token_learner={'a': 1}",
      "model",
      "token_learner",
      {"a": 1},
    ),
    ("model.patch_size=8", "model", "patch_size", (8,)),
    ("model.scan=true", "model", "scan", True),
    ("data.name=2024", "data", "name", "2024"),
    ("data.pp=decode|keep('image')", "data", "pp", "decode|keep('image')"),
    ("task.mixup_alpha=0.2", "task", "mixup_alpha", 0.2),
  ],
)
def test_any_key_takes_a_value_of_its_type(value, section, key, expected):
  config, said = quickstart(value)
  value = (config if section is None else config[section])[key]
  assert value == expected and type(value) is type(expected) and not said


@pytest.mark.parametrize(
  "text, expected",
  [
    ("~/run", "/home/me/run"),
    ("folder:~/images", "folder:/home/me/images"),
    ("/a/~b", "/a/~b"),
    ("a:b:~/c", "a:b:~/c"),
  ],
)
def test_the_home_is_noted_as_a_path(monkeypatch, text, expected):
  monkeypatch.setenv("HOME", "/home/me")
  assert quickstart(f"init={text}")[0]["init"] == expected


def test_values_in_sections_that_the_file_lacks():
  config, _ = quickstart(
    "flexi.num_tokens.values=8,16", "evals.again.data.name=digits"
  )
  assert config["flexi"]["num_tokens"] == {"values": (8, 16)}
  assert config["evals"]["again"] == {"data": {"name": "digits"}}


@pytest.mark.parametrize("text", ["(16,8)", "16,8", "[16, 8]"])
def test_other_values_do_without_the_weights_of_the_file(text):
  config, said = quickstart(f"flexi.patch_size.values={text}")
  assert config["flexi"]["patch_size"] == {"values": (16, 8), "weights": None}
  assert "flexi.patch_size.weights=(3, 3, 3, 2, 2, 2) is left out" in said[0]
  same = "flexi.patch_size.values=24,16,12,8,6,4"
  assert quickstart(same)[0]["flexi"]["patch_size"]["weights"] is not None
  weights = "flexi.patch_size.weights=1,2"
  config, _ = quickstart(weights, f"flexi.patch_size.values={text}")
  assert config["flexi"]["patch_size"]["weights"] == (1, 2)


def test_a_duration_in_another_unit_replaces_that_of_the_file():
  config, said = quickstart(
    "total_epochs=0.5", "optimizer.schedule.warmup_percent=10"
  )
  assert (config["total_epochs"], config["total_steps"]) == (0.5, None)
  schedule = config["optimizer"]["schedule"]
  assert (schedule["warmup_percent"], schedule["warmup_steps"]) == (10, None)
  assert "total_steps=2 is left out" in said[0]
  setup.complete(config)
  # Both of them are the caller's own fault.
  both, _ = quickstart("total_epochs=1", "total_steps=3")
  assert (both["total_epochs"], both["total_steps"]) == (1, 3)


def test_references_of_a_config_follow():
  config = ml_collections.ConfigDict({"a": 1, "b": {"c": 2}})
  config.b.d = config.get_ref("a")
  config.lock()
  overrides.apply(config, ["a=3"], {})
  assert config.b.d == 3


@pytest.mark.parametrize(
  "value, message",
  [
    ("seed=abc", "--config.seed=abc must be a number, as 0 in the file"),
    ("optimizer=3", "must be keys and values.*It has b2, grad_clip_norm"),
    ("seed.x=3", "config.seed=0 is a value, it has no keys"),
    ("a..b=3", "give a key as section.key"),
    ("flexi.patch_size.values[0]=3", "a list whole"),
  ],
)
def test_values_that_cannot_be(value, message):
  with pytest.raises(ValueError, match=message):
    quickstart(value)


@pytest.mark.parametrize(
  "value, message",
  [
    ("keep_checkpoint=3", "config has no key 'keep_checkpoint'. Did you mean"),
    ("optimiser.lr=3", "no key 'optimiser'. Did you mean 'optimizer'"),
    ("data.max_corupt=3", "no key 'max_corupt'. Did you mean 'max_corrupt'"),
    ("model.dept=3", "ViT has no key 'dept'. Did you mean 'depth'"),
    ("task.mixup=3", "no key 'mixup'"),
    ("evals.test.batchsize=8", "no key 'batchsize'. Did you mean 'batch_size'"),
    ("evals.tst.batch_size=8", "config.evals.tst needs data"),
    ("evals.test.patch_sizes=8", r"patch_sizes=8 must be a list, .*\(8,\)"),
    ("evals.test.num_tokens=4,all", r"must be a list, such as \(4, 'all'\)"),
    ("flexi.patch_size.values=None", "values=None must be a list"),
    ("evals.test.data=None", "test needs data"),
    ("evals.test=3", "evals.test=3 must be keys and values"),
    ("flexi=3", "must be keys and values"),
  ],
)
def test_what_no_section_knows_is_refused_by_name(value, message):
  with pytest.raises(ValueError, match=message):
    setup.Experiment(quickstart("init=weights.npz", value)[0])


@pytest.mark.parametrize(
  "value",
  [
    "data.max_corrupt=5",
    "evals=None",
    "task=None",
    "accumulate=None",
    "flexi=None",
    "model.token_learner=None",
    "flexi.patch_size.values=16,8",
    "evals.test.eval_epochs=2",
    "init_fresh=head",
  ],
)
def test_what_sections_take(value):
  setup.Experiment(quickstart("init=weights.npz", value)[0])


def test_none_leaves_an_evaluation_out():
  config, _ = quickstart("evals.test=None", "evals.again.data.name=digits")
  assert setup.complete(config)["evals"].keys() == {"again"}


@pytest.mark.parametrize(
  "content, message",
  [
    (None, "there is no file"),
    ("x = 1", "has no function get_config"),
    ("def get_config(): return 3", "returns a int"),
    ("def get_config(a): return {}", "missing a required argument"),
  ],
)
def test_files_that_are_no_configs(tmp_path, content, message):
  path = tmp_path / "c.py"
  if content is not None:
    path.write_text(content)
  with pytest.raises(ValueError, match=message):
    overrides.load(str(path))


def test_the_configs_are_there_in_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert overrides.load("configs/quickstart.py:runlocal").total_steps == 2


def test_files_of_configs(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  path = tmp_path / "c.py"
  path.write_text("def get_config(arg='x'): return {'name': arg}")
  assert overrides.load("~/c.py").name == "x"
  assert overrides.load("~/c.py:folder:/a,b").name == "folder:/a,b"
  path.write_text("def get_config(): return {}")
  with pytest.raises(
    ValueError, match="get_config cannot be called in this way"
  ):
    overrides.load(f"{path}:arg")
