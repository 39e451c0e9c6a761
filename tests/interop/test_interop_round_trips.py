"""What is saved is loaded again, bit by bit."""

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tokenlearner_flexivit import interop, models

LEARNED = dict(layer=1, num_tokens=3, bottleneck_dim=8)


@pytest.mark.parametrize("pool", ["gap", "tok", "map"])
@pytest.mark.parametrize(
  ("format", "name"),
  [
    ("big_vision", "a.npz"),
    ("timm", "a.safetensors"),
    ("native", "a.npz"),
    ("native", "a.safetensors"),
  ],
)
def test_vit(
  format, name, pool, tmp_path, make_model, make_params, assert_same
):
  model = make_model(pool=pool)
  params = make_params(model)
  interop.save_params(params, tmp_path / name, format)
  loaded, report = interop.load_params_and_report(tmp_path / name, model)
  assert_same(loaded, params)
  assert {row.fate for row in report.rows} == {"loaded"}
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  "learned",
  [LEARNED, LEARNED | dict(version="1.0"), LEARNED | dict(fuser=True)],
)
@pytest.mark.parametrize(
  ("format", "name"),
  [
    ("native", "a.npz"),
    ("native", "a.safetensors"),
    ("scenic", "a.npz"),
    ("scenic", "a.msgpack"),
  ],
)
def test_token_learner(
  format, name, learned, tmp_path, make_model, make_params, assert_same
):
  model = make_model(token_learner=learned, rep_size=6)
  params = make_params(model)
  interop.save_params(params, tmp_path / name, format)
  loaded, _ = interop.load_params_and_report(tmp_path / name, model)
  assert_same(loaded, params)
  if format == "scenic":
    assert interop.describe(tmp_path / name).format == "scenic"


def test_hugging_face(tmp_path, make_model, make_params, assert_same):
  model = make_model(num_classes=None, pool="tok", rep_size=True)
  params = make_params(model)
  path = tmp_path / "model.safetensors"
  interop.save_params(params, path, "hugging_face")
  stored = safetensors.numpy.load_file(path)
  assert stored["vit.embeddings.position_embeddings"].shape == (1, 10, 16)
  assert stored["vit.encoder.layer.1.intermediate.dense.weight"].shape == (
    24,
    16,
  )
  loaded, report = interop.load_params_and_report(path, model)
  assert report.format == "hugging_face"
  assert_same(loaded, params)
  # ViTModel has the same names without their first part.
  bare = {k.removeprefix("vit."): v for k, v in stored.items()}
  safetensors.numpy.save_file(bare, path)
  loaded, _ = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  assert_same(loaded, params)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_bfloat16_is_kept(name, tmp_path, make_model, make_params, assert_same):
  model = make_model()
  params = jax.tree.map(
    lambda x: x.astype(ml_dtypes.bfloat16), make_params(model)
  )
  interop.save_params(params, tmp_path / name)
  loaded, _ = interop.load_params_and_report(tmp_path / name, model, dtype=None)
  assert_same(loaded, params)


def test_sines_are_stored_where_a_format_wants_them(
  tmp_path, make_model, make_params, logits
):
  model = make_model(posemb="sincos2d")
  params = make_params(model)
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match="pass model="):
    interop.save_params(params, path, "timm")
  assert not path.exists()
  interop.save_params(params, path, "timm", model=model)
  described = models.create(**interop.describe(path).model)
  images = np.random.default_rng(0).uniform(-1, 1, (1, 12, 12, 3))
  for learned in (make_model(), described):
    loaded, _ = interop.load_params_and_report(path, learned)
    np.testing.assert_allclose(
      logits(learned, loaded, images), logits(model, params, images), rtol=1e-5
    )


@pytest.mark.parametrize(
  ("overrides", "format", "name", "message"),
  [
    (dict(token_learner=LEARNED), "timm", "a.safetensors", "TokenLearner_0"),
    (dict(token_learner=LEARNED), "big_vision", "a.npz", "TokenLearner_0"),
    (dict(rep_size=4), "timm", "a.safetensors", "pre_logits"),
    (dict(pool="map"), "scenic", "a.npz", "MAPHead_0"),
    (dict(), "hugging_face", "a.safetensors", "cls token"),
    (
      dict(pool="tok", rep_size=True),
      "hugging_face",
      "a.safetensors",
      "no layer between the cls token and the classifier",
    ),
    (dict(), "timm", "a.npz", r"saved as \.safetensors"),
    (dict(), "keras", "a.npz", "Known: big_vision"),
  ],
)
def test_what_a_format_cannot_hold_is_refused(
  overrides, format, name, message, tmp_path, make_model, make_params
):
  params = make_params(make_model(**overrides))
  with pytest.raises(ValueError, match=message):
    interop.save_params(params, tmp_path / name, format)
  assert not list(tmp_path.iterdir())


def test_other_trees_are_refused(tmp_path):
  with pytest.raises(ValueError, match="no parameters of a ViT"):
    interop.save_params({"a": np.zeros(3)}, tmp_path / "a.npz")
