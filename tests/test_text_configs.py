"""Configs of texts start from towers with the vocabulary of these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import captions, detection_folder, lit, owl_vit
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
