"""Files of OWL-ViT, of Hugging Face and Scenic, against their own answers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tests.vectors import Vectors, assert_close, checks
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import about
from tokenlearner_flexivit.models import detection_heads

HEADS = {"merged_class_token", "box_head", "class_head"}
TEXT = dict(width=24, depth=1, mlp_dim=40, num_heads=3)


def write_hugging_face(vectors, folder, kind="owlvit", change=lambda x: x):
  """Writes a model of Hugging Face's and its config, and returns its path."""
  arrays = change(vectors.flat("params/"))
  path = folder / "model.safetensors"
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(v) for k, v in arrays.items()}, path
  )
  meta = vectors.meta
  config = dict(
    model_type=kind, vision_config=meta["vision"], text_config=meta["text"]
  )
  (folder / "config.json").write_text(json.dumps(config))
  half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
  (folder / "preprocessor_config.json").write_text(json.dumps(half))
  return path


def write_scenic(vectors, folder, root="params/", more=()):
  arrays = {root + k: v for k, v in vectors.flat("params/").items()}
  path = folder / "owl.npz"
  np.savez(path, **(arrays | dict(more)))
  return path


def answers(model, params, images, texts):
  """Returns the model's answer and intermediates, and what texts become."""

  @jax.jit
  def run(params, images, texts):
    variables = {"params": params}
    answer, out = model.apply(variables, images)
    q = texts.reshape(-1, texts.shape[-1])
    queries, text_out = model.apply(variables, q, method="embed_texts")
    queries = queries.reshape(*texts.shape[:2], -1)
    is_query = texts[..., 0] > 0
    answer["logits"] = detection_heads.class_logits(answer, queries, is_query)
    return answer, out, queries, text_out

  return run(params, jnp.asarray(images), jnp.asarray(texts))


def fates(report):
  """Returns the first parts of the names of the arrays of each fate."""
  result = {}
  for row in report.rows:
    result.setdefault(row.fate, set()).add(row.name.split("/")[0])
  return result


def bicubic(old, new):
  """Returns PyTorch's matrix of bicubic resizing, without antialiasing."""
  at = (np.arange(new) + 0.5) * old / new - 0.5
  base, a = np.floor(at).astype(int), -0.75
  matrix = np.zeros((new, old))
  for offset in range(-1, 3):
    d = np.abs(at - base - offset)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    cells = np.clip(base + offset, 0, old - 1)
    np.add.at(matrix, (np.arange(new), cells), np.where(d <= 1, near, far))
  return matrix


def check_published(vectors, model, params, size=""):
  """Compares a model with Hugging Face's answers at one size of images."""
  queries = vectors.meta["queries_per_image"]
  images = vectors[f"in/{size}pixel_values"].transpose(0, 2, 3, 1)
  texts = vectors["in/input_ids"].reshape(len(images), queries, -1)
  answer, out, embedded, text_out = answers(model, params, images, texts)
  expected = vectors.flat(f"out/{size}")
  grid = out["stem"].shape[1:3]
  merged = out["merged"].reshape(len(images), *grid, -1)
  assert_close(merged, expected["image_embeds"], 1e-5)
  assert_close(answer["embedding"], expected["class_embeds"], 1e-5)
  assert_close(answer["boxes"], expected["pred_boxes"], 1e-5)
  padded = expected["logits"] == detection_heads.NO_QUERY
  np.testing.assert_array_equal(answer["logits"][padded], -1e6)
  assert_close(answer["logits"][~padded], expected["logits"][~padded], 1e-5)
  if not size:
    is_text = texts[..., 0] > 0
    assert np.sum(~is_text) == len(vectors.meta["padded_queries"])
    assert_close(
      detection_heads.normalized(embedded)[is_text],
      expected["text_embeds"][is_text],
      1e-5,
    )
    # Theirs hides padding from the tokens of padding, which nothing reads.
    is_read = vectors["in/attention_mask"] * is_text.reshape(-1, 1) > 0
    assert_close(
      text_out["transformed"][is_read],
      expected["text_last_hidden_state"][is_read],
      1e-5,
    )
    last = out["encoder"][f"block{model.depth - 1:02d}"]["+mlp"]
    assert_close(last, expected["vision_last_hidden_state"], 1e-5)


@checks("dense_hf_owlvit_square4", "dense_hf_owlvit_padded3")
def test_hugging_face(name, tmp_path):
  vectors = Vectors(name)
  path = write_hugging_face(vectors, tmp_path)
  described = interop.describe(path)
  model = models.create(**described.model)
  assert isinstance(model, models.OwlViT)
  assert (model.size_bias, model.box_gelu) == ("each", "erf")
  assert model.gelu == "quick"
  assert model.merge_eps == model.norm_eps == 1e-5 and model.pre_norm
  text = model.text
  assert (text["pool"], text["end_id"], text["causal"]) == ("eot", None, True)
  params, report = interop.load_params_and_report(path, model)
  assert set(fates(report)) == {"loaded"}
  assert "Left out visual_projection, which compares whole" in str(report)
  assert "Left out logit_scale" in str(report)
  # The projection of texts has no bias.
  assert not params["txt"]["head"]["bias"].any()
  check_published(vectors, model, params)


@pytest.mark.parametrize("size", [(24, 24), (16, 28)])
def test_hugging_face_at_other_sizes(size, tmp_path):
  """Theirs resizes positions bicubically; those here are stored resized.

  All else must agree, with the size of the first boxes on each axis.
  """
  vectors = Vectors("dense_hf_owlvit_square4")
  path = write_hugging_face(vectors, tmp_path)
  model = models.create(**interop.describe(path).model)
  params, _ = interop.load_params_and_report(path, model)
  grid = [side // vectors.meta["vision"]["patch_size"] for side in size]
  matrices = [bicubic(4, cells) for cells in grid]
  posemb = params["pos_embedding"].reshape(4, 4, -1)
  posemb = np.einsum("yi,xj,ijd->yxd", *matrices, posemb)
  params["pos_embedding"] = np.float32(posemb.reshape(1, -1, model.width))
  model = model.clone(posemb_grid=grid)
  check_published(vectors, model, params, "{}x{}/".format(*size))


@checks("dense_scenic_owl_model")
def test_scenic(name, tmp_path):
  vectors = Vectors(name)
  path = write_scenic(vectors, tmp_path)
  described = interop.describe(path)
  assert not described.guesses and described.format == "scenic_owl_vit"
  meta = vectors.meta
  assert described.input_mean == tuple(meta["image_mean"])
  assert described.input_std == tuple(meta["image_std"])
  model = models.create(**described.model)
  assert (model.size_bias, model.box_gelu) == ("width", "tanh")
  assert model.gelu == "quick"
  assert (model.merge_eps, model.norm_eps) == (1e-6, 1e-5)
  assert model.num_heads == 1 and model.posemb_grid == (4, 4)
  with pytest.raises(ValueError, match=r"minus \[0.48145466.*code of Scenic"):
    interop.load_params(path, model)
  params, report = interop.load_params_and_report(
    path, model, input_mean=described.input_mean, input_std=described.input_std
  )
  assert set(fates(report)) == {"loaded"}
  images, texts = 2 * vectors["in/image"] - 1, vectors["in/text_queries"]
  answer, out, queries, _ = answers(model, params, images, texts)
  merged = out["merged"].reshape(vectors["out/feature_map"].shape)
  assert_close(merged, vectors["out/feature_map"], 1e-5)
  is_query = texts[..., 0] > 0
  assert not is_query.all()
  assert_close(
    queries[is_query], vectors["out/query_embeddings"][is_query], 1e-5
  )
  assert_close(answer["embedding"], vectors["out/class_embeddings"], 1e-5)
  assert_close(answer["boxes"], vectors["out/pred_boxes"], 1e-5)
  is_query = np.broadcast_to(is_query[:, None], answer["logits"].shape)
  expected = vectors["out/pred_logits"]
  np.testing.assert_array_equal(answer["logits"][~is_query], -1e6)
  np.testing.assert_array_equal(expected[~is_query], -1e6)
  assert_close(answer["logits"][is_query], expected[is_query], 1e-5)


def test_a_whole_run_of_scenic(tmp_path):
  vectors = Vectors("dense_scenic_owl_model")
  more = {
    "optimizer/state/step": np.zeros(()),
    "optimizer/target/objectness_head/Dense_0/bias": np.zeros(64, np.float32),
  }
  path = write_scenic(vectors, tmp_path, "optimizer/target/", more)
  described = interop.describe(path)
  model = models.ViT(**described.image_model)
  params, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  assert "Left out, as no parameters: 1 array." in report.notes
  assert "Left out objectness_head" in str(report)
  assert fates(report)["unused"] == HEADS
  np.testing.assert_array_equal(
    params["embedding"]["kernel"],
    vectors["params/backbone/clip/visual/conv1/kernel"],
  )


def test_owlv2(tmp_path):
  """The same model with a head more, whose answer is not used for queries."""

  def change(arrays):
    arrays = {k.replace("owlvit.", "owlv2."): v for k, v in arrays.items()}
    head = {
      k.replace("box_head", "objectness_head"): v
      for k, v in arrays.items()
      if k.startswith("box_head")
    }
    return arrays | head

  vectors = Vectors("dense_hf_owlvit_padded3")
  path = write_hugging_face(vectors, tmp_path, "owlv2", change)
  model = models.create(**interop.describe(path).model)
  params, report = interop.load_params_and_report(path, model)
  assert "Left out objectness_head, which tells whether a box" in str(report)
  assert "6 arrays" in str(report)
  (tmp_path / "v1").mkdir()
  path = write_hugging_face(vectors, tmp_path / "v1")
  assert models.create(**interop.describe(path).model) == model
  first, _ = interop.load_params_and_report(path, model)
  jax.tree.map(np.testing.assert_array_equal, params, first)


def test_owl_vit_without_heads_is_two_towers(tmp_path):
  """OwlViTModel compares whole images with texts, as CLIP does."""

  def change(arrays):
    return {
      k.removeprefix("owlvit."): v
      for k, v in arrays.items()
      if k.startswith("owlvit.")
    }

  vectors = Vectors("dense_hf_owlvit_padded3")
  path = write_hugging_face(vectors, tmp_path, change=change)
  model = models.create(**interop.describe(path).model)
  assert isinstance(model, models.TwoTowers) and model.embed_dim == 32
  params, report = interop.load_params_and_report(path, model)
  assert set(fates(report)) == {"loaded"}
  np.testing.assert_array_equal(
    params["head"]["kernel"],
    vectors["params/owlvit.visual_projection.weight"].T,
  )
  np.testing.assert_array_equal(
    params["t"], vectors["params/owlvit.logit_scale"]
  )


@pytest.mark.parametrize(
  ("kind", "change", "message"),
  [
    ("xclip", {}, "a model of the kind 'xclip'"),
    (None, {}, "CLIP, SigLIP or OWL-ViT, whose arrays.*Put its config.json"),
    (
      "owlvit",
      {"mask_head.weight": np.ones((2, 2), np.float32)},
      "unexpected:\n  mask_head.weight",
    ),
    (
      "owlvit",
      {"owlvit.vision_model.post_layernorm.bias": np.ones(3, np.float32)},
      r"vision_model.post_layernorm.bias \(here .*encoder_norm/bias\) \[3\]",
    ),
  ],
)
def test_what_is_refused(kind, change, message, tmp_path):
  vectors = Vectors("dense_hf_owlvit_padded3")
  path = write_hugging_face(vectors, tmp_path, kind, lambda x: x | change)
  if kind is None:
    (tmp_path / "config.json").unlink()
  with pytest.raises(ValueError, match=message):
    interop.load_params(path, models.create(**interop.describe(path).model))


def test_another_model_than_the_code_computes(tmp_path):
  path = write_scenic(Vectors("dense_scenic_owl_model"), tmp_path)
  arguments = interop.describe(path).model
  model = models.create(**arguments | dict(box_gelu="erf", size_bias="each"))
  _, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  warnings = "\n".join(report.warnings)
  assert "box_gelu='erf' of the model is 'tanh' in the code of" in warnings
  assert "size_bias='each' of the model is 'width'" in warnings


# Weights of other models, and of runs

SIZES = dict(
  width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=4, posemb_grid=3
)
VOCABULARY = dict(vocab_size=11, max_len=5)


def save(model, path, make_params):
  params = make_params(model)
  interop.save_params(params, path, model=model)
  return params


def owl_vit(**overrides):
  text = TEXT | VOCABULARY | dict(embed_dim=6)
  return models.OwlViT(None, **SIZES | dict(text=text) | overrides)


def test_from_a_vit(tmp_path, make_params):
  vit = models.ViT(num_classes=5, pool="map", **SIZES)
  path = tmp_path / "vit.npz"
  params = save(vit, path, make_params)
  model = owl_vit()
  fresh = make_params(model, seed=1)
  loaded, report = interop.load_params_and_report(path, model, params=fresh)
  assert fates(report)["fresh"] == {"txt", "box_head", "class_head"}
  assert fates(report)["unused"] == {"head", "MAPHead_0"}
  for name in ("embedding", "pos_embedding", "Transformer"):
    jax.tree.map(np.testing.assert_array_equal, loaded[name], params[name])
  jax.tree.map(np.testing.assert_array_equal, loaded["txt"], fresh["txt"])


def test_from_two_towers_and_back(tmp_path, make_params):
  arguments = SIZES | dict(pool="tok", text=TEXT | VOCABULARY)
  towers = models.TwoTowers(num_classes=6, bias_init=-10.0, **arguments)
  path = tmp_path / "towers.npz"
  params = save(towers, path, make_params)
  model = owl_vit(pool="tok")
  loaded, report = interop.load_params_and_report(
    path, model, params=make_params(model)
  )
  assert fates(report)["fresh"] == HEADS
  assert fates(report)["unused"] == {"head", "t", "b"}
  for name in ("embedding", "cls", "pos_embedding", "Transformer", "txt"):
    jax.tree.map(np.testing.assert_array_equal, loaded[name], params[name])
  path = tmp_path / "owl.npz"
  interop.save_params(loaded, path, model=model)
  assert models.create(**interop.describe(path).model) == model
  again, report = interop.load_params_and_report(path, towers, params=params)
  assert fates(report)["fresh"] == {"head", "t", "b"}
  assert fates(report)["unused"] == HEADS
  jax.tree.map(np.testing.assert_array_equal, again["txt"], params["txt"])
  _, report = interop.load_params_and_report(path, model.clone(merge_eps=1e-5))
  assert "merge_eps=1e-05 of the model is 1e-06" in str(report)
  for format in ("big_vision", "scenic", "timm"):
    suffix = "safetensors" if format == "timm" else "npz"
    with pytest.raises(ValueError, match="has no parameter like"):
      interop.save_params(loaded, tmp_path / f"x.{suffix}", format)


def test_arrays_alone_show_an_owl_vit(tmp_path, make_params):
  """But for what no array shows."""
  model = owl_vit(pool="tok")
  arrays = traverse_util.flatten_dict(make_params(model), sep="/")
  np.savez(tmp_path / "arrays.npz", **arrays)
  described = interop.describe(tmp_path / "arrays.npz")
  assert models.create(**described.model) == model
  assert any("text.pool='last'" in guess for guess in described.guesses)


def test_an_export_need_not_name_its_model(tmp_path, make_params):
  """The names of its arrays do."""
  model = owl_vit()
  arrays = traverse_util.flatten_dict(make_params(model), sep="/")
  section = SIZES | dict(text=TEXT | dict(embed_dim=6))
  path = tmp_path / "export.safetensors"
  metadata = {about.EXPORT_KEY: json.dumps({"model_section": section})}
  safetensors.numpy.save_file(arrays, path, metadata)
  assert models.create(**interop.describe(path).model) == model
