"""Models are measured by turns."""

from flax import linen as nn

from experiments import throughput
from tokenlearner_flexivit import dials


def test_each_setting_is_measured_as_often_as_there_are_rounds():
  compiled = []

  class Model(nn.Module):
    @nn.compact
    def __call__(self, images, patch_size=None, num_tokens=None):
      compiled.append((images.shape, patch_size))
      return nn.Dense(2)(images), {}

  model = Model()
  speeds = throughput.measure(
    {size: (model, dials.Setting((size, size))) for size in (12, 2)},
    side=12,
    rounds=5,
  )
  assert [len(values) for values in speeds.values()] == [5, 5]
  assert min(speeds[12] + speeds[2]) > 0
  # The parameters come from one image and are shared.
  assert list(dict.fromkeys(compiled)) == [
    ((1, 12, 12, 3), None),
    ((64, 12, 12, 3), (12, 12)),
    ((64, 12, 12, 3), (2, 2)),
  ]
