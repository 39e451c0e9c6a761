"""Segmentations are trained, evaluated, reported and distilled."""

import json

import numpy as np
import pytest

from tokenlearner_flexivit import interop, train
from tokenlearner_flexivit.data import settings
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.train import setup

PP = "decode|value_range(-1,1)|keep('image','semantic')"


class Painted(fake.FakeSource):
  """Noise with a bright left part, which is a class of its own."""

  def __getitem__(self, index):
    example = super().__getitem__(index)
    image = example["image"] // 4
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:, : 2 + index % 8] = 1
    mask[0] = 255
    image[mask == 1] += 190
    return {**example, "image": image, "semantic": mask}

  def classes(self, key="label"):
    return (2, ["dark", "bright"]) if key == "semantic" else (None, None)


@pytest.fixture
def segmentation(config, monkeypatch):
  monkeypatch.setattr(settings, "FakeSource", Painted)
  config.data.pp = config.evals.test.data.pp = PP
  config.task = dict(name="segmentation")
  config.flexi.patch_size.values = (5, 4)  # Of which one does not divide 12.
  config.evals.test.type = "segmentation"
  return config


def test_it_is_trained_evaluated_and_reported(segmentation, tmp_path):
  workdir = tmp_path / "run"
  state, history = train.train_and_evaluate(segmentation, workdir)
  assert state.params["seg_head"]["kernel"].shape == (32, 2)
  losses = [record["loss"] for record in history if "loss" in record]
  assert all(np.isfinite(losses))
  about = json.loads((workdir / "about_data.json").read_text())
  assert about["num_classes"] == 2
  assert about["class_names"] == ["dark", "bright"]

  report = json.loads((workdir / "report.json").read_text())
  assert report["headline"] == "mIoU" and report["num_examples"] == 21
  for row in report["settings"]:
    assert 0 <= row["mIoU"] <= row["pixel_accuracy"] <= 1
    assert row["mIoU"] == pytest.approx(
      (row["IoU_dark"] + row["IoU_bright"]) / 2
    )
    assert 0.5 < row["ceiling"] <= 1 and row["gmacs"] > 0
  assert [row["seq_len"] for row in report["settings"]] == [9, 9]
  text = (workdir / "report.md").read_text()
  for column in ("mIoU %", "pixel accuracy %", "ceiling of mIoU %"):
    assert column in text
  assert "95 % interval" not in text
  assert "| IoU % of |" in text and "| bright   |" in text
  assert "(segmentation.png)" in text
  for name in ("patch_sizes.png", "segmentation.png", "token_maps.png"):
    assert (workdir / name).stat().st_size > 10_000

  described = interop.describe(workdir).model
  assert described["name"] == "segmenter" and described["num_classes"] == 2


@pytest.mark.slow
def test_a_run_teaches_a_student(segmentation, tmp_path):
  """The student begins as its teacher, and learns from its masks alone."""
  config, teacher = segmentation, tmp_path / "teacher"
  config.total_steps = 2
  train.train_and_evaluate(config, teacher)
  config.init, config.total_steps, config.log_steps = str(teacher), 1, 1
  config.optimizer.schedule.warmup_steps = 0
  config.task = dict(
    name="segmentation_distillation",
    teachers=dict(prof=dict(init=str(teacher), patch_size=4, dtype="float32")),
  )
  config.flexi.patch_size.values = (4,)
  config.data.pp = "decode|value_range(-1,1)|keep('image')"
  del config.evals["test"]
  _, history = train.train_and_evaluate(config, tmp_path / "student")
  (record,) = [record for record in history if "distance" in record]
  assert record["distance"] < 1e-5 and record["agreement"] > 0.99


def test_weights_of_a_classification_start_a_segmentation(
  segmentation, untrained_run, capsys
):
  segmentation.init = str(untrained_run)
  params = setup.Experiment(segmentation).init_params()
  said = capsys.readouterr().out
  assert "head/kernel" in said and "(another head)" in said
  assert "head" not in params and "seg_norm" in params
  assert "TokenLearner_0" in params["Transformer"]


def test_other_classes_are_refused(segmentation, tmp_path):
  segmentation.model.num_classes = 1
  with pytest.raises(ValueError, match=r"numbers 1 .*the classes are 0 to 0"):
    train.train_and_evaluate(segmentation, tmp_path)
  segmentation.task.ignore = 1
  segmentation.model.num_classes = 2
  with pytest.raises(ValueError, match=r"task\.ignore=1 is one of the 2"):
    train.train_and_evaluate(segmentation, tmp_path)
  segmentation.task.ignore = 255
  segmentation.evals.test.type = "classification"
  with pytest.raises(ValueError, match=r"type='segmentation'"):
    train.train_and_evaluate(segmentation, tmp_path)
