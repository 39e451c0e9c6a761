"""Compares the models with vectors computed by the published code.

The folder of .npz files is found through the environment variable
TLFV_GOLDENS; the tests are skipped where there is none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import vectors as vectors_lib
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import patch_embed, posemb

TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(
  not vectors_lib.FOLDER.is_dir(), reason=vectors_lib.ABSENT
)


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def largest(tree):
  return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))


def assert_close(actual, expected, tolerance=TOLERANCE, floor=0.0):
  """Compares relative to the largest value expected, or `floor` if larger."""
  assert actual.shape == expected.shape
  error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
  assert error <= tolerance * max(largest(expected), floor), error


def apply(model, params, images, **settings):
  """Applies a ViT; one compilation takes less time than a run without."""
  run = jax.jit(lambda p, x: model.apply({"params": p}, x, **settings))
  return run(params, jnp.asarray(images))


def check_module(module, vectors, inputs):
  """Checks output and gradients of a module with inputs given by name."""
  params = vectors.tree("params/")
  values = [jnp.asarray(vectors["in/" + k]) for k in inputs]

  def apply(params, *inputs):
    y = module.apply({"params": params}, *inputs)
    y = y[0] if isinstance(y, tuple) else y
    # The published fuser returns [B, N, D] also for [B, h, w, D].
    return y.reshape(vectors["out/y"].shape)

  @jax.jit
  def output_and_gradients(params, *inputs):
    y, vjp = jax.vjp(apply, params, *inputs)
    return y, vjp(jnp.asarray(vectors["grad/cotangent"]))

  y, (param_grads, *input_grads) = output_and_gradients(params, *values)
  assert_close(y, vectors["out/y"])
  expected = vectors.tree("grad/params/")
  # Some are zero but for rounding: that of a bias before a softmax, or before
  # a LayerNorm.
  floor = 0.1 * largest(expected)
  jax.tree.map(
    lambda a, b: assert_close(a, b, floor=floor), param_grads, expected
  )
  for name, grad in zip(inputs, input_grads, strict=True):
    assert_close(grad, vectors["grad/in/" + name])


@pytest.mark.parametrize("name", ["v10_mean_4d", "v10_sum_4d", "v10_sum_3d"])
def test_token_learner_v10(name):
  vectors = vectors_lib.Vectors(f"scenic_tl_{name}")
  attrs = vectors.meta["attrs"]
  module = models.TokenLearner(
    attrs["num_tokens"],
    version="1.0",
    pooling="sum" if attrs["use_sum_pooling"] else "mean",
  )
  if vectors["in/x"].ndim == 3:
    module = _WithGrid(module, (6, 6))
  check_module(module, vectors, ["x"])


class _WithGrid:
  """Passes the grid, which the published module guesses to be square."""

  def __init__(self, module, grid):
    self.module, self.grid = module, grid

  def apply(self, variables, x):
    return self.module.apply(variables, x, grid=self.grid)


@pytest.mark.parametrize("name", ["v11_4d", "v11_3d_bneck16"])
def test_token_learner_v11(name):
  vectors = vectors_lib.Vectors(f"scenic_tl_{name}")
  check_module(models.TokenLearner(**vectors.meta["attrs"]), vectors, ["x"])


@pytest.mark.parametrize("name", ["3d", "4d", "nonorm"])
def test_token_fuser(name):
  vectors = vectors_lib.Vectors(f"scenic_fuser_{name}")
  module = models.TokenFuser(**vectors.meta["attrs"])
  check_module(module, vectors, ["tokens", "original"])


# The videos have tests of their own, with the code that handles them.
@pytest.mark.parametrize(
  "name",
  [
    "loc0",
    "loc1_v10",
    "loc2",
    "locnever",
    "patch",
    "fuse_loc0_v10",
    "fuse_loc1",
  ],
)
def test_scenic_vit(name):
  vectors = vectors_lib.Vectors(f"scenic_vit_img_{name}")
  meta = vectors.meta
  tokenizer = meta["tokenizer"]
  token_learner = None
  # Beyond the depth, and for the type "patch", the published code silently
  # builds a plain ViT.
  layer = tokenizer["tokenlearner_loc"]
  if tokenizer["type"] == "dynamic" and layer < meta["num_layers"]:
    token_learner = dict(
      layer=layer,
      num_tokens=tokenizer["num_tokens"],
      version="1.1" if tokenizer["use_v11"] else "1.0",
      fuser=tokenizer["use_tokenfuse"],
    )
  model = models.ViT(
    num_classes=meta["num_classes"],
    width=meta["hidden_size"],
    depth=meta["num_layers"],
    mlp_dim=meta["mlp_dim"],
    num_heads=meta["num_heads"],
    patch_size=tokenizer["patches"]["size"],
    posemb_grid=4,
    rep_size=meta["representation_size"],
    token_learner=token_learner,
  )
  params = vectors.tree("params/")
  encoder = params["Transformer"]
  params["pos_embedding"] = encoder.pop("posembed_input")["pos_embedding"]
  params["head"] = params.pop("output_projection")
  for key in list(encoder):
    for old in ("TokenLearnerModuleV11", "TokenLearnerModule"):
      if key.startswith(old + "_"):
        encoder[key.replace(old, "TokenLearner")] = encoder.pop(key)
  y, out = apply(model, params, vectors["in/x"])
  assert_close(out["stem"], vectors["out/embedding"])
  assert_close(out["encoded"], vectors["out/Transformer"])
  # The other classifiers, "gmp" and "gsp", are poolings that ViT has not.
  if meta["classifier"] == "gap":
    # Recorded before the tanh of the representation layer, if there is one.
    pre_logits = vectors["out/pre_logits"]
    pre_logits = np.tanh(pre_logits) if model.rep_size else pre_logits
    assert_close(out["pre_logits"], pre_logits)
    assert_close(y, vectors["out/y"])


def test_resample_patchemb():
  # The oracle is in float64; the published float32 code is off by up to 1e-4
  # of the largest weight.
  vectors = vectors_lib.Vectors("bv_resample_patchemb")
  names = vectors.flat("out/oracle/")
  assert len(names) >= 14
  for name in names:
    old, new = name.split("->")
    kernel = jnp.asarray(vectors[f"in/{old}"])
    resized = patch_embed.resize_kernel(kernel, tuple(map(int, new.split("x"))))
    assert_close(resized, vectors[f"out/oracle/{name}"])
    if f"out/peer/{name}" in vectors.flat(""):
      assert_close(resized, vectors[f"out/peer/{name}"], 1e-4)


def test_posemb():
  vectors = vectors_lib.Vectors("bv_posemb")
  # "load" is what happens to released weights when read, not in the model.
  for name in vectors.flat("out/forward/"):
    old, new = name.split("->")
    grid = [int(n) for n in new.split("x")]
    resized = posemb.resize_posemb(
      jnp.asarray(vectors[f"in/{old}"]),
      (int(old), int(old)),
      grid * (2 // len(grid)),
    )
    assert_close(resized, vectors[f"out/forward/{name}"])
  for name in vectors.flat("out/sincos2d/"):
    h, w, width = map(int, name.split("x"))
    assert_close(
      posemb.sincos2d((h, w), width), vectors[f"out/sincos2d/{name}"]
    )


def big_vision_model(cfg, **kwargs):
  return models.ViT(
    num_classes=cfg["num_classes"],
    width=cfg["width"],
    depth=cfg["depth"],
    mlp_dim=4 * cfg["width"],
    num_heads=cfg["num_heads"],
    patch_size=cfg["patch_size"],
    rep_size=cfg.get("rep_size"),
    **kwargs,
  )


@pytest.mark.parametrize("name", ["gap", "tok", "map", "gap_sincos"])
def test_flexivit(name):
  vectors = vectors_lib.Vectors(f"bv_flexivit_{name}")
  cfg = vectors.meta["cfg"]
  # The published FlexiViT computes sines for the stored grid and resizes them
  # like a learned embedding; ours computes them for the grid at hand.
  model = big_vision_model(
    cfg, posemb_grid=cfg["posemb_size"], pool=cfg["pool_type"]
  )
  params = vectors.tree("params/")
  if cfg["posemb"] == "sincos2d":
    params["pos_embedding"] = posemb.sincos2d(cfg["posemb_size"], cfg["width"])
  for call, settings in vectors.meta["calls"].items():
    images = vectors["in/" + call.split("@")[0]]
    _, out = apply(model, params, images, patch_size=settings["patch"])
    assert out["stem"].shape == tuple(vectors[f"out/{call}/stem_shape"])
    for key in ("pre_logits", "logits"):
      assert_close(out[key], vectors[f"out/{call}/{key}"])
    if f"{call}/with_posemb" in vectors.flat("out/"):
      assert_close(out["with_posemb"][:1], vectors[f"out/{call}/with_posemb"])


# Not ours: the pool "0" (the first patch stands for all), and the parameters
# of a scan over layers.
@pytest.mark.parametrize(
  "name",
  [
    "learn_gap",
    "learn_map",
    "learn_tok",
    "sincos_gap",
    "sincos_map",
    "sincos_tok",
    "none_rep",
  ],
)
def test_vit(name):
  vectors = vectors_lib.Vectors(f"bv_vit_{name}")
  cfg = vectors.meta["cfg"]
  # Without pooling the published model returns all tokens; ours has them in
  # `out`.
  pooled = cfg["pool_type"] != "none"
  model = big_vision_model(
    cfg,
    posemb=cfg["posemb"],
    posemb_grid=4,
    pool=cfg["pool_type"] if pooled else "gap",
  )
  params = vectors.tree("params/")
  _, out = apply(model, params, vectors["in/x"])
  keys = ["with_posemb", "encoded"]
  keys += ["pre_logits", "logits"] if pooled else []
  for key in keys:
    assert_close(out[key], vectors[f"out/{key}"])
