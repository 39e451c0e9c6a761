"""The convolution of TokenLearner's maps.

Letters: B batch, h w grid, S learned tokens, D width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class MapConv(nn.Module):
  """A 3x3 SAME convolution without bias, whose last outputs can be left out.

  Attributes:
    features: outputs of the stored kernel.
    dtype: of the computation; the kernel is float32.
  """

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "B h w D"], num_out: int | None = None
  ) -> Float[Array, "B h w S"]:
    """Returns the outputs, or the first `num_out` of them."""
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return jax.lax.conv_general_dilated(
      x,
      kernel[..., :num_out].astype(self.dtype),
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
