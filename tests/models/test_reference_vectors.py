"""Compares the models with vectors computed by the published code."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import vectors as vectors_lib
from tests.tiny import apply
from tests.vectors import assert_close, largest
from tokenlearner_flexivit import models

# Modules that check reference vectors.
MODULES = (
  "tests.evaluators.test_coco_ap",
  "tests.evaluators.test_panoptic_quality",
  "tests.evaluators.test_retrieval",
  "tests.evaluators.test_segmentation_metrics",
  "tests.interop.test_interop_formats",
  "tests.interop.test_owl_vit_files",
  "tests.models.test_detection_heads",
  "tests.models.test_fsq",
  "tests.models.test_label_coder",
  "tests.models.test_reference_vectors_resize",
  "tests.models.test_reference_vectors_video",
  "tests.models.test_segmenter",
  "tests.models.test_text_transformer",
  "tests.models.test_two_towers",
  "tests.models.test_uvim",
  "tests.tasks.test_contrastive_loss",
  "tests.tasks.test_matching",
)


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def test_every_file_is_checked():
  for module in MODULES:
    importlib.import_module(module)
  assert not vectors_lib.FILES.keys() - vectors_lib.checked
  if vectors_lib.REST.is_dir():
    assert not vectors_lib.checked - vectors_lib.FILES.keys()


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


@vectors_lib.checks(
  "scenic_tl_v10_mean_4d", "scenic_tl_v10_sum_4d", "scenic_tl_v10_sum_3d"
)
def test_token_learner_v10(name):
  vectors = vectors_lib.Vectors(name)
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


@vectors_lib.checks("scenic_tl_v11_4d", "scenic_tl_v11_3d_bneck16")
def test_token_learner_v11(name):
  vectors = vectors_lib.Vectors(name)
  check_module(models.TokenLearner(**vectors.meta["attrs"]), vectors, ["x"])


@vectors_lib.checks("scenic_fuser_3d", "scenic_fuser_4d", "scenic_fuser_nonorm")
def test_token_fuser(name):
  vectors = vectors_lib.Vectors(name)
  module = models.TokenFuser(**vectors.meta["attrs"])
  check_module(module, vectors, ["tokens", "original"])


@vectors_lib.checks(
  "scenic_vit_img_loc0",
  "scenic_vit_img_loc1_v10",
  "scenic_vit_img_loc2",
  "scenic_vit_img_locnever",
  "scenic_vit_img_patch",
  "scenic_vit_img_fuse_loc0_v10",
  "scenic_vit_img_fuse_loc1",
)
def test_scenic_vit(name):
  vectors = vectors_lib.Vectors(name)
  meta = vectors.meta
  model = models.ViT(
    **vectors_lib.scenic_arguments(meta),
    patch_size=meta["tokenizer"]["patches"]["size"],
    posemb_grid=4,
  )
  params = vectors_lib.scenic_params(vectors)
  y, out = apply(model, params, vectors["in/x"])
  assert_close(out["stem"], vectors["out/embedding"])
  assert_close(out["encoded"], vectors["out/Transformer"])
  pre_logits = out["pre_logits"]
  if meta["classifier"] != "gap":
    # A maximum and a sum over tokens, which ViT does not offer.
    pool = {"gmp": np.max, "gsp": np.sum}[meta["classifier"]]
    pre_logits = pool(np.asarray(out["encoded"]), axis=1)
    y = vectors_lib.dense(params["head"], pre_logits)
  # Recorded before the tanh of the representation layer, if there is one.
  expected = vectors["out/pre_logits"]
  assert_close(pre_logits, np.tanh(expected) if model.rep_size else expected)
  assert_close(y, vectors["out/y"])


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


@vectors_lib.checks(
  "bv_flexivit_gap",
  "bv_flexivit_tok",
  "bv_flexivit_map",
  "bv_flexivit_gap_sincos",
)
def test_flexivit(name):
  vectors = vectors_lib.Vectors(name)
  calls = [*vectors.meta["calls"].items()]
  if name == "bv_flexivit_gap":
    # Each call is a program: four of twelve, to the smallest and the largest
    # patch.
    calls = sorted(calls, key=lambda call: call[1]["patch"])
    calls = [*calls[::4], calls[-1]]
  check_flexivit(vectors, calls)


@pytest.mark.slow
def test_flexivit_at_twelve_sizes():
  vectors = vectors_lib.Vectors("bv_flexivit_gap")
  check_flexivit(vectors, vectors.meta["calls"].items())


def check_flexivit(vectors, calls):
  cfg = vectors.meta["cfg"]
  model = big_vision_model(
    cfg,
    posemb=cfg["posemb"],
    posemb_grid=cfg["posemb_size"],
    pool=cfg["pool_type"],
  )
  params = vectors.tree("params/")
  for call, settings in calls:
    images = vectors["in/" + call.split("@")[0]]
    _, out = apply(model, params, images, patch_size=settings["patch"])
    assert out["stem"].shape == tuple(vectors[f"out/{call}/stem_shape"])
    for key in ("pre_logits", "logits"):
      assert_close(out[key], vectors[f"out/{call}/{key}"])
    if f"{call}/with_posemb" in vectors.flat("out/"):
      assert_close(out["with_posemb"][:1], vectors[f"out/{call}/with_posemb"])


@vectors_lib.checks(
  "bv_vit_learn_gap",
  "bv_vit_learn_map",
  "bv_vit_learn_tok",
  "bv_vit_learn_0",
  "bv_vit_sincos_gap",
  "bv_vit_sincos_map",
  "bv_vit_sincos_tok",
  "bv_vit_sincos_0",
  "bv_vit_none_rep",
)
def test_vit(name):
  vectors = vectors_lib.Vectors(name)
  cfg = vectors.meta["cfg"]
  pool = cfg["pool_type"]
  size = vectors["in/x"].shape[1:3]
  model = big_vision_model(
    cfg,
    posemb=cfg["posemb"],
    # The plain ViT has no stored grid: its sines are those of its images.
    posemb_grid=np.floor_divide(size, cfg["patch_size"]).tolist(),
    pool=pool if pool in ("gap", "map", "tok") else "gap",
  )
  params = vectors.tree("params/")
  _, out = apply(model, params, vectors["in/x"])
  for key in ("with_posemb", "encoded"):
    assert_close(out[key], vectors[f"out/{key}"])
  if pool == "none":
    # Not ours: a representation of every token.
    y = np.tanh(vectors_lib.dense(params["pre_logits"], out["encoded"]))
    assert_close(y, vectors["out/pre_logits"])
    assert_close(y, vectors["out/y"])
    return
  if pool == "0":
    # Not ours: the first patch stands for all.
    out["pre_logits"] = out["encoded"][:, 0]
    out["logits"] = vectors_lib.dense(params["head"], out["pre_logits"])
  assert_close(out["pre_logits"], vectors["out/pre_logits"])
  assert_close(out["logits"], vectors["out/logits"])
