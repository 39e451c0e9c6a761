"""Several processes share the examples and come to the same values."""

import pytest


@pytest.mark.processes
def test_two_processes_are_one(config, evaluate_by_processes):
  """Each of two devices; 21 examples, the last five in a padded batch."""
  model = dict(variant="mu", depth=1, patch_size=(4, 4), posemb_grid=(3, 3))
  config.model = model | {"head_zeroinit": False}
  config.flexi.patch_size.values = (6, 4)
  config.task = dict(
    name="distillation",
    teachers=dict(
      prof=dict(model=config.model.to_dict(), patch_size=3, dtype="float32")
    ),
  )
  data = config.evals.test.data.to_dict()
  config.evals = dict(
    dist=dict(type="distance", data=data), ens=dict(type="ensemble", data=data)
  )
  (alone,) = evaluate_by_processes(config, 1)
  first, second = evaluate_by_processes(config, 2)
  assert len(alone) == (2 * 4 + 4) + (2 * 4 + 7)
  assert first == second == pytest.approx(alone, rel=1e-5)
