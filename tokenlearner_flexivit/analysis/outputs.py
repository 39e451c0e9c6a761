"""The outputs of a model by name, at several settings.

Letters: B batch, H W image, C channels.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.models import protocol, tiling

ANSWER = "answer"


def classifies(model: Any) -> bool:
  """Tells whether a model answers by logits of the classes of an image."""
  return bool(model.num_classes) and model.answers == protocol.CLASSES


def check_classifies(model: Any, advice: str) -> None:
  """Raises ValueError unless `classifies`, with advice."""
  if not model.num_classes:
    raise ValueError(f"The model has no head, so it does not answer. {advice}")
  if not classifies(model):
    raise ValueError(
      f"The model is a {type(model).__name__}, which answers by "
      f"{model.answers}. {advice}"
    )


def without_padding(
  model: Any,
  maps: np.ndarray,
  size: Sequence[int],
  patch_size: tiling.Size | None,
) -> np.ndarray:
  """Returns maps of the patches that lie over images.

  A segmenter pads images up to whole patches. Its maps then become maps of the
  pixels, so that each patch stays at its place.

  Args:
    model: as `named` takes it.
    maps: [..., h, w].
    size: height and width of the images.
    patch_size: that the maps are of; None for the model's own.
  """
  if not isinstance(model, models.Segmenter):
    return maps
  height, width = size
  padded = model.padded_size(size, patch_size)
  if padded == (height, width):
    return maps
  down, across = (p // n for p, n in zip(padded, maps.shape[-2:], strict=True))
  pixels = maps.repeat(down, axis=-2).repeat(across, axis=-1)
  return pixels[..., :height, :width]


def check_tiles(
  model: Any, size: Sequence[int], setting: dials.Setting
) -> None:
  """Raises ValueError if patches do not divide images, but reach beyond them.

  Args:
    model: a `models.ViT`.
    size: height and width of the images.
    setting: of the dials.
  """
  patch_size = setting.get("patch_size") or model.own_patch_size
  tiling.check_patch_size(tuple(size), patch_size)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def named(
  model: Any,
  params: Any,
  images: jax.Array,
  setting: dials.Setting,
  names: tuple[str, ...],
) -> dict[str, jax.Array]:
  """Returns outputs of a model by name, in float32.

  Layers that no named output depends on are not computed.

  Args:
    model: a `models.protocol.Model`.
    params: its parameters.
    images: [B, H, W, C], or videos [B, T, H, W, C].
    setting: of the dials.
    names: entries of the model's `out`, such as "encoder/block05/+mlp", or
      "answer" for its answer.

  Raises:
    ValueError: an unknown name (the error lists the known ones).
  """
  answer, out = model.apply({"params": params}, images, **setting)
  known = {**traverse_util.flatten_dict(out, sep="/"), ANSWER: answer}
  return {
    name: configuration.choose(name, known, "name").astype(jnp.float32)
    for name in names
  }


def outputs(
  model: Any,
  params: Any,
  batches: Iterable[Any],
  settings: Sequence[dials.Setting],
  names: Sequence[str],
) -> Iterator[tuple[Any, dict[dials.Setting, dict[str, jax.Array]]]]:
  """Yields each batch with the outputs of a model at every setting.

  Args:
    model: as `named` takes it.
    params: its parameters.
    batches: of images [B, H, W, C], or dicts with an entry `image` of these.
    settings: of the dials.
    names: as `named` takes them.

  Yields:
    The batch, and by setting the result of `named`, on the device.

  Raises:
    ValueError: an unknown name (the error lists the known ones).
  """
  params = jax.device_put(params)
  for batch in batches:
    images = batch["image"] if isinstance(batch, Mapping) else batch
    yield (
      batch,
      {s: named(model, params, images, s, tuple(names)) for s in settings},
    )
