"""The benchmark of the input pipeline runs and compares like with like."""

import cv2
import numpy as np
import pytest

from benchmarks import input_pipeline, tf_data
from tokenlearner_flexivit import data


@pytest.mark.benchmarks
def test_runs(monkeypatch):
  monkeypatch.setattr(input_pipeline.os, "cpu_count", lambda: 2)
  rows = input_pipeline.run(quick=True)
  names = [row["name"] for row in rows]
  expected = dict(start=1, pipeline=3, first_batch=1, op=6, starvation=3)
  assert names == [name for name in expected for _ in range(expected[name])]
  start = rows[0]
  assert start["images"] == 2_000 and start["bytes_per_image"] < 64
  assert start["opened"] > 0 and start["again"] == 0
  (first,) = [row for row in rows if row["name"] == "first_batch"]
  assert 3.9 < first["bytes_with_device_ops"] / first["bytes"] <= 4
  for row in rows:
    for key in ("seconds", "images_per_s", "us_per_image", "step_ms"):
      assert row.get(key, 1) > 0
    assert 0 <= row.get("waiting", 0) <= 1


def test_images_have_the_size_of_photographs(tmp_path):
  input_pipeline.make_folder(tmp_path, num_images=2, copies=3)
  source = data.open_source(input_pipeline.data_config(tmp_path))
  assert len(source) == 6
  for index in range(6):
    file = source[index]["image"]
    assert 40_000 < len(file) < 60_000
    assert cv2.imdecode(np.frombuffer(file, np.uint8), 1).shape == (375, 500, 3)


@pytest.mark.parametrize("seed", range(3))
def test_tf_data_gets_our_crops(seed):
  rows, columns = np.mgrid[:375, :500].astype(np.float32)
  image = np.stack([rows, columns], -1)
  ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
  crop = data.parse("inception_crop")
  for top, left, height, width in tf_data.draw_crops(50, 375, 500, theirs):
    result = crop({"image": image}, ours)["image"]
    assert result[0, 0].tolist() == [top, left]
    assert result.shape[:2] == (height, width)
