"""Configs for own images and videos: which splits they take, and errors."""

import shutil

import chex
import cv2
import numpy as np
import pytest

from configs import (
  folder,
  transfer,
  video_folder,
  vivit,
  vivit_bottleneck,
)
from tests import tiny
from tokenlearner_flexivit import data, interop, models, train
from tokenlearner_flexivit.train import setup


def write_images(root, *names, count=1):
  image = cv2.imencode(".png", np.zeros((130, 140, 3), np.uint8))[1].tobytes()
  for name in names:
    (root / name).mkdir(parents=True)
    for i in range(count):
      (root / name / f"{i}.png").write_bytes(image)


@pytest.mark.parametrize(
  "folders, options, expected",
  [
    # ImageNet's own layout, and what Keras, Roboflow and Kaggle write.
    ("train val", "", "train validation"),
    ("train validation", "", "train validation"),
    ("train test", "", "train test"),
    ("train val test", "", "train validation"),
    ("train valid", "", "train validation"),
    ("Training Testing", "", "train test"),
    ("", "", "train[:90%] train[90%:]"),
    ("train", "", "train[:90%] train[90%:]"),
    ("train val test", ",train=train+val,test=test", "train+val test"),
    ("train other", ",test=other", "train other"),
    ("train val", ",train=train[:5]", "train[:5] validation"),
  ],
)
def test_images_in_folders_have_the_splits_that_are_there(
  folders, options, expected, tmp_path, monkeypatch
):
  for part in folders.split() or ["."]:
    write_images(tmp_path / "pets" / part, "cat", "dog", count=10)
  monkeypatch.setenv("HOME", str(tmp_path))
  for path in ("~/pets", tmp_path / "pets"):
    for config in (
      folder.get_config(f"path={path}{options}"),
      transfer.get_config(f"runlocal,data=folder:{path}{options}"),
    ):
      assert config.data.name == f"folder:{tmp_path / 'pets'}"
      assert config.evals.test.data.name == config.data.name
      names = [config.data.split, config.evals.test.data.split]
      assert names == expected.split()
      for split in names:
        data.open_source({"name": config.data.name, "split": split})


def test_a_path_one_level_off_is_an_error_that_says_so(tmp_path):
  write_images(tmp_path, "pets/cat", "pets/dog")
  with pytest.raises(ValueError, match=r"one level down, such as .*/pets"):
    folder.get_config(f"path={tmp_path}")
  with pytest.raises(ValueError, match=r"Did you mean .*/pets"):
    folder.get_config(f"path={tmp_path}/pets/cat")


def test_a_path_and_the_name_of_its_dataset_are_told_apart(tmp_path):
  write_images(tmp_path, "cat", "dog")
  name = f"folder:{tmp_path}"
  assert folder.get_config(f"path={name}").data.name == name
  with pytest.raises(ValueError, match=f"is a folder. Write '{name}'"):
    transfer.get_config(f"runlocal,data={tmp_path}")


def test_splits_that_are_asked_for_must_be_there(tmp_path):
  write_images(tmp_path, "train/cat", "test/cat")
  for get in (
    lambda options: folder.get_config(f"path={tmp_path},{options}"),
    lambda options: transfer.get_config(
      f"runlocal,data=folder:{tmp_path},{options}"
    ),
  ):
    for options in ("test=val", "train=full", "train=train[:5],test=val[:5]"):
      with pytest.raises(ValueError, match="Its splits are: train, test"):
        get(options)
    with pytest.raises(ValueError, match=r"train=train\[:90%\],test=train"):
      get("test=train[90%:]")
    write_images(tmp_path, "val/cat", "valid/cat")
    with pytest.raises(ValueError, match="both val and valid"):
      get("train=train")
    for name in ("val", "valid"):
      shutil.rmtree(tmp_path / name)


def dozen(get_config, tmp_path):
  """Returns a config of a dozen images, but for the size of the model."""
  write_images(tmp_path / "pets", "cat", "dog", count=6)
  (tmp_path / "pets" / "dog" / "Thumbs.db").write_bytes(b"x")
  if get_config is folder.get_config:
    config = get_config(f"path={tmp_path / 'pets'},epochs=20")
    config.flexi.patch_size["values"] = (30,)
  else:
    # Without weights to start from, for which runlocal is.
    config = get_config(
      f"runlocal,data=folder:{tmp_path / 'pets'},size=60,eval_patch_sizes=30"
    )
    config.batch_size, config.total_steps = 32, 6
  config.model = dict(variant="mu")
  return config


@pytest.mark.parametrize("get_config", [folder.get_config, transfer.get_config])
def test_a_dozen_images_are_enough(get_config, tmp_path):
  """A batch has more than there are, an evaluation fewer than devices."""
  config = dozen(get_config, tmp_path)
  with pytest.warns(UserWarning, match="no image of 1 of the 2 classes"):
    parts = setup.Experiment(config)
  said = "".join(parts.describe_splits())
  assert "has no folders of splits. Reading train[:90%]" in said
  section = parts.config["data"]
  batches = data.train_batches(
    section, batch_size=parts.config["batch_size"], seed=0
  )
  batch = next(batches)
  batches.close()
  assert len(batch["image"]) == config.batch_size > 12
  parts.task.check_batch(batch)
  section, (source,) = config.evals.test.data, parts.evaluators["test"].sources
  (batch,) = data.eval_batches(section, batch_size=8, source=source)
  assert 0 < batch["mask"].sum() < 8


@pytest.mark.slow
@pytest.mark.parametrize("get_config", [folder.get_config, transfer.get_config])
def test_a_dozen_images_are_trained(get_config, tmp_path):
  config = dozen(get_config, tmp_path)
  with pytest.warns(UserWarning, match="no image of 1 of the 2 classes"):
    _, history = train.train_and_evaluate(config, tmp_path / "run")
  assert np.isfinite(history[-1]["test/patch30/accuracy"])


def write_videos(root, *names):
  for name in names:
    (root / name).mkdir(parents=True)
    (root / name / "1.mp4").write_bytes(b"")


@pytest.mark.parametrize("folder", ["validation", "val", "Valid", "dev"])
def test_video_folder_evaluates_on_the_validation_split(
  folder, tmp_path, monkeypatch
):
  def splits(path):
    config = video_folder.get_config(f"path={path}")
    return config.data.split, config.evals.test.data.split

  monkeypatch.setenv("HOME", str(tmp_path))
  write_videos(tmp_path / "all", "jump")
  write_videos(tmp_path / "two", "training/jump", f"{folder}/jump", "test/jump")
  write_videos(tmp_path / "test", "Train/jump", "Testing/jump")
  for root in ("~", tmp_path):
    for options in ("", "?fps=5&size=128"):
      assert splits(f"{root}/all{options}") == ("train[:90%]", "train[90%:]")
      assert splits(f"{root}/two{options}") == ("train", "validation")
      assert splits(f"{root}/test{options}") == ("train", "test")
      config = video_folder.get_config(f"path={root}/all{options}")
      assert config.data.name == f"video_folder:{tmp_path}/all{options}"
      assert config.evals.test.data.name == config.data.name
  two = tmp_path / "two"
  assert splits(f"{two},test=test") == ("train", "test")
  both = splits(f"{two},train=train+val,test=test")
  assert both == ("train+val", "test")
  with pytest.raises(ValueError, match=r"no split 'tset'. .* are: train, val"):
    splits(f"{two},test=tset")
  for get_config in (vivit.get_config, vivit_bottleneck.get_config):
    for options in ("", ",test=test"):
      config = get_config(f"data=charades,path={two}{options}")
      assert config.data.split == "train"
      tested = "test" if options else "validation"
      assert config.evals.val.data.split == tested
  # What is wrong is said when the data are opened.
  assert splits(tmp_path / "none") == ("train[:90%]", "train[90%:]")


def test_video_folder_refuses_several_classes_for_a_loss_of_one(tmp_path):
  write_videos(tmp_path, "videos")
  table = "path,label\nvideos/1.mp4,jump;run\n"
  (tmp_path / "train.csv").write_text(table)
  with pytest.raises(ValueError, match=rf"path={tmp_path}\?fps=5,several"):
    video_folder.get_config(f"path={tmp_path}?fps=5")
  config = video_folder.get_config(f"path={tmp_path},several")
  assert config.task.loss == "sigmoid_xent"


@pytest.mark.parametrize("arg", ["frames=15", "frames=0", "size=128", "size=0"])
def test_video_folder_refuses_clips_before_it_reads_any(arg):
  with pytest.raises(ValueError, match=r"must be even, .* multiple of 112"):
    video_folder.get_config(f"path=/nowhere,{arg}")


@pytest.mark.parametrize("data", ["cifar10", "cifar10:3.0.2"])
def test_a_version_of_a_dataset_is_trained_as_published(data, monkeypatch):
  monkeypatch.setattr(transfer, "splits", lambda *_: ("train", "test"))
  config = transfer.get_config(f"data={data},runlocal")
  assert config.optimizer.lr == transfer.PUBLISHED["cifar10"][-1] == 0.003


@pytest.mark.parametrize(
  "own",
  [
    dict(pool="gap"),
    dict(pool="tok", token_learner=dict(layer=1, num_tokens=4)),
    dict(pool="tok_gap", token_learner=dict(layer=1, num_tokens=2)),
  ],
)
def test_a_model_for_videos_has_the_size_of_its_weights(own, tmp_path):
  """Such as those of a run on images, which averages patches."""
  size = dict(width=48, depth=3, mlp_dim=32, num_heads=2)
  vit = models.create(**size, patch_size=8, posemb_grid=3, **own)
  params = tiny.init(vit, np.zeros((1, 24, 24, 3)))
  path = tmp_path / "vit.safetensors"
  interop.save_params(params, path, model=vit)
  config = video_folder.get_config(f"runlocal,init={path},tokens=4")
  model = models.create(**config.model)
  assert {key: getattr(model, key) for key in size} == size
  assert config.model.token_learner.to_dict() == dict(layer=1, num_tokens=4)
  loaded = setup.Experiment(config).init_params()
  assert ("cls" in loaded) == (own["pool"] != "gap")
  block = "encoderblock_2"
  chex.assert_trees_all_equal(
    loaded["Transformer"][block], params["Transformer"][block]
  )
