"""The report of a segmentation: the table of classes and the picture."""

import types

import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.evaluators import (
  class_table,
  segmentation_report,
  shown_settings,
)
from tokenlearner_flexivit.figures import label_maps, palette
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks import segmentation

IOU = "mIoU", Metric("IoU", "%")
PP = "decode|resize_keep(24)|pad_to(24)|value_range|keep('image','valid')"
TRUTH = (
  "decode_ids(key='semantic')|pad_to(16,255,key='semantic')"
  "|keep('semantic','valid')"
)


def rows(*settings):
  return [
    {"patch_size": p, "num_tokens": s, "mIoU": m, "IoU_sky": m}
    for p, s, m in settings
  ]


def test_a_picture_shows_the_best_setting_of_each_size():
  chosen = shown_settings.by_patch_size(
    rows((16, 8, 0.1), (16, "all", 0.3), ([8, 4], 8, 0.5), (6, 8, 0.2)), "mIoU"
  )
  assert [setting.name for setting, _ in chosen] == [
    "patch8x4_tok8",
    "patch6_tok8",
    "patch16_tokall",
  ]


def test_classes_are_the_rows_of_a_table():
  few = rows((16, None, 0.25), (8, None, 0.5))
  few[1]["IoU_sea"] = 1.0
  classes = ["sea", "sky", "sand"]
  names = class_table.metric_names("IoU_", classes)
  table = class_table.class_table(few, classes, names, *IOU)
  assert table.splitlines() == [
    "| IoU % of | patch 16 | patch 8 |",
    "|----------|---------:|--------:|",
    "| sea      |          |  100.00 |",
    "| sky      |    25.00 |   50.00 |",
  ]
  many = rows(*((p, s, p / 100) for p in range(1, 41) for s in (4, "all")))
  table = class_table.class_table(many, ["sky"], ["IoU_sky"], *IOU)
  head = table.splitlines()[0]
  assert head.count("patch") == 10
  assert "patch 1," in head and "patch 40," in head


class Pointwise(segmentation.Segmentation):
  """Takes the channels of an image for logits."""

  def predict(self, params, batch, setting):
    return batch["image"]


@pytest.mark.parametrize("slides", [None, ((10, 12), (7, 12))])
def test_truth_and_predictions_have_the_size_of_the_masks(
  slides, tmp_path, monkeypatch
):
  section = dict(name="fake:12x10x3:3:6:dense", split="test", pp=PP)
  source = data.open_source(section)
  task = Pointwise(types.SimpleNamespace(input="image"), 3)
  drawn = []
  figure = label_maps.figure

  def watched(*args):
    drawn.append(args)
    return figure(*args)

  monkeypatch.setattr(label_maps, "figure", watched)
  strip = segmentation_report.Strip(
    task, section, source, TRUTH, segmentation.MASK, slides
  )
  path = tmp_path / "segmentation.png"
  strip.draw(
    path,
    {},
    rows((4, None, 0.5), (8, None, 0.25)),
    ["sky", "sand", "sea"],
    "mIoU",
    Metric("mIoU", "%"),
  )
  assert path.stat().st_size > 10_000
  ((shown, headings, _, ignore, title),) = drawn
  assert headings[2:] == ["patch 4\nmIoU 50.00 %", "patch 8\nmIoU 25.00 %"]
  assert ignore == 255 and "2 patch sizes" in title and len(shown) == 4
  for row, position in zip(shown, (0, 1, 3, 4), strict=True):
    example = source[position]
    assert row.image.shape == (24, 20, 3)
    truth, first, second = row.maps
    np.testing.assert_array_equal(truth, example["semantic"])
    assert first.shape == (12, 10)
    # A pixel of the image is two by two of the prepared one.
    np.testing.assert_array_equal(first, second)
    agrees = first == example["image"].argmax(axis=-1)
    assert agrees.mean() > 0.9


def test_pixels_of_no_class_are_hatched():
  classes = np.zeros((4, 8), np.int32)
  classes[:, 4:] = 255
  colored = label_maps._colored(classes, palette.colors(2), 255)
  assert colored.shape == (180, 360, 3)
  assert (colored[:, :180] == palette.colors(2)[0]).all()
  hatched = {tuple(c) for c in colored[:, 180:].reshape(-1, 3).tolist()}
  assert hatched == {palette.NO_CLASS, label_maps._STRIPE_COLOR}
