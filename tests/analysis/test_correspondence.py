"""Correspondence: what the same place is, and who is most similar."""

import json

import jax
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.analysis import (
  correspondence,
  correspondence_figure,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 12, 12, 3)).astype(np.float32)
SIX, FOUR = dials.Setting((6, 6)), dials.Setting((4, 4))
LEARNER = dict(layer=1, num_tokens=4)


def make(depth=1, **kwargs):
  model = models.ViT(
    num_classes=3,
    width=16,
    depth=depth,
    mlp_dim=16,
    num_heads=1,
    patch_size=6,
    posemb_grid=2,
    **kwargs,
  )
  return model, tiny.init(model, IMAGES[:1])


def places(n, m):
  """The same place along one axis, as lists."""
  found = correspondence.same_place((n, 1), (m, 1))[:, 0, :, 0]
  return [np.flatnonzero(row).tolist() for row in found]


def test_the_same_place():
  assert places(3, 3) == [[0], [1], [2]]
  assert places(4, 2) == [[0], [0], [1], [1]]
  # Centres 1/6, 1/2, 5/6: the middle one is on the border of two halves.
  assert places(3, 2) == [[0], [0, 1], [1]]
  assert places(2, 4) == [[0, 1], [2, 3]]
  assert places(2, 3) == [[0], [2]]  # Centres 1/4 and 3/4.
  found = correspondence.same_place((1, 3), (2, 2))
  assert found.shape == (1, 3, 2, 2)
  assert found[0, 1].all()  # The middle of the image is in a corner of all.
  assert found[0, 0].tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("n, m", [(10, 4), (4, 10), (5, 6), (7, 7)])
def test_the_same_place_is_by_the_centre(n, m):
  for i, found in enumerate(places(n, m)):
    centre = (i + 0.5) / n
    assert found and all(
      j / m - 1e-9 <= centre <= (j + 1) / m + 1e-9 for j in found
    )


def test_similarity_is_the_cosine():
  x, y = RNG.normal(size=(2, 2, 2, 3, 5)).astype("f4")
  found = np.asarray(correspondence.similarity(x, y))
  a, b = x[1, 0, 2], y[1, 1, 1]
  expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  assert found[1, 0, 2, 1, 1] == pytest.approx(expected, rel=1e-5)
  np.testing.assert_allclose(
    np.asarray(correspondence.similarity(x, -3 * x))[1, 1, 0, 1, 0], -1, 1e-5
  )


def test_matches_are_counted_over_all_tokens_and_images():
  model, params = make(pool="tok")
  name = "encoder/block00/+mlp"
  found = correspondence.matches(
    model, params, [IMAGES[:1], IMAGES[1:]], [SIX, FOUR]
  )
  assert correspondence.last_name(model, [SIX]) == name
  np.testing.assert_array_equal(np.diag(found.rates), 1)  # With itself.
  here, there = (
    np.asarray(
      jax.jit(lambda p, s=s: correspondence.tokens(model, p, IMAGES, s, name))(
        params
      )
    )
    for s in (SIX, FOUR)
  )
  assert here.shape == (2, 2, 2, 16) and there.shape == (2, 3, 3, 16)
  _, out = tiny.apply(model, params, IMAGES, patch_size=6)
  plain = np.asarray(out["encoder"]["block00"]["+mlp"])[:, 1:]  # Without cls.
  np.testing.assert_allclose(here.reshape(plain.shape), plain, atol=1e-5)
  near = np.asarray(correspondence.similarity(here, there)).reshape(8, 9)
  same = correspondence.same_place((2, 2), (3, 3)).reshape(4, 9)
  right = [same[i % 4, near[i].argmax()] for i in range(8)]
  assert found.rates[0, 1] == pytest.approx(np.mean(right))
  assert found.chance[0, 1] == pytest.approx(1 / 9)
  assert found.chance[0, 0] == pytest.approx(1 / 4)


def test_learned_tokens_have_no_place():
  model, params = make(depth=2, token_learner=LEARNER)
  every = SIX.replace(num_tokens="all")

  def tokens(name, setting=SIX):
    # Only traced: nothing of it has to be computed.
    return jax.eval_shape(
      lambda x: correspondence.tokens(model, params, x, setting, name), IMAGES
    )

  # As many learned tokens as patches are no patches still.
  for name in (
    "encoder/block01/+mlp",
    "encoder/block01/token_learner/tokens",
    "encoder/block01/token_learner/maps",
    "token_learner/tokens",
    "token_learner/maps",
    "encoded",
  ):
    with pytest.raises(ValueError, match=r"learned.*block00/\+mlp.*'all'"):
      tokens(name)
  assert tokens("encoder/block01/+mlp", every).shape == (2, 2, 2, 16)
  assert correspondence.last_name(model, [SIX, every]) == "encoder/block00/+mlp"
  assert correspondence.last_name(model, [every]) == "encoder/block01/+mlp"
  with pytest.raises(ValueError, match=r"'pre_logits' has no token for each"):
    tokens("pre_logits", every)
  with pytest.raises(ValueError, match=r"name='block9'.*with_posemb"):
    tokens("block9")
  with pytest.raises(ValueError, match="No images"):
    correspondence.matches(model, params, [], [SIX])


def test_patches_beyond_the_images_have_no_place():
  model = models.Segmenter(
    num_classes=3,
    width=16,
    depth=1,
    mlp_dim=16,
    num_heads=1,
    patch_size=6,
    posemb_grid=2,
  )
  assert model.check((12, 12), 5) == (3, 3)
  with pytest.raises(ValueError, match="1, 2, 3, 4, 6, 12"):
    correspondence.tokens(model, {}, IMAGES, dials.Setting((5, 5)), "stem")


def test_the_rates_beside_the_diagonal_are_told_apart():
  rates = np.array([[1, 0.1], [0.05, 1]])
  drawn = correspondence_figure.draw(
    IMAGES[:1],
    {"a": np.zeros((1, 2, 2)), "b": np.zeros((1, 3, 3))},
    correspondence.Matches(rates, rates / 2),
    source="a",
    grid=(2, 2),
    position=(0.5, 0.5),
  )
  *maps, _, last = drawn.axes
  (shown,) = last.images
  assert shown.get_clim() == (0, 10)
  assert np.ma.getmaskarray(shown.get_array()).tolist() == [
    [True, False],
    [False, True],
  ]
  assert [text.get_text() for text in last.texts][:2] == [
    "100\n(50)",
    "10\n(5)",
  ]
  square, _, dot = sorted(maps[1].lines, key=lambda line: line.zorder)
  assert dot.get_marker() == "o" and dot.zorder > square.zorder


def test_a_picture_marks_the_chosen_place():
  model, params = make()
  measured = correspondence.Matches(np.eye(2), np.eye(2))
  drawn = correspondence.figure(
    model,
    params,
    IMAGES[:1],
    [SIX, FOUR],
    measured,
    source=FOUR,
    position=(0.9, 0.1),
  )
  assert "patch4" in drawn.axes[0].get_title()
  with pytest.raises(ValueError, match=r"position=\(1, 0\) must be"):
    correspondence.figure(
      model, params, IMAGES, [SIX], measured, source=SIX, position=(1, 0)
    )


@pytest.mark.slow
def test_the_command_draws_a_run(untrained_run, tmp_path):
  picture = tmp_path / "correspondence.png"

  def command(*arguments):
    correspondence.main(
      [f"--workdir={untrained_run}", f"--output={picture}", *arguments]
    )

  command("--num_images=3", "--num_shown=1", "--position=0.9,0.1", "--source=6")
  assert picture.stat().st_size > 10_000
  rows = json.loads(picture.with_suffix(".json").read_text())
  assert {(r["from"], r["to"]) for r in rows} == {
    (f"patch{a}", f"patch{b}") for a in (6, 4, 3) for b in (6, 4, 3) if a != b
  }
  for arguments, words in (
    (["--position=1,0"], "position=.* in \\[0, 1\\)"),
    (["--source=5"], "5"),
    (["--num_shown=0"], "num_shown=0 must be 1 or more"),
    (["--patch_sizes=6,4,6"], "patch_sizes=6,4,6 has a size twice"),
    (["--name=encoded"], "learned tokens"),
  ):
    with pytest.raises(SystemExit, match=words):
      command("--num_images=1", *arguments)
