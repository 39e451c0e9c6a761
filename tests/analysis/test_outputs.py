"""The outputs of a model by name: those of its call, at every setting."""

import jax
import numpy as np
import pytest

from tests.analysis.test_correspondence import FOUR, IMAGES, SIX, make
from tokenlearner_flexivit.analysis import outputs


def test_they_are_those_of_the_call_at_every_setting():
  model, params = make(dtype="bfloat16")
  name = "encoder/block00/+sa"
  batches = [{"image": IMAGES[:1], "label": 0}, {"image": IMAGES[1:]}]
  results = list(
    outputs.outputs(model, params, batches, [SIX, FOUR], [name, "answer"])
  )
  assert [batch for batch, _ in results] == batches
  settings = SIX, FOUR

  @jax.jit
  def call(params, images):
    return [model.apply({"params": params}, images, **s) for s in settings]

  expected = dict(zip(settings, call(params, IMAGES), strict=True))
  for i, (_, by_setting) in enumerate(results):
    assert tuple(by_setting) == settings
    for setting, result in by_setting.items():
      answer, out = expected[setting]
      values = {name: out["encoder"]["block00"]["+sa"], "answer": answer}
      for key, value in values.items():
        assert result[key].dtype == np.float32
        np.testing.assert_allclose(
          result[key],
          np.asarray(value[i : i + 1], np.float32),
          rtol=2e-2,
          atol=2e-2,
        )


def test_batches_may_be_arrays():
  model, params = make()
  [(images, by_setting)] = outputs.outputs(
    model, params, [IMAGES], [SIX], ["stem"]
  )
  assert images is IMAGES
  assert by_setting[SIX]["stem"].shape == (2, 2, 2, 16)


def test_unknown_names_are_told_with_the_known_ones():
  model, params = make()
  with pytest.raises(ValueError, match=r"name='block9'.*answer, .*with_posemb"):
    next(outputs.outputs(model, params, [IMAGES], [SIX], ["block9"]))
