"""Files of both stages of UViM: big_vision's are read and written."""

import chex
import jax
import numpy as np
import pytest

from tests import tiny, vectors
from tests.models import test_label_coder, test_uvim
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop.__main__ import main

STAGES = {
  "dense_bv_uvim_vq_resize": test_label_coder.published,
  "dense_bv_uvim_vq_matrix": test_label_coder.published,
  "dense_bv_uvim_lm_learn": test_uvim.published,
  "dense_bv_uvim_lm_sincos": test_uvim.published,
}


@pytest.mark.parametrize("name", STAGES)
def test_published_files_are_read_and_written(name, tmp_path):
  case = vectors.Vectors(name)
  model, params = STAGES[name](case)
  theirs = {f"params/{k}": v for k, v in case.flat("params/").items()}
  theirs |= {f"state/{k}": v for k, v in case.flat("in/state/").items()}
  path = tmp_path / "theirs.npz"
  np.savez(path, **theirs)
  loaded = interop.load_params(path, model)
  chex.assert_trees_all_equal(loaded, params)
  back = tmp_path / "back.npz"
  interop.save_params(params, back, format="big_vision")
  with np.load(back) as file:
    written = {key: file[key] for key in file.files}
  written.pop("__metadata__", None)
  chex.assert_trees_all_equal(
    {k: v for k, v in written.items() if k in theirs}, theirs
  )
  # The grid of these codes is not the half that is guessed, or not a square.
  described = interop.describe(path, posemb_grid=_grid(model)).model
  assert models.MODELS[described["name"]] is type(model)
  for key in ("width", "mlp_dim", "num_heads", "num_codes", "num_labels"):
    assert described.get(key, getattr(model, key, None)) == getattr(
      model, key, None
    )


def _grid(model):
  is_coder = isinstance(model, models.LabelCoder)
  return None if is_coder else model.posemb_grid


def test_stages_are_saved_apart(tmp_path):
  model = test_uvim.tiny_model(
    coder=test_uvim.tiny_coder(), num_codes=None, code_len=None
  )
  params = tiny.init(model, np.zeros((1, 16, 16, 3)))
  path = tmp_path / "both.npz"
  with pytest.raises(ValueError, match="Save params\\['label_coder'\\]"):
    interop.save_params(params, path, format="big_vision")
  with pytest.raises(ValueError, match="and this one has none"):
    interop.save_params(params["label_coder"], path, format="big_vision")
  with pytest.raises(ValueError, match="has no model that codes labels"):
    interop.save_params(
      params["label_coder"], tmp_path / "a.safetensors", format="timm"
    )
  interop.save_params(params, path, model=model)
  chex.assert_trees_all_equal(
    interop.load_params(path, model), jax.device_get(params)
  )
  described = interop.describe(path)
  assert models.create(**described.model) == model


def test_a_coder_is_converted(tmp_path):
  """It has no patch embedding, which images in [-1, 1] do not need."""
  options = dict(quantizer="vq", num_words=6, word_dim=3)
  model = test_label_coder.tiny_model(**options)
  params = tiny.init(model, np.zeros((1, *model.image_size, 3)))
  ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.npz"
  half = dict(input_mean=(0.5,), input_std=(0.5,))
  interop.save_params(params, ours, model=model, **half)
  main(["convert", str(ours), str(theirs), "--format=big_vision"])
  loaded = interop.load_params(theirs, model)
  chex.assert_trees_all_equal(loaded, jax.device_get(params))
  with pytest.raises(SystemExit, match="timm has no model that codes labels"):
    main(["convert", str(ours), str(tmp_path / "timm"), "--format=timm"])


def test_stage_two_is_converted_without_its_coder(tmp_path, capsys):
  model = test_uvim.tiny_model(
    coder=test_uvim.tiny_coder(), num_codes=None, code_len=None
  )
  params = tiny.init(model, np.zeros((1, 16, 16, 3)))
  ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.npz"
  interop.save_params(params, ours, model=model)
  call = ["convert", str(ours), str(theirs), "--format=big_vision"]
  with pytest.raises(SystemExit, match="leaves it out: --unused label_coder"):
    main(call)
  main([*call, "--unused", "label_coder"])
  alone = model.clone(coder=None)
  del params["label_coder"]
  loaded = interop.load_params(theirs, alone)
  chex.assert_trees_all_equal(loaded, jax.device_get(params))
