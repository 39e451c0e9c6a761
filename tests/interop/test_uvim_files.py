"""Files of both stages of UViM: big_vision's are read and written."""

import chex
import jax
import numpy as np
import pytest

from tests import tiny, vectors
from tests.models import test_label_coder, test_uvim
from tokenlearner_flexivit import interop, models

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
