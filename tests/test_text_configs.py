"""Configs of texts start from towers with the vocabulary of these."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
  captions,
  captions_scenes,
  detection_folder,
  detection_scenes,
  lit,
  owl_vit,
)
from tests import tiny
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.train import setup


@pytest.mark.parametrize(
  "size, asked, told",
  [
    (49_408, "", {"name": "clip"}),
    (9, ",vocabulary=clip", {"name": "clip"}),
    (9, "", None),
    (9, ",vocabulary=words", None),
  ],
)
def test_texts_are_read_as_the_text_tower_was_trained(
  size, asked, told, tmp_path
):
  text = dict(width=8, depth=1, mlp_dim=8, num_heads=1)
  text |= dict(vocab_size=size, max_len=4)
  model = models.create(
    name="two_towers", variant="mu", depth=1, num_classes=8, text=text
  )
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 64, 64, 3)),
    jnp.zeros((1, 4), jnp.int32),
  )["params"]
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  path = tmp_path / "towers.safetensors"
  interop.save_params(params, path, model=model)
  for config in (captions, lit, detection_folder, owl_vit):
    if told is None:
      with pytest.raises(ValueError, match=r"towers.* its text tower of 9 tok"):
        config.get_config(f"runlocal,init={path}{asked}")
      continue
    made = config.get_config(f"runlocal,init={path}{asked}")
    assert made.data.vocabulary.to_dict() == told
    assert made.model.text.vocab_size == size
  if told is not None and size == 9:
    with pytest.raises(ValueError, match=r"vocab_size=9, but .* 49408 tokens"):
      setup.Experiment(made)


@pytest.mark.parametrize(
  "config, args",
  [
    (lit, ""),
    (captions, ""),
    (captions_scenes, ",locked"),
    (detection_scenes, ""),
  ],
)
def test_the_image_tower_of_a_detector_starts_anew_with_texts(
  config, args, tmp_path
):
  """Its text tower has another size, and another depth, and other words."""
  text = dict(width=8, depth=2, mlp_dim=8, num_heads=1)
  text |= dict(vocab_size=9, max_len=4)
  model = models.create(
    name="owl_vit",
    **dict(width=32, depth=1, mlp_dim=32, num_heads=1),
    patch_size=8,
    posemb_grid=3,
    text=text,
  )
  params = tiny.init(model, np.zeros((1, 24, 24, 3)))
  path = tmp_path / "owl.safetensors"
  interop.save_params(params, path, model=model)
  experiment = setup.Experiment(
    config.get_config(f"runlocal,init={path}{args}")
  )
  loaded = experiment.init_params()
  for name in ("Transformer", "embedding", "pos_embedding"):
    chex.assert_trees_all_equal(loaded[name], params[name])
  assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(
    jnp.shape, experiment.init_shapes()
  )


def test_runlocal_reads_the_path(tmp_path):
  """As the other configs of own data do; without a path it renders scenes."""
  (tmp_path / "pairs.csv").write_text("file,caption\na.png,A cat\n")
  config = captions.get_config(f"runlocal,path={tmp_path}/pairs.csv")
  assert config.data.name == f"captions:{tmp_path}/pairs.csv"
  assert config.evals.retrieval.data.name == config.data.name
  assert captions.get_config("runlocal").data.name == "rendered_scenes/tiny"
