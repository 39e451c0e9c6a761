"""The command line, and descriptions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import __main__ as cli
from tokenlearner_flexivit.run import checkpoint, workdir

LEARNED = dict(layer=1, num_tokens=3, bottleneck_dim=8)


def test_describe(tmp_path, make_model, make_params, capsys):
  model = make_model(
    pool="tok", rep_size=6, token_learner=LEARNED | dict(fuser=True)
  )
  path = tmp_path / "a.npz"
  interop.save_params(make_params(model), path)
  cli.main(["describe", str(path)])
  out = capsys.readouterr().out
  assert "format      big_vision (npz)" in out
  assert "variant     none of the standard sizes" in out
  assert "embedding/kernel" in out and "[4, 4, 3, 16]" in out
  guessed = models.ViT(**interop.describe(path).model)
  assert guessed == model


def test_what_convert_leaves_out_is_not_made_anew(
  tmp_path, make_model, make_params
):
  model = make_model(token_learner=LEARNED)
  path, other = tmp_path / "a.npz", tmp_path / "b.npz"
  params = make_params(model)
  interop.save_params(params, path, model=model)
  turn = ["convert", str(path), str(other), "--format=native", "--unused"]
  cli.main([*turn, "head"])
  with np.load(other) as file:
    assert not [name for name in file.files if name.startswith("head")]
    np.testing.assert_array_equal(
      file["embedding/kernel"], params["embedding"]["kernel"]
    )
  assert interop.describe(other).model["num_classes"] is None
  with pytest.raises(SystemExit, match="Only the head, the coder"):
    cli.main([*turn, "Transformer/TokenLearner_0"])


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_variant(name, tmp_path, make_params, capsys):
  model = models.ViT.from_variant("mu/4", num_classes=3, pool="tok")
  model = model.clone(posemb_grid=(3, 3))
  format = "timm" if name.endswith("safetensors") else "big_vision"
  interop.save_params(make_params(model), tmp_path / name, format)
  description = interop.describe(tmp_path / name)
  assert description.variant == "mu/4"
  # Our own files tell the heads, and with their model all.
  assert not description.guesses
  assert models.ViT(**description.model) == model
  with pytest.raises(ValueError, match="has 12 cells"):
    interop.describe(tmp_path / name, posemb_grid=(3, 4))
  interop.save_params(make_params(model), tmp_path / name, format, model=model)
  description = interop.describe(tmp_path / name)
  assert not description.guesses and description.format == format
  assert models.create(**description.model) == model
  if name.endswith(".npz"):
    with np.load(tmp_path / name) as file:
      assert file["params/embedding/kernel"].shape == (4, 4, 3, 32)


def test_convert_there_and_back(
  tmp_path, make_model, make_params, assert_same, capsys
):
  model = make_model(pool="map")
  params = make_params(model)
  names = [tmp_path / name for name in ("a.npz", "b.safetensors", "c.npz")]
  interop.save_params(params, names[0])
  heads = "--num_heads=2"
  paths = list(map(str, names))
  cli.main(["convert", *paths[:2], "--format=timm"])
  cli.main(["convert", *paths[1:], "--format=big_vision", heads])
  out = capsys.readouterr().out
  assert "loaded     54 arrays" in out and "Saved" in out
  loaded, _ = interop.load_params_and_report(names[2], model)
  assert_same(loaded, params)


def test_convert_opens_its_input_once(
  tmp_path, make_model, make_params, monkeypatch
):
  model = make_model()
  path = tmp_path / "a.msgpack"
  interop.save_params(make_params(model), path, "scenic")
  opened, original = [], serialization.msgpack_restore
  monkeypatch.setattr(
    serialization,
    "msgpack_restore",
    lambda data: opened.append(len(data)) or original(data),
  )
  other = str(tmp_path / "b.npz")
  cli.main(["convert", str(path), other, "--format=native", "--unused", "head"])
  assert opened == [path.stat().st_size]
  opened.clear()
  assert interop.class_names(path) is None
  assert opened == [path.stat().st_size]


def test_errors_are_one_line(tmp_path, capsys):
  path = tmp_path / "a.npz"
  path.write_bytes(b"PK\3\4")
  with pytest.raises(SystemExit, match=r"Error: .*a\.npz is damaged"):
    cli.main(["describe", str(path)])
  with pytest.raises(SystemExit) as error:
    cli.main(["convert", "a", "b", "--format=keras"])
  assert error.value.code == 2
  # Before any weights are read.
  for name, words in (
    ("none/b.npz", "there is no folder"),
    ("b.pt", "saved as"),
  ):
    turn = ["convert", str(path), str(tmp_path / name), "--format=native"]
    with pytest.raises(SystemExit, match=words):
      cli.main(turn)


@pytest.mark.parametrize("flag", ["--patch_size", "--num_heads"])
def test_a_number_of_nothing_is_refused(flag, capsys):
  with pytest.raises(SystemExit):
    cli.main(["convert", "in.npz", "out.npz", "--format=native", f"{flag}=0"])
  assert "'0' must be a whole number of at least 1" in capsys.readouterr().err


def test_workdir(tmp_path, make_model, make_params, assert_same):
  model = make_model(token_learner=LEARNED)
  params = make_params(model)
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, config={})
  checkpoints.save(
    3, {"params": jax.tree.map(jnp.asarray, params), "ema": None}
  )
  checkpoints.close()
  loaded, report = interop.load_params_and_report(tmp_path, model)
  assert report.container == "workdir" and report.sha256 is None
  assert_same(loaded, params)
  # Where TokenLearner stands, only the run's config tells.
  section = {"variant": "mu/4", "depth": 2, "dropout": 0.1}
  section["token_learner"] = LEARNED | {"layer": 0}
  config = {"model": section}
  (tmp_path / workdir.CONFIG_FILE).write_text(json.dumps(config))
  described = interop.describe(tmp_path)
  assert not described.guesses
  assert "dropout" not in described.model
  assert described.model["token_learner"]["layer"] == 0
