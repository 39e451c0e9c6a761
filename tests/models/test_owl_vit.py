"""OWL-ViT at any patch size and number of tokens.

`tests/interop/test_owl_vit_files.py` compares it with the published models.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost, detection_heads

TEXT = dict(
  vocab_size=11,
  max_len=5,
  width=8,
  depth=1,
  mlp_dim=12,
  num_heads=2,
  embed_dim=6,
  pool="eot",
)
TINY = dict(
  num_classes=None,
  width=16,
  depth=1,
  mlp_dim=24,
  num_heads=2,
  patch_size=4,
  posemb_grid=3,
  text=TEXT,
)
LEARNED = dict(layer=0, num_tokens=3)
TEXTS = np.array([[3, 1, 10, 0, 0], [2, 10, 0, 0, 0]])


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def make(size=(12, 12), **overrides):
  """Returns a model, its parameters and images."""
  model = models.create("owl_vit", **TINY | overrides)
  images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("f4")
  return model, tiny.init(model, images[:1], scale=0.4), images


def with_first_boxes(params):
  """Returns parameters with which boxes stay as they begin."""
  head = params["box_head"]
  last = jax.tree.map(jnp.zeros_like, head["Dense_2"])
  return params | {"box_head": head | {"Dense_2": last}}


def logit(shares):
  return np.log(shares) - np.log1p(-shares)


@pytest.mark.parametrize("pool", ["gap", "tok"])
@pytest.mark.parametrize("learner", [None, LEARNED | dict(fuser=True)])
def test_every_patch_predicts(pool, learner):
  """With the fuser of TokenLearner too."""
  model = models.create("owl_vit", **TINY, pool=pool, token_learner=learner)
  images = jax.ShapeDtypeStruct((2, 12, 16, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  answer, out = jax.eval_shape(
    lambda p, x: model.apply(p, x, TEXTS, patch_size=(4, 2)), params, images
  )
  shapes = {name: array.shape for name, array in answer.items()}
  assert shapes == {
    "boxes": (2, 24, 4),
    "embedding": (2, 24, 6),
    "shift": (2, 24),
    "scale": (2, 24),
    "logits": (2, 24, 2),
  }
  assert out["tokens_2d"].shape == (2, 3, 8, 16)
  assert ("merged_class_token" in params["params"]) == (pool == "tok")


def test_parameters_from_images_alone():
  model = models.create("owl_vit", **TINY, pool="tok", token_learner=LEARNED)
  images = jnp.zeros((1, 12, 12, 3))
  alone, all_of_them = (
    jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    for inputs in ((images,), (images, TEXTS))
  )
  assert alone == all_of_them
  assert {"txt", "box_head", "class_head", "merged_class_token"} < alone.keys()
  count = sum(leaf.size for leaf in jax.tree.leaves(alone))
  assert cost.num_params(model) == count
  # The tower's own count is not enough.
  tower = models.ViT(**{k: v for k, v in TINY.items() if k != "text"})
  at_tower, at_owl = (cost.macs(m, (12, 12, 3)) for m in (tower, model))
  assert at_owl != at_tower


@pytest.mark.parametrize("patch_size", [40, 20])
def test_resizing_a_kernel_is_no_cost_of_an_image(patch_size):
  """A coarse patch would otherwise seem dearer than a fine one."""
  fields = {**TINY, "patch_size": 32}
  model = models.create("owl_vit", **fields)
  tower = models.ViT(**{k: v for k, v in fields.items() if k != "text"})
  call = (160, 160, 3), patch_size
  parts, of_tower = (cost.operations(m, *call) for m in (model, tower))
  assert parts["resize"] == pytest.approx(of_tower["resize"], rel=1e-3)
  assert sum(parts.values()) == cost.xla_operations(model, *call)
  # The heads and what is no matrix product come on top.
  macs = tower.cost(call[0], patch_size=patch_size)
  assert macs < model.cost(call[0], patch_size=patch_size) < 1.1 * macs


def test_boxes_begin_at_the_patches_of_any_grid():
  """At the far corners and with the sizes of the patches of both axes."""
  model, params, images = make((8, 20))
  answer, _ = tiny.apply(model, with_first_boxes(params), images)
  y, x = np.mgrid[1:3, 1:6]
  size = np.ones((2, 5))
  expected = np.stack([x / 5, y / 2, size / 5, size / 2], axis=-1)
  for boxes in answer["boxes"]:
    np.testing.assert_allclose(boxes, expected.reshape(10, 4), atol=2e-4)


def test_boxes_move_with_the_image():
  """Without positions, rolling an image by whole patches rolls the answers.

  Each box is as far from where it begins as before.
  """
  model, params, images = make(pool="tok")
  params |= {"pos_embedding": jnp.zeros_like(params["pos_embedding"])}
  rolled = np.roll(images, (4, 8), axis=(1, 2))
  bias = detection_heads.box_bias((3, 3))
  answers = []
  for x in (images, rolled):
    answer, _ = tiny.apply(model, params, x)
    answer = {k: np.asarray(v) for k, v in answer.items()}
    answer["boxes"] = logit(answer["boxes"]) - bias
    answers.append(answer)
  for name, before in answers[0].items():
    before = before.reshape(2, 3, 3, -1)
    assert np.std(before, axis=(1, 2)).min() > 1e-4
    after = answers[1][name].reshape(before.shape)
    moved = np.roll(before, (1, 2), axis=(1, 2))
    # The logits of the shares beside 1 are the least exact.
    np.testing.assert_allclose(after, moved, rtol=1e-3, atol=5e-3)


def test_slots_begin_where_they_look():
  """Their first boxes lie at the centres of mass of TokenLearner's maps."""
  model, params, images = make(pool="tok", token_learner=LEARNED)
  answer, out = tiny.apply(model, with_first_boxes(params), images)
  assert answer["embedding"].shape == (2, 3, 6)
  assert "tokens_2d" not in out
  maps = np.asarray(out["token_learner"]["maps"]).reshape(2, 3, 3, 3)
  centres = (np.arange(3) + 0.5) / 3
  x = np.einsum("bsyx,x->bs", maps, centres)
  y = np.einsum("bsyx,y->bs", maps, centres)
  assert np.ptp(x) > 1e-3
  size = np.full_like(x, 3**-0.5)
  expected = np.stack([x, y, size, size], axis=-1)
  np.testing.assert_allclose(answer["boxes"], expected, atol=2e-4)


def test_slots_move_with_what_they_are_taken_from():
  maps = np.zeros((1, 2, 4, 5), np.float32)
  maps[0, 0, 1:3, 1:3] = [[1, 2], [3, 4]]
  # Maps need not sum to 1, nor show anything.
  first, later = (
    detection_heads.slot_bias(jnp.asarray(m.reshape(1, 2, 20)), (4, 5))
    for m in (maps, np.roll(maps, (1, 2), axis=(2, 3)))
  )
  shares = [1 / (1 + np.exp(-np.asarray(x))) for x in (first, later)]
  moved = (shares[1] - shares[0])[0, 0]
  np.testing.assert_allclose(moved, [2 / 5, 1 / 4, 0, 0], atol=2e-4)
  assert np.isfinite(first).all()


def test_a_traced_number_of_slots():
  """It gives what a static one does, and slots that are found nowhere."""
  model, params, images = make(token_learner=LEARNED)
  run = jax.jit(
    lambda n: model.apply({"params": params}, images, TEXTS, num_tokens=n)[0]
  )
  masked = run(jnp.int32(2))
  sliced = jax.jit(
    lambda: model.apply({"params": params}, images, TEXTS, num_tokens=2)[0]
  )()
  for name, expected in sliced.items():
    np.testing.assert_allclose(
      masked[name][:, :2], expected, rtol=1e-4, atol=1e-5, err_msg=name
    )
  assert np.max(masked["logits"][:, 2:]) < -1e5
  # For other queries, too.
  tokens = {k: v[:, 2:] for k, v in masked.items()}
  queries = 9 * jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)))
  assert np.max(detection_heads.class_logits(tokens, queries)) < -1e5
  assert np.isfinite(masked["boxes"]).all()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"num_classes": 3}, "num_classes=3 and rep_size=.*Leave them out"),
    ({"rep_size": 8}, "rep_size=8 have no use"),
    ({"pool": "map"}, "weights of no use. Set pool='gap', or 'tok'"),
    ({"size_bias": "height"}, "'height'. Known: each, width"),
    ({"box_gelu": "relu"}, "'relu'. Known: tanh, erf, quick"),
    ({"merge_eps": "small"}, "merge_eps"),
    ({"text": None}, "text=None must be a mapping"),
    ({"text": dict(vocab_size=9)}, "needs max_len"),
    ({"text": TEXT | dict(dtype="float32")}, "same dtype"),
  ],
)
def test_errors_of_its_construction(arguments, words):
  with pytest.raises(ValueError, match=words):
    models.create("owl_vit", **TINY | arguments)


def test_errors_of_a_call():
  model = models.create("owl_vit", **TINY)
  images = jnp.zeros((1, 12, 12, 3))

  def call(*texts, **settings):
    key = jax.random.key(0)
    jax.eval_shape(lambda x: model.init(key, x, *texts, **settings), images)

  with pytest.raises(ValueError, match="no token_learner"):
    call(num_tokens=2)
  with pytest.raises(ValueError, match="Texts of 6 tokens do not fit"):
    call(np.zeros((1, 6), int))
