"""Weights of others are looked into as runs are."""

import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy

from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.analysis import (
  agreement,
  attention,
  command,
  shape_or_texture,
  similarity,
)
from tokenlearner_flexivit.inference import runs

FAKE = "--data=fake:12x12x3:5:21"


def save(path, seed=0, format="native", **kwargs):
  """Leaves weights as others do: a file, and nothing of the training."""
  model = models.ViT(
    **dict(
      num_classes=5,
      width=64,
      depth=1,
      mlp_dim=32,
      num_heads=1,
      patch_size=(6, 6),
      posemb_grid=(2, 2),
      head_zeroinit=False,
    )
    | kwargs
  )
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 12, 12, 3), "f4")
  )["params"]
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype("f4"), shapes
  )
  interop.save_params(params, path, format, model=model)
  return path, params


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return save(tmp_path_factory.mktemp("weights") / "small.npz")


def test_help_names_the_picture_after_the_command():
  shown = command.parser("some", "Does something.").format_help()
  assert "the picture, such as some.png" in " ".join(shown.split())


def test_numbers_leave_the_files_of_a_run(tmp_path):
  (tmp_path / "report.json").write_text("{}")
  path = command.write_numbers(tmp_path / "report.png", [1])
  assert path == tmp_path / "report_numbers.json"
  assert (tmp_path / "report.json").read_text() == "{}"
  assert command.write_numbers(tmp_path / "a.png", [1]).name == "a.json"


def opened(*arguments):
  parser = command.parser("some", "Does something.")
  command.add_num_tokens(parser.add_argument)
  command.add_images(parser.add_argument, 4)
  args = parser.parse_args(["--output=x.png", *map(str, arguments)])
  return args, command.open_run(args)


@pytest.mark.parametrize(
  "name, format", [("x.npz", "native"), ("x.safetensors", "timm")]
)
def test_weights_are_opened_at_their_own_size(name, format, tmp_path, capsys):
  timm = dict(pool="tok", width=192, num_heads=3)
  pool = timm if format == "timm" else {}
  path, params = save(tmp_path / name, format=format, **pool)
  if format == "timm":  # As a file of others, without a note on the model.
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
  half = "0.5,0.5,0.5"  # Which this library's own weights expect.
  flags = [f"--input_mean={half}", f"--input_std={half}"]
  args, found = opened(f"--init={path}", FAKE, *(flags if pool else []))
  assert [setting.name for setting in found.settings] == ["patch6"]
  kernel = params["embedding"]["kernel"]
  np.testing.assert_allclose(found.params["embedding"]["kernel"], kernel)
  assert found.model.depth == 1 and found.model.num_classes == 5
  pp = "decode|resize(12)|value_range(-1,1)"
  assert found.data == {
    "name": "fake:12x12x3:5:21",
    "split": "test",
    "pp": pp,
  }
  assert command.read_images(args, found).shape == (4, 12, 12, 3)
  # What a format does not tell is said.
  out = capsys.readouterr().out
  for guess in (
    "WARNING: num_heads=3, from the width",
    "computes GELU with erf",
  ):
    assert (guess in out) == (format == "timm")


def test_flags_say_what_weights_do_not_tell(tmp_path, capsys):
  path, params = save(tmp_path / "x.safetensors", format="timm", pool="tok")
  safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
  flags = ["--num_heads=4", "--posemb_grid=2,2"]
  flags += ["--input_mean=0.4,0.4,0.4", "--input_std=0.5,0.5,0.5"]
  _, found = opened(f"--init={path}", FAKE, *flags)
  out = capsys.readouterr().out
  assert found.model.num_heads == 4 and "posemb_grid=" not in out
  assert "absorbed mean=(0.4, 0.4, 0.4)" in out
  kernel = params["embedding"]["kernel"]
  np.testing.assert_allclose(found.params["embedding"]["kernel"], kernel)
  with pytest.raises(ValueError, match="--num_heads goes with --init"):
    opened("--workdir=/none", "--num_heads=4")


def test_flags_beat_what_is_stored(weights, tmp_path):
  path, _ = weights
  pp = "decode|resize(24)|value_range(0,1)|keep('image')"
  args, found = opened(
    f"--init={path}", FAKE, "--split=x", f"--pp={pp}", "--patch_sizes=8,4"
  )
  assert [setting.name for setting in found.settings] == ["patch8", "patch4"]
  assert (found.data["split"], found.data["pp"]) == ("x", pp)
  assert command.read_images(args, found).shape == (4, 24, 24, 3)
  photo = np.zeros((30, 20, 3), np.uint8)
  cv2.imwrite(str(tmp_path / "photo.png"), photo)
  args, found = opened(f"--init={path}", "--images", tmp_path / "photo.png")
  assert command.read_images(args, found).shape == (1, 12, 12, 3)


def test_images_of_a_folder_need_no_labels(weights, tmp_path):
  path, _ = weights
  cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((30, 20, 3), np.uint8))
  args, found = opened(
    f"--init={path}", f"--data=images:{tmp_path}", "--split=train"
  )
  images, words = command.read_captioned(args, found)
  assert images.shape == (1, 12, 12, 3) and words == [""]


def test_a_run_is_seen_on_other_data(untrained_run):
  _, found = opened(f"--init={untrained_run}", "--data=fake:9x9x3:2")
  assert found.data["name"] == "fake:9x9x3:2"
  assert found.model.token_learner["num_tokens"] == 3
  assert found.config["task"]["name"] == "classification"


def test_bad_flags_are_told(weights, untrained_run, tmp_path, capsys):
  path, _ = weights
  for arguments, words in (
    ([f"--init={path}"], "names no images.*--data=digits.*--images"),
    (
      [f"--init={tmp_path / 'none.npz'}", FAKE],
      "neither a file on this machine",
    ),
    ([f"--workdir={untrained_run}", FAKE], "--data goes with --init"),
    ([f"--workdir={untrained_run}", "--pp=decode"], "--pp goes with --init"),
  ):
    with pytest.raises((ValueError, OSError), match=words):
      opened(*arguments)
  for arguments in ([], [f"--init={path}", f"--workdir={untrained_run}"]):
    with pytest.raises(SystemExit):
      opened(*arguments)
    assert "--init" in capsys.readouterr().err
  computed, _ = save(tmp_path / "computed.npz", posemb="sincos2d")
  with pytest.raises(ValueError, match=r"no position embedding.*--pp="):
    opened(f"--init={computed}", FAKE)


def test_meanings_of_values():
  data = {"name": "digits", "split": "test"}
  # Digits are named by their numbers, which need no translation.
  assert runs.value_names(data, ["label", "id"]) == {}
  renamed = {**data, "pp": "copy('kind','label')"}
  assert runs.value_names(renamed, ["label"]) == {}
  data["name"] = "fake:4x4x3:2"
  assert runs.value_names(data, ["label"]) == {}


@pytest.mark.slow
def test_commands_take_weights(weights, tmp_path):
  path, _ = weights
  picture = tmp_path / "a.png"
  given = [f"--init={path}", f"--output={picture}"]
  digits = "--pp=decode|resize(12)|value_range(-1,1)|keep('image','label')"
  attention.main([*given, FAKE, "--num_images=1"])
  with pytest.raises(SystemExit, match="at least two"):
    agreement.main([*given, "--data=digits", digits])
  settings = ["--patch_sizes=6,4", "--num_images=16"]
  for module, *more in (
    (agreement, FAKE, "--attribute=label"),
    (shape_or_texture, "--data=digits", "--labels=label", "--num_train=40"),
  ):
    picture.unlink()
    module.main([*given, *settings, *more])
    assert picture.stat().st_size > 10_000
  no_labels = digits.replace(",'label'", "")
  with pytest.raises(SystemExit, match="no label that is a class"):
    agreement.main([*given, "--data=digits", no_labels, *settings])
  with pytest.raises(SystemExit, match="no number 'shape'"):
    shape_or_texture.main([*given, "--data=digits", *settings])


@pytest.mark.slow
def test_two_models_are_compared(weights, untrained_run, tmp_path):
  path, _ = weights
  other, _ = save(tmp_path / "small.npz", seed=1, depth=2)

  def compare(*arguments):
    picture = tmp_path / "similarity.png"
    similarity.main([f"--output={picture}", "--num_images=8", *arguments])
    assert picture.stat().st_size > 10_000
    assert (tmp_path / "similarity_depth.png").stat().st_size > 10_000
    with np.load(picture.with_suffix(".npz")) as saved:
      return saved["labels"]

  sizes = "--patch_sizes=6,4"
  # Their names are those of the files, which are equal.
  labels = compare(f"--init={path}", FAKE, sizes, f"--other={other}")
  assert list(dict.fromkeys(labels[:, 0])) == [
    f"small.npz ({i}), patch{size}" for i in (1, 2) for size in (6, 4)
  ]
  assert len(labels) == 2 * 3 + 2 * 5
  labels = compare(f"--workdir={untrained_run}", sizes, f"--other={path}")
  sides = {f"{untrained_run.name}, patch6", "small.npz, patch4"}
  assert sides < set(labels[:, 0])
  with pytest.raises(SystemExit, match="neither a file on this machine"):
    compare(f"--init={path}", FAKE, "--other=none")
  with pytest.raises(SystemExit, match="5"):
    compare(f"--init={path}", FAKE, "--patch_sizes=5", f"--other={other}")


@pytest.mark.parametrize(
  "classes, method", [(5, "relevance"), (None, "rollout")]
)
def test_attention_takes_the_method_that_a_model_allows(
  classes, method, tmp_path, monkeypatch
):
  path, _ = save(tmp_path / "small.npz", num_classes=classes)
  asked = []
  monkeypatch.setattr(
    attention, "figure", lambda *args, **_: asked.append(args[4])
  )
  monkeypatch.setattr(attention.drawing, "save", lambda *_, **__: None)
  attention.main(
    [f"--init={path}", FAKE, "--num_images=1", f"--output={tmp_path}/a.png"]
  )
  assert asked == [method]
