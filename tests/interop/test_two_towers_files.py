"""Files with an image and a text tower, in the names of big_vision."""

import jax
import numpy as np
import pytest

from tests.tiny import apply
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models


def embed(model, params, images, texts):
  """Returns embeddings of images and texts, and all outputs of the images."""
  zimg, out = apply(model, params, images)
  program = jax.jit(
    lambda p: model.apply({"params": p}, texts, method="embed_texts")
  )
  return zimg, program(params)[0], out


@pytest.fixture
def published(vectors, tmp_path):
  """Returns a function that writes a file of big_vision's two towers."""

  def write(name, root="params/", change=lambda arrays: arrays):
    reference = vectors(f"dense_bv_two_towers_{name}")
    arrays = change(reference.flat("params/"))
    path = tmp_path / "towers.npz"
    np.savez(path, **{root + k: v for k, v in arrays.items()})
    return path, reference

  return write


def posemb_twice(arrays):
  """As old text towers have it."""
  half = arrays["txt/pos_embedding"] / 4
  return arrays | {
    "txt/pos_embedding": 3 * half,
    "txt/Encoder_0/pos_embedding": half,
  }


def scanned(arrays):
  """As a scan over layers stores blocks."""
  first = "/encoderblock_0/"
  return {
    name.replace(first, "/encoderblock/"): x[None] if first in name else x
    for name, x in arrays.items()
  }


@pytest.mark.parametrize(
  ("name", "root", "change"),
  [
    ("tok", "params/", dict),
    ("map", "opt/target/", posemb_twice),
    ("map", "", scanned),
    ("gap_nobias", "params/", dict),
  ],
)
def test_big_vision(name, root, change, published):
  path, reference = published(name, root, change)
  grid = (2, 2) if name == "gap_nobias" else None
  grid = (2, 3) if name == "tok" else grid
  described = interop.describe(path, posemb_grid=grid)
  assert described.format == "big_vision"
  guesses = "\n".join(described.guesses)
  assert ("text.pool='last'" in guesses) == (name != "map")
  model = models.create(**described.model)
  assert (model.bias_init is None) == (name == "gap_nobias")
  params, report = interop.load_params_and_report(path, model, posemb_grid=grid)
  assert {row.fate for row in report.rows} == {"loaded"}
  zimg, ztxt, out = embed(
    model, params, reference["in/image"], reference["in/text"]
  )
  assert_close(zimg, reference["out/zimg"], 1e-5)
  assert_close(ztxt, reference["out/ztxt"], 1e-5)
  assert_close(out["t"], reference["out/t"], 1e-6)


def test_a_file_of_big_vision_is_written_again(published, tmp_path):
  path, reference = published("map")
  model = models.create(**interop.describe(path).model)
  params, _ = interop.load_params_and_report(path, model)
  again = tmp_path / "again.npz"
  interop.save_params(params, again, "big_vision")
  expected = reference.flat("")
  with np.load(again) as file:
    names = {name for name in file.files if name.startswith("params/")}
    assert names == {name for name in expected if name.startswith("params/")}
    for name in names:
      np.testing.assert_array_equal(file[name], expected[name])
  # A file of ours tells the whole model.
  ours = tmp_path / "ours.npz"
  interop.save_params(params, ours, model=model)
  assert models.create(**interop.describe(ours).model) == model
  _, report = interop.load_params_and_report(
    ours, model.clone(text=dict(model.text) | {"causal": True})
  )
  assert "text.causal=True of the model is False" in str(report)
  for format, suffix in (("timm", "safetensors"), ("scenic", "npz")):
    with pytest.raises(ValueError, match="no parameter like"):
      interop.save_params(params, tmp_path / f"a.{suffix}", format)
  clip = model.clone(text=dict(model.text) | {"causal": True})
  with pytest.raises(ValueError, match="towers are not causal"):
    interop.save_params(params, again, "big_vision", model=clip)


def test_the_image_tower_alone(published):
  path, reference = published("map")
  described = interop.describe(path)
  model = models.ViT(**described.image_model)
  params, report = interop.load_params_and_report(path, model)
  assert {row.fate for row in report.rows} == {"loaded"}
  assert "Left out the text tower: 39 arrays." in str(report)
  logits, _ = apply(model, params, reference["in/image"])
  expected = reference["out/zimg"] * reference["out/img_norm"]
  assert_close(logits, expected, 1e-5)


def test_a_locked_tower_gets_a_fresh_text_tower(
  make_model, make_params, tmp_path
):
  vit = make_model(pool="tok", num_classes=8)
  weights = make_params(vit)
  path = tmp_path / "vit.npz"
  interop.save_params(weights, path, "big_vision")
  arguments = {
    name: value
    for name, value in interop.describe(path).model.items()
    if name != "num_classes"
  }
  text = dict(
    vocab_size=11, max_len=5, width=8, depth=1, mlp_dim=8, num_heads=2
  )
  for num_classes in (None, 8):
    model = models.TwoTowers(
      **arguments, num_classes=num_classes, text=text, bias_init=-3.0
    )
    values = make_params(model, seed=1)
    params, report = interop.load_params_and_report(path, model, params=values)
    fresh = set(report.names("fresh"))
    beside = {n for n in fresh if n.startswith("txt/")} | {"t", "b"}
    # A head for classes is none for embeddings, even if it has the same shape.
    head = {"head/bias", "head/kernel"} if num_classes else set()
    assert fresh == beside | head and len(beside) > 20
    np.testing.assert_array_equal(params["b"], values["b"])
    np.testing.assert_array_equal(params["cls"], weights["cls"])
    if num_classes:
      np.testing.assert_array_equal(
        params["head"]["kernel"], values["head"]["kernel"]
      )


def test_other_heads_and_scalars_are_bridged(published, make_params):
  path, _ = published("map")
  arguments = interop.describe(path).model
  text = arguments["text"] | {"embed_dim": 7}
  model = models.create(
    **arguments | dict(num_classes=7, text=text, bias_init=None)
  )
  values = make_params(model, shape=(16, 16))
  _, report = interop.load_params_and_report(path, model, params=values)
  assert set(report.names("fresh")) == {
    f"{tower}head/{leaf}"
    for tower in ("", "txt/")
    for leaf in ("bias", "kernel")
  }
  assert report.names("unused") == ["b"]
  # Only the image half.
  model = models.create(**arguments)
  values = make_params(model, shape=(16, 16))
  _, report = interop.load_params_and_report(
    path, model, params=values, fresh=("txt/",)
  )
  fresh = report.names("fresh")
  assert fresh and all(name.startswith("txt/") for name in fresh)
  with pytest.raises(ValueError, match=r"txt/Encoder_0/encoderblock_1/.*here"):
    deeper = arguments["text"] | {"depth": 2}
    interop.load_params(path, models.create(**arguments | {"text": deeper}))
