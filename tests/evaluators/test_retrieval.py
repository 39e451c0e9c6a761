"""Recalls by hand and as published, and prompts of zero-shot evaluation."""

import numpy as np
import pytest

from tests.vectors import Vectors, checks
from tokenlearner_flexivit.evaluators import prompts, retrieval, zeroshot


def recalls_of(similarity, text_image):
  """Recalls of cosines: images are unit vectors, texts are columns."""
  return retrieval.recalls(
    np.eye(len(similarity), dtype=np.float32), similarity.T, text_image
  )


@checks("dense_bv_retrieval")
def test_recalls_are_the_published_ones(name):
  vectors = Vectors(name)
  for case, about in vectors.meta["cases"].items():
    measured = recalls_of(
      vectors[f"in/{case}/similarity"], vectors[f"in/{case}/text_image"]
    )
    order = "stable" if about["ties"] else "peer"
    published = vectors.flat(f"out/oracle64/{case}/{order}/")
    for way, ours in (("img2txt", "i2t"), ("txt2img", "t2i")):
      for k in retrieval.KS:
        assert measured[f"{ours}_R{k}"] == pytest.approx(
          float(published[f"{way}/Recall@{k}"]), abs=1e-12
        ), case


def test_names_of_the_data_in_another_order_are_refused():
  """Answers would count as right for the class of another name."""
  where = "config.evals.test.class_names", "pets (test)"
  known = ["cat", "dog", "Emu"]
  zeroshot._check_order(("Cat", "dog", "emu"), known, *where)
  zeroshot._check_order(("tabby", "hound", "cat"), known, *where)
  with pytest.raises(ValueError, match="class 1 is 'emu' here and 'dog' there"):
    zeroshot._check_order(("cat", "emu", "dog"), known, *where)


def test_blocks_of_rows_change_nothing(monkeypatch):
  """Against a brute-force count, with ties and unequal numbers of texts."""
  rng = np.random.default_rng(0)
  similarity = rng.integers(0, 4, (7, 13)).astype(np.float32)
  text_image = np.sort(np.r_[np.arange(7), rng.integers(0, 7, 6)])

  def near(scores, right, k):  # The lower index first where scores are equal.
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], j))
    return any(right[j] for j in order[:k])

  expected = {}
  for k in retrieval.KS:
    expected[f"i2t_R{k}"] = np.mean(
      [near(similarity[i], text_image == i, k) for i in range(7)]
    )
    expected[f"t2i_R{k}"] = np.mean(
      [
        near(similarity[:, j], np.arange(7) == text_image[j], k)
        for j in range(13)
      ]
    )
  expected["R1"] = (expected["i2t_R1"] + expected["t2i_R1"]) / 2
  assert recalls_of(similarity, text_image) == pytest.approx(expected)
  monkeypatch.setattr(retrieval, "_ROWS", 3)
  assert recalls_of(similarity, text_image) == pytest.approx(expected)


def test_a_model_without_an_opinion_has_chance():
  z = np.full((10, 4), 0.5, np.float32)
  assert retrieval.recalls(z, z, np.arange(10))["R1"] == pytest.approx(0.1)


@checks("dense_bv_zeroshot")
def test_classes_by_their_names_are_the_published_ones(name):
  vectors = Vectors(name)
  for text, (plain, with_commas) in vectors.meta["canonicalize"].items():
    assert prompts.canonical(text) == plain
    assert prompts.canonical(text, ",") == with_commas
  for text, plain in vectors.meta["templates"].items():
    assert prompts.canonical(text, "{}") == plain
  embedded = vectors["in/text_embeddings"]
  labels = vectors["in/text_labels"]
  ours = prompts.class_embeddings(embedded, labels)
  np.testing.assert_allclose(ours, vectors["out/class_embeddings"], rtol=1e-5)
  np.testing.assert_array_equal(
    (vectors["in/image_embeddings"] @ ours.T).argmax(axis=1),
    vectors["out/prediction"],
  )


def test_prompts_of_a_class_follow_one_another():
  templates = prompts.read_templates(["A {}!", "the {}"], "templates")
  names = ["T-shirt", "dog, large"]
  texts = prompts.fill(names, templates, plain=True)
  assert texts == ["a tshirt", "the tshirt", "a dog, large", "the dog, large"]
  assert prompts.fill(names, templates, plain=False)[0] == "A T-shirt!"
  for wrong in ([], "photo of", ["a {} and a {}"], [3], 3, True):
    with pytest.raises(ValueError, match=r"templates=.*"):
      prompts.read_templates(wrong, "templates")
  assert len(prompts.read_templates("clip_best", "templates")) == 7


def test_names_of_classes_must_make_different_prompts():
  check = prompts.check_different
  check(["", "ant", "ant, red"], "names", plain=True)
  check(["C", "c", "C++"], "names", plain=False)
  with pytest.raises(
    ValueError, match=r"names: .*'C' and 'C\+\+' .*canonicali"
  ):
    check(["C", "D", "C++"], "names", plain=True)
  for plain in (True, False):
    with pytest.raises(ValueError, match=r"'crane' and 'crane' .* differ\.$"):
      check(["crane", "crane"], "names", plain=plain)
