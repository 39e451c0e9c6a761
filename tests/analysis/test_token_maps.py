"""Maps of learned tokens: what they are, and how they are drawn."""

import functools
import json

import chex
import cv2
import matplotlib
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import models
from tokenlearner_flexivit.analysis import outputs, token_maps, video_maps
from tokenlearner_flexivit.figures import overlay
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.run import workdir

SMALL = dict(width=16, depth=1, mlp_dim=16, num_heads=1, num_classes=3)
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 24, 3)).astype("f4")
VIDEO = np.random.default_rng(1).normal(size=(8, 12, 24, 3)).astype("f4")


def vit(**learner):
  learner = dict(layer=0, num_tokens=4) | learner
  return models.ViT(
    **SMALL, patch_size=(6, 6), posemb_grid=(2, 4), token_learner=learner
  )


def vivit(patch_size, **kwargs):
  learner = dict(layer=0, num_tokens=4)
  return models.ViViT(
    **SMALL,
    patch_size=patch_size,
    posemb_grid=(4, 2, 4),
    token_learner=learner,
    **kwargs,
  )


def init(model, images=IMAGES):
  """Random parameters: zeros, as at the start, hide what depends on what."""
  return tiny.init(model, images, scale=0.3)


def test_a_token_is_the_sum_that_its_map_says():
  model = vit()
  params = init(model)
  _, out = tiny.apply(model, params, IMAGES, patch_size=(4, 6))
  maps = token_maps.token_maps(model, params, IMAGES, patch_size=(4, 6))
  chex.assert_shape(maps, (2, 4, 3, 4))
  before = out["with_posemb"].reshape(2, 3, 4, 16)
  tokens = np.einsum("bshw,bhwd->bsd", maps, before)
  chex.assert_trees_all_close(
    tokens, np.asarray(out["token_learner"]["tokens"]), rtol=1e-4, atol=1e-4
  )
  chex.assert_trees_all_close(
    maps.sum((2, 3)), np.ones((2, 4), "f4"), rtol=1e-5
  )


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_first_maps_are_those_of_fewer_tokens(version):
  model = vit(version=version)
  params = init(model)
  maps = functools.partial(token_maps.token_maps, model, params, IMAGES)
  chex.assert_trees_all_close(maps(num_tokens=2), maps()[:, :2], atol=1e-6)


def test_with_a_fuser_every_block_has_maps():
  model = vit(fuser=True).clone(depth=2)
  params = init(model)
  maps = functools.partial(token_maps.token_maps, model, params, IMAGES)
  assert token_maps.map_names(model) == ("block00", "block01")
  chex.assert_trees_all_equal(maps(), maps(name="block00"))
  assert np.abs(maps(name="block01") - maps()).max() > 1e-3
  with pytest.raises(ValueError, match=r"'block02'.*block00, block01"):
    maps(name="block02")


@pytest.mark.parametrize(
  "patch_size, kwargs, frames",
  [
    ((6, 6), {}, list(range(8))),
    ((2, 6, 6), {}, [1, 3, 5, 7]),
    ((6, 6), dict(num_frames=3), [2, 4, 6]),
  ],
)
def test_a_video_has_maps_of_each_frame(patch_size, kwargs, frames):
  model = vivit(patch_size, **kwargs)
  params = init(model, VIDEO[None])
  maps = token_maps.token_maps(model, params, VIDEO[None])
  chex.assert_shape(maps, (1, len(frames), 4, 2, 4))
  figure = token_maps.video_figure(model, params, VIDEO)
  labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
  assert labels == [f"frame {n}" for n in frames]


def test_a_picture_has_a_row_for_each_image_and_patch_size():
  model = vit()
  params = init(model)
  figure = token_maps.image_figure(
    model, params, IMAGES, patch_sizes=(None, 4, (3, 12)), num_tokens=2
  )
  axes = figure.axes[0]
  labels = [t.get_text() for t in axes.get_yticklabels()]
  assert labels == 2 * ["patch 6", "patch 4", "patch 3x12"]
  labels = [t.get_text() for t in axes.get_xticklabels()]
  assert labels == ["image", "token 1", "token 2"]
  # The second row, last column: the second token at patch size 4.
  maps = token_maps.token_maps(model, params, IMAGES, patch_size=4)
  drawn = axes.images[0].get_array()[13:25, -24:]
  shown = overlay.displayable(IMAGES[0])
  expected = overlay.overlay(shown, maps[0, 1])
  chex.assert_trees_all_close(np.asarray(drawn), expected)


def test_patches_of_a_segmenter_stay_at_their_places():
  """It pads images up to whole patches, so that 5 px cut 12x24 into 3x5."""
  model = models.Segmenter(
    **SMALL,
    patch_size=(6, 6),
    posemb_grid=(2, 4),
    token_learner=dict(layer=0, num_tokens=2),
  )
  params = init(model)
  maps = token_maps.token_maps(model, params, IMAGES, patch_size=5)
  chex.assert_shape(maps, (2, 2, 3, 5))
  shown = outputs.without_padding(model, maps, (12, 24), 5)
  chex.assert_shape(shown, (2, 2, 12, 24))
  rows, columns = np.arange(12) // 5, np.arange(24) // 5
  np.testing.assert_array_equal(shown, maps[:, :, rows][..., columns])
  assert outputs.without_padding(model, maps, (12, 24), (4, 6)) is maps
  drawn = token_maps.image_figure(model, params, IMAGES, patch_sizes=(6, 5))
  labels = drawn.axes[0].get_yticklabels()
  assert [label.get_text() for label in labels] == ["patch 6", "patch 5"] * 2


def test_the_heaviest_patch_has_the_last_colour():
  weights = np.array([[0.0, 0.2], [0.1, 0.4]])
  black = np.zeros((4, 6, 3))
  drawn = overlay.overlay(black, weights)
  colors = matplotlib.colormaps[overlay.COLORS]
  chex.assert_shape(drawn, (4, 6, 3))
  for (y, x), share in {
    (0, 0): 0.0,
    (0, 3): 0.5,
    (3, 2): 0.25,
    (2, 5): 1.0,
  }.items():
    color = np.array(colors(share)[:3])
    chex.assert_trees_all_close(drawn[y, x], overlay._ALPHA * color)
  # The scale of the maps does not show.
  chex.assert_trees_all_close(overlay.overlay(black, 9 * weights), drawn)


def test_images_of_any_range_are_shown():
  image = np.random.default_rng(0).normal(size=(4, 6, 3))
  shown = overlay.displayable(image)
  assert (shown.min(), shown.max()) == (0, 1)
  chex.assert_trees_all_close(overlay.displayable(5 * image + 3), shown)
  grey = overlay.displayable(image[..., :1])
  chex.assert_trees_all_close(grey[..., 0], grey[..., 2])
  # A frame that is darker than another one stays so.
  video = np.stack([image, 0.5 * (image - image.min()) + image.min()])
  bright, dark = overlay.displayable(video)
  chex.assert_trees_all_close(bright, shown)
  chex.assert_trees_all_close(dark, 0.5 * shown)


def test_the_peak_tells_narrow_maps_from_even_ones():
  one = np.zeros((3, 4))
  one[1, 2] = 0.7
  assert overlay.peak(one) == pytest.approx(12)
  assert overlay.peak(np.full((3, 4), 1e-6)) == pytest.approx(1)
  assert overlay.peak(np.zeros((3, 4))) == 0
  assert np.isfinite(overlay.overlay(np.ones((6, 4, 3)), 0 * one)).all()


def test_bad_input_is_told():
  model = vit()
  params = init(model)
  maps = functools.partial(token_maps.token_maps, model, params, IMAGES)
  with pytest.raises(ValueError, match=r"num_tokens=5 .* 1 to 4"):
    maps(num_tokens=5)
  with pytest.raises(ValueError, match=r"5.*1, 2, 3, 4, 6, 12"):
    maps(patch_size=5)
  with pytest.raises(ValueError, match="no token_learner"):
    token_maps.token_maps(model.clone(token_learner=None), params, IMAGES)
  with pytest.raises(ValueError, match="5 x 2 patches does not divide"):
    overlay.overlay(IMAGES[0], np.ones((5, 2)))
  with pytest.raises(ValueError, match="one image size"):
    overlay.figure([])


def test_the_command_draws_a_run(untrained_run, tmp_path, capsys):
  command = functools.partial(_command, untrained_run, tmp_path / "maps.png")
  command("--num_images=3")
  assert "Maps of 3 images" in capsys.readouterr().out
  of_split = cv2.imread(tmp_path / "maps.png")
  photo = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
  cv2.imwrite(tmp_path / "photo.png", photo)
  command("--images", str(tmp_path / "photo.png"), "--patch_sizes=4")
  # A row per image and patch size.
  assert of_split.shape[0] > 4 * cv2.imread(tmp_path / "maps.png").shape[0]

  for arguments, words in (
    (["--patch_sizes=5"], "5"),
    (["--num_tokens=4"], "1 to 3"),
    (["--name=block01"], "block00"),
    (["--num_images=0"], "1 or more"),
    (
      ["--images", str(untrained_run / "config.json")],
      "config.json: .*not an image",
    ),
    (["--images", str(tmp_path / "none.png")], "none.png"),
  ):
    with pytest.raises(SystemExit, match=words):
      command(*arguments)


def _command(run, picture, *arguments):
  token_maps.main([f"--workdir={run}", f"--output={picture}", *arguments])


def test_a_run_on_images_has_no_maps_of_videos(untrained_run, tmp_path):
  picture = tmp_path / "maps.png"
  with pytest.raises(SystemExit, match=r"is for images\. .*token_maps`\.$"):
    video_maps.main([f"--workdir={untrained_run}", f"--output={picture}"])


def test_the_picture_of_a_report(untrained_run, tmp_path):
  config, model, params, trained, *_ = runs.open_run(untrained_run, "image")
  assert trained["patch_size"].values == ((6, 6), (4, 4), (3, 3))
  path = tmp_path / "token_maps.png"
  assert token_maps.draw_run(path, config, model, params)
  # Four images at three sizes, of which three tokens.
  height, width, _ = cv2.imread(path).shape
  assert 2 < height / width < 4

  none = tmp_path / "none.png"
  # Images of another size than those of the training: 4 divides it, 6 and 3 do
  # not; then none of them does.
  data = config["evals"]["test"]["data"]
  pp = data["pp"]
  data["pp"] = pp.replace("decode|", "decode|resize(8)|")
  assert token_maps.draw_run(path, config, model, params)
  assert cv2.imread(path).shape[0] / cv2.imread(path).shape[1] < 2
  data["pp"] = pp.replace("decode|", "decode|resize(10)|")
  assert not token_maps.draw_run(none, config, model, params)
  data["pp"] = pp

  for learner in (None, dict(layer=0, num_tokens=9, version="average")):
    other = model.clone(token_learner=learner)
    assert not token_maps.draw_run(none, config, other, params)
  config["evals"] = {}
  assert not token_maps.draw_run(none, config, model, params)
  assert not none.exists()


@pytest.mark.parametrize(
  "change, words",
  [
    (("model", "token_learner", None), "no token_learner"),
    (("evals", "test", {"data": {}}), "no evaluation with data.split"),
  ],
)
def test_a_run_that_has_no_maps_or_images_is_refused(
  untrained_run, tmp_path, change, words
):
  section, key, value = change
  config = workdir.read_config(untrained_run)
  config[section][key] = value
  (tmp_path / workdir.CONFIG_FILE).write_text(json.dumps(config))
  (tmp_path / "checkpoints").symlink_to(untrained_run / "checkpoints")
  with pytest.raises(SystemExit, match=words):
    _command(tmp_path, tmp_path / "maps.png")


def test_the_colour_bar_shows_the_colours_that_are_drawn():
  grey = np.full((2, 4, 3), 0.5)
  drawn = overlay.overlay(grey, np.array([[0.0, 2.0]]))
  bar = overlay.figure([overlay.Row("image 1", grey, [np.ones((1, 2))])]).axes[
    1
  ]
  (colors,) = bar.collections[-1:]
  for share, at in ((0.0, (0, 0)), (1.0, (0, 3))):
    np.testing.assert_allclose(
      colors.get_cmap()(share)[:3], drawn[at], atol=1e-6
    )


def test_files_need_nothing_that_is_done_to_labels(tmp_path):
  """An evaluation may make its labels of what only its dataset has."""
  file = tmp_path / "a.png"
  cv2.imwrite(file, np.zeros((8, 8, 3), np.uint8))
  labels = "onehot(5,'real')|copy('real','label')|keep('image','label')"
  pp = f"decode|resize(4)|value_range(-1,1)|{labels}"
  np.testing.assert_array_equal(runs.read_files([file], pp), -1)
