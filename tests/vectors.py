"""The reference vectors of the published implementations.

Most lie in `reference_vectors`; the others are looked for in the folder that
the environment variable TLFV_GOLDENS names.
"""

import json
import os
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import patch_embed

HERE = pathlib.Path(__file__).parent
REST = pathlib.Path(
  os.environ.get("TLFV_GOLDENS", HERE / "../../shared/goldens")
)
FILES = {
  path.stem: path
  for folder in (REST, HERE / "reference_vectors")
  for path in folder.glob("*.npz")
}
TOLERANCE = 2e-5

checked: set[str] = set()


def checks(*names):
  """Runs a test for each of these files; that counts them as checked."""
  checked.update(names)
  return pytest.mark.parametrize("name", names)


class Vectors:
  """One file: `meta`, and arrays by name, flat or as trees by prefix."""

  def __init__(self, name):
    if name not in FILES:
      pytest.skip(f"no {name}.npz here or in {REST} (TLFV_GOLDENS)")
    with np.load(FILES[name]) as file:
      self._arrays = {k: file[k] for k in file.files if k != "meta"}
      self.meta = json.loads(str(file["meta"]))

  def __getitem__(self, name):
    return self._arrays[name]

  def flat(self, prefix):
    """All arrays whose name begins so, without the beginning."""
    return {
      k.removeprefix(prefix): v
      for k, v in self._arrays.items()
      if k.startswith(prefix)
    }

  def tree(self, prefix):
    return traverse_util.unflatten_dict(self.flat(prefix), sep="/")


def largest(tree):
  return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))


def assert_close(actual, expected, tolerance=TOLERANCE, floor=0.0):
  """Compares relative to the largest value expected, or `floor` if larger."""
  assert actual.shape == expected.shape
  error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
  assert error <= tolerance * max(largest(expected), floor), error


def dense(layer, x):
  """What a dense layer with these parameters gives."""
  return x @ layer["kernel"] + layer["bias"][(None,) * (x.ndim - 1)]


def scenic_arguments(meta):
  """Constructor arguments of ours for a published TokenLearnerViT."""
  tokenizer = meta["tokenizer"]
  # Beyond the depth, and for the type "patch", the published code silently
  # builds a plain ViT.
  layer, token_learner = tokenizer["tokenlearner_loc"], None
  if tokenizer["type"] != "patch" and layer < meta["num_layers"]:
    token_learner = dict(
      layer=layer,
      num_tokens=tokenizer["num_tokens"],
      version="1.1" if tokenizer["use_v11"] else "1.0",
      fuser=tokenizer["use_tokenfuse"],
    )
  return dict(
    num_classes=meta["num_classes"],
    width=meta["hidden_size"],
    depth=meta["num_layers"],
    mlp_dim=meta["mlp_dim"],
    num_heads=meta["num_heads"],
    rep_size=meta["representation_size"],
    token_learner=token_learner,
  )


def scenic_video_model(vectors):
  """The same for videos, with the size of what `in/x` holds."""
  meta, videos = vectors.meta, vectors["in/x"]
  # There the frames of a tubelet come last.
  p, q, *t = meta["tokenizer"]["patches"]["size"]
  encoding = meta["tokenizer"].get("temporal_encoding_config", {})
  arguments = scenic_arguments(meta)
  if meta["cls"] == "TokenLearnerViTRepresentation":
    arguments["num_classes"] = None
  return models.ViViT(
    **arguments,
    patch_size=(*t, p, q),
    posemb_grid=(3, videos.shape[2] // p, videos.shape[3] // q),
    num_frames=encoding.get("n_sampled_frames"),
  )


def scenic_params(vectors):
  """Its parameters by our names."""
  params = vectors.tree("params/")
  encoder = params["Transformer"]
  params["pos_embedding"] = encoder.pop("posembed_input")["pos_embedding"]
  if "output_projection" in params:
    params["head"] = params.pop("output_projection")
  for key in list(encoder):
    for old in ("TokenLearnerModuleV11", "TokenLearnerModule"):
      if key.startswith(old + "_"):
        encoder[key.replace(old, "TokenLearner")] = encoder.pop(key)
  return params


def interpolate_as_timm(monkeypatch):
  """Makes the library bicubic with antialiasing, as timm is.

  Ours is bilinear by choice, with antialiasing for position embeddings alone,
  which is what the paper's code does. Under this patch all else must agree.
  """
  resize = jax.image.resize

  def pi_matrix(old, new):
    # Keys' kernel with a = -0.5, as wide as a new pixel if that is larger.
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    d = np.abs(centers[:, None] - np.arange(old)[None]) / max(1, old / new)
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, (d**2 / 2 - 2.5 * d + 4) * -d + 2
    matrix = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return np.linalg.pinv((matrix / matrix.sum(axis=1, keepdims=True)).T)

  def resize_cubic(image, shape, method):
    assert method == "linear"
    return resize(image, shape, "cubic")

  monkeypatch.setattr(patch_embed, "pi_matrix", pi_matrix)
  monkeypatch.setattr(jax.image, "resize", resize_cubic)
