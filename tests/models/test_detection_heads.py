"""The heads of OWL-ViT, as published."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vectors import Vectors, assert_close, checks
from tokenlearner_flexivit.models import detection_heads as heads


@checks("dense_scenic_owl_box_bias")
def test_boxes_begin_at_the_corners_of_patches(name):
  vectors = Vectors(name)
  for grid in ((4, 4), (3, 3), (2, 5), (8, 8)):
    published = vectors[f"out/{grid[0]}x{grid[1]}/both"]
    ours = heads.box_bias(grid, "width")
    np.testing.assert_allclose(ours, published, rtol=1e-4)
    shares = 1 / (1 + np.exp(-heads.box_bias(grid)))
    size = np.broadcast_to([1 / grid[1], 1 / grid[0]], (len(shares), 2))
    np.testing.assert_allclose(shares[:, 2:], size, rtol=1e-3)


@checks("dense_scenic_owl_box_head")
def test_the_box_head_is_the_published_one(name):
  vectors = Vectors(name)
  bias = jnp.asarray(heads.box_bias(tuple(vectors.meta["grid"])))

  def answer(params, x):
    return heads.BoxHead().apply({"params": params}, x, bias)

  params = jax.tree.map(jnp.asarray, vectors.tree("params/"))
  x = jnp.asarray(vectors["in/x"])
  boxes, pull = jax.vjp(answer, params, x)
  assert_close(boxes, vectors["out/pred_boxes"])
  grads = pull(jnp.asarray(vectors["grad/cotangent"]))
  expected = vectors.tree("grad/params/"), vectors["grad/in/x"]
  chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(32, 36, 40), (64, 64, 40), (8, 576, 80)])
def test_logits_of_a_whole_batch_are_those_of_each_image(sizes):
  """Compiled as well: with queries broadcast over images they were not."""
  images, predictions, names = sizes
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (images, predictions, 64))
  queries = jax.random.normal(keys[1], (names, 64))
  head = heads.ClassHead(embed_dim=64)
  params = head.init(keys[2], x[:1])
  params = jax.tree.map(
    lambda p: p + jax.random.normal(keys[2], p.shape), params
  )

  @jax.jit
  def answer(x, queries):
    return heads.class_logits(head.apply(params, x), queries)

  each = jnp.concatenate([answer(image[None], queries) for image in x])
  chex.assert_trees_all_close(answer(x, queries), each, rtol=1e-4, atol=1e-4)


@checks("dense_scenic_owl_class_head")
def test_the_class_head_is_the_published_one(name):
  vectors = Vectors(name)
  params = jax.tree.map(jnp.asarray, vectors.tree("params/"))
  mask = jnp.asarray(vectors["in/query_mask"] > 0)

  def answer(params, x, queries):
    head = heads.ClassHead(embed_dim=queries.shape[-1])
    return heads.class_logits(head.apply({"params": params}, x), queries, mask)

  inputs = [jnp.asarray(vectors[f"in/{k}"]) for k in ("x", "query_embeddings")]
  logits, pull = jax.vjp(answer, params, *inputs)
  assert_close(logits, vectors["out/pred_logits"])
  grads = pull(jnp.asarray(vectors["grad/cotangent"]))
  expected = (
    vectors.tree("grad/params/"),
    vectors["grad/in/x"],
    vectors["grad/in/query_embeddings"],
  )
  chex.assert_trees_all_close(grads, expected, rtol=2e-4, atol=1e-5)


def test_queries_may_be_those_of_all_images():
  rng = np.random.default_rng(0)
  head = heads.ClassHead(embed_dim=4)
  x = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
  tokens, _ = head.init_with_output(jax.random.key(0), x)
  queries = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
  shared = heads.class_logits(tokens, queries)
  each = heads.class_logits(tokens, jnp.stack([queries, 3 * queries]))
  np.testing.assert_allclose(shared, each, rtol=1e-5)
  assert 1 / (1 + np.exp(-shared.mean())) == pytest.approx(0.01, rel=0.5)
