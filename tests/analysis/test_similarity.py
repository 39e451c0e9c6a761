"""Pictures of CKA: points where they should be, and a command that draws."""

import argparse
import json

import numpy as np
import pytest

from tokenlearner_flexivit.analysis import (
  command,
  similarity,
  similarity_by_depth,
)
from tokenlearner_flexivit.inference import runs


def test_what_is_alike_lies_together():
  place = np.r_[0:0.5:20j, 3:3.5:20j]  # Two models of twenty layers each.
  values = np.cos(np.minimum(abs(place[:, None] - place), np.pi / 2))
  points = similarity.embedding(values)
  distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
  nearest = np.argsort(distances, axis=1)[:, 1:4]
  assert ((nearest < 20) == (np.arange(40) < 20)[:, None]).all()
  with pytest.raises(ValueError, match="4 representations or more, got 3"):
    similarity.embedding(values[:3, :3])
  for unknown in (np.nan, np.inf):
    values[0, 1] = unknown
    with pytest.raises(ValueError, match="Leave them out"):
      similarity.embedding(values)


def alike(sides, layers):
  """Made-up CKA, of layers that are alike at every side."""
  labels = [(f"s{i}", f"layer{j}") for i in range(sides) for j in range(layers)]
  depth = np.arange(len(labels)) % layers
  return np.exp(-abs(depth[:, None] - depth) / layers), labels


def test_many_settings_look_different(monkeypatch):
  # Where the points are does not matter, and t-SNE takes a while.
  monkeypatch.setattr(similarity, "embedding", lambda values: values[:, :2])
  drawn = similarity.figure(*alike(12, 2))
  left, right, _ = drawn.axes
  assert left.get_ylabel().startswith("setting")
  shown = {
    (
      points.get_paths()[0].vertices.tobytes(),
      points.get_edgecolors().tobytes(),
    )
    for points in right.collections
  }
  assert len(shown) == 12
  keys = right.get_legend().legend_handles
  assert len({(k.get_marker(), k.get_mec()) for k in keys}) == 12
  assert {k.get_mfc() for k in keys} == {"#bbbbbb"}
  with pytest.raises(ValueError, match=r"41 settings.* 40 or fewer"):
    similarity.figure(*alike(41, 1))


def test_by_depth_is_the_mean_over_pairs():
  values = np.arange(36.0).reshape(6, 6)
  labels = [(s, name) for s in "abc" for name in "xy"]
  found = similarity_by_depth.layer_means(values, labels)
  assert found == {
    "x": np.mean([values[0, 2], values[0, 4], values[2, 4]]),
    "y": np.mean([values[1, 3], values[1, 5], values[3, 5]]),
  }
  assert similarity_by_depth.layer_means(values, labels, [("c", "a")]) == {
    "x": values[4, 0],
    "y": values[5, 1],
  }
  # What one of a pair has not is left out.
  labels[3] = ("b", "z")
  assert list(similarity_by_depth.layer_means(values, labels)) == ["x"]
  with pytest.raises(ValueError, match="Give two or more"):
    similarity_by_depth.layer_means(values, labels[:2])


def test_by_depth_is_drawn():
  layers = ("with_posemb", "encoder/block00/+sa", "encoder/block00/+mlp")
  runs = [dict.fromkeys(layers, value) for value in (0.2, 0.4)]
  drawn = similarity_by_depth.figure(
    {"mean": runs}, (layers[2], "the middle one")
  )
  (axes,) = drawn.axes
  np.testing.assert_allclose(axes.lines[2].get_ydata(), 0.3)
  texts = [text.get_text() for text in axes.get_xticklabels()]
  assert texts == ["patches", "block 1\nattention", "block 1\nMLP"]
  with pytest.raises(ValueError, match="2 different lists of layers"):
    similarity_by_depth.figure({"a": [runs[0]], "b": [{"stem": 1.0}]})


def test_the_command_draws_a_run(untrained_run, tmp_path, capsys):
  picture = tmp_path / "similarity.png"

  def command(*arguments):
    similarity.main(
      [f"--workdir={untrained_run}", f"--output={picture}", *arguments]
    )

  command("--num_images=12", "--batch_size=6")
  assert picture.stat().st_size > 10_000
  assert "12 images" in capsys.readouterr().out
  assert (tmp_path / "similarity_depth.png").stat().st_size > 10_000
  with np.load(picture.with_suffix(".npz")) as file:
    saved = dict(file)
  number = 3 * (1 + 2)  # Sizes; position embedding and two half blocks.
  assert saved["cka"].shape == (number, number)
  assert set(saved["labels"][:, 0]) == {"patch6", "patch4", "patch3"}
  np.testing.assert_allclose(np.diag(saved["cka"]), 1, rtol=1e-5)
  for arguments, words in (
    (["--patch_sizes=5,4"], "5"),
    (["--names=block,stem"], "name='block' is unknown"),
    (["--names=stem,stem"], "'stem' twice"),
    (["--num_images=3"], "at least 4"),
  ):
    with pytest.raises(SystemExit, match=words):
      command(*arguments)


def copy_with_values(run, folder, low, high):
  """Writes the run's folder anew, with images of other values."""
  for name in ("about_data.json", "checkpoints"):
    (folder / name).symlink_to(run / name)
  config = json.loads((run / "config.json").read_text())
  for section in config["evals"].values():
    section["data"]["pp"] = (
      f"decode|value_range({low},{high})|keep('image','label')"
    )
  (folder / "config.json").write_text(json.dumps(config))


def test_numbers_that_cannot_be_drawn_are_kept(untrained_run, tmp_path):
  # All images are alike, after rounding.
  copy_with_values(untrained_run, tmp_path, 1, 1 + 1e-9)
  picture = tmp_path / "similarity.png"
  with pytest.raises(SystemExit, match="same for all images"):
    similarity.main(
      [
        f"--workdir={tmp_path}",
        f"--output={picture}",
        "--num_images=6",
        "--patch_sizes=6,4",
        "--names=stem,pre_logits",
      ]
    )
  with np.load(picture.with_suffix(".npz")) as file:
    assert file["cka"].shape == (4, 4)


def test_a_second_model_that_sees_other_values_is_told(
  untrained_run, tmp_path, capsys
):
  copy_with_values(untrained_run, tmp_path, 0, 3)
  opened = runs.open_run(untrained_run, "image")
  opened = command.Opened(
    opened.model, opened.params, [], opened.data, opened.config
  )
  for other, told in ((tmp_path, True), (untrained_run, False)):
    args = argparse.Namespace(
      other=str(other), workdir="run", init=None, names=None, tokens="all"
    )
    similarity._Sides(args, opened)
    assert ("WARNING" in capsys.readouterr().out) == told


def test_a_batch_has_examples_from_all_over_the_split():
  """A folder comes class by class: CKA would be that within a class."""
  data = dict(name="fake:12x12x3:5:1000", split="test", pp="decode")
  batches = list(runs.read_batches(data, 500, 100, ["id"]))
  ids = [batch["id"] for batch in batches]
  assert sorted(np.concatenate(ids)) == list(range(0, 1000, 2))
  for of_batch in ids:
    assert (np.bincount(of_batch // 200, minlength=5) > 5).all()
  (alone,) = runs.read_batches(data, 500, 500, ["id"])
  assert alone["id"].tolist() == list(range(0, 1000, 2))  # As a picture shows.


def test_too_few_representations_are_told_before_the_images_are_read(
  untrained_run, tmp_path, monkeypatch
):
  monkeypatch.setattr(runs, "read_batches", None)
  with pytest.raises(SystemExit, match="4 representations or more, got 2"):
    similarity.main(
      [
        f"--workdir={untrained_run}",
        f"--output={tmp_path / 'x.png'}",
        "--patch_sizes=6,4",
        "--names=pre_logits",
      ]
    )
