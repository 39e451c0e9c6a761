"""Several processes share the examples and come to the same values."""

import pytest

from tests import image_text
from tests.train import test_panoptic_runs


@pytest.mark.processes
def test_two_processes_are_one(config, evaluate_by_processes):
  """Each of two devices; 21 examples, the last five in a padded batch."""
  model = dict(variant="mu", depth=1, patch_size=(4, 4), posemb_grid=(3, 3))
  config.model = model | {"head_zeroinit": False}
  config.flexi.patch_size.values = (6, 4)
  config.task = dict(
    name="distillation",
    teachers=dict(
      prof=dict(model=config.model.to_dict(), patch_size=3, dtype="float32")
    ),
  )
  data = config.evals.test.data.to_dict()
  config.evals = dict(
    dist=dict(type="distance", data=data), ens=dict(type="ensemble", data=data)
  )
  (alone,) = evaluate_by_processes(config, 1)
  first, second = evaluate_by_processes(config, 2)
  assert len(alone) == (2 * 4 + 4) + (2 * 4 + 7)
  assert first == second == pytest.approx(alone, rel=1e-5)


@pytest.mark.processes
def test_features_meet_across_processes(config, evaluate_by_processes):
  """Of a teacher and of neighbours; the banks of both are padded."""
  model = dict(variant="mu", depth=1, patch_size=(4, 4), posemb_grid=(3, 3))
  pp = "decode|value_range(-1,1)|keep('image')"
  config.model, config.data.pp = model, pp
  config.flexi.patch_size.values = (6, 4)
  config.batch_size = 8
  config.task = dict(
    name="feature_distillation",
    teachers=dict(itself=dict(model=model, patch_size=3, dtype="float32")),
  )
  data = dict(name="fake:12x12x3:5:21", pp=pp)
  config.evals = dict(
    like=dict(type="similarity", data=data | {"split": "test"}),
    near=dict(type="knn", data=data, num_neighbours=5),
  )
  (alone,) = evaluate_by_processes(config, 1, devices=1)
  first, second = evaluate_by_processes(config, 2)
  assert len(alone) == 2 * 3 + 2 * 2
  assert first == second == pytest.approx(alone, rel=1e-5)


@pytest.mark.processes
def test_masks_are_counted_by_any_number_of_devices(
  config, evaluate_by_processes
):
  """One process of a single device, and two of two devices."""
  config.task = dict(name="segmentation")
  model = dict(variant="mu", depth=1, patch_size=(4, 4), posemb_grid=(3, 3))
  config.model = model | {"head_zeroinit": False}
  config.flexi.patch_size.values = (5, 4)
  pp = "decode(masks='semantic')|value_range(-1,1)|keep('image','semantic')"
  config.data.pp, config.data.name = pp, "fake:12x12x3:5:64:dense"
  config.batch_size = 8
  test = dict(name="fake:12x12x3:5:21:dense", split="test", pp=pp)
  whole = dict(type="segmentation", data=test)
  config.evals = dict(whole=whole, parts=whole | dict(window=8, stride=4))
  (alone,) = evaluate_by_processes(config, 1, devices=1)
  first, second = evaluate_by_processes(config, 2)
  assert len(alone) >= 2 * 2 * (5 + 1)
  assert first == second == pytest.approx(alone, rel=1e-5)


@pytest.mark.processes
def test_texts_and_images_meet_across_processes(
  tmp_path, evaluate_by_processes
):
  """Twelve images with one or two captions; the last batch is padded."""
  config = image_text.make_config(image_text.write_pairs(tmp_path))
  (alone,) = evaluate_by_processes(config, 1, devices=1)
  first, second = evaluate_by_processes(config, 2)
  assert len(alone) == 2 * (7 + 1) + 2 * 4
  assert first == second == pytest.approx(alone, rel=1e-5)


@pytest.mark.processes
def test_boxes_meet_across_processes(config, evaluate_by_processes):
  """One process of a single device, and two of two; the last batch is padded.

  Two classes and large fake boxes: precision is above 0 without training.
  """
  pytest.importorskip("pycocotools", reason="pip install pycocotools")
  config.model = dict(
    variant="mu",
    depth=1,
    patch_size=(4, 4),
    posemb_grid=(3, 3),
    text=dict(width=16, depth=1, mlp_dim=16, num_heads=2, max_len=4),
  )
  config.flexi.patch_size.values = (6, 4)
  config.task = dict(name="detection")
  config.batch_size = 8
  last = "value_range(-1,1)|keep('image'"
  config.data.name = "fake:12x12x3:2:64:boxes"
  config.data.pp = f"decode|objects(3)|{last},'boxes','box_label')"
  config.evals = dict(
    boxes=dict(
      type="detection",
      data=dict(
        name="fake:12x12x3:2:21:boxes", split="test", pp=f"decode|{last})"
      ),
      truth="decode|image_size|objects(3)|keep('size','boxes','box_label')",
    )
  )
  (alone,) = evaluate_by_processes(config, 1, devices=1)
  first, second = evaluate_by_processes(config, 2)
  assert first == second == pytest.approx(alone, rel=1e-5)
  assert sum(value > 0 for name, value in alone.items() if "AP" in name) > 4


@pytest.mark.processes
def test_segments_meet_across_processes(tmp_path, evaluate_by_processes):
  """One process of a single device, and two of two; the last batch is padded.

  Codes are drawn; most of each image is sky, which is right without training.
  """
  folder = test_panoptic_runs.write_panoptic(tmp_path)
  config = test_panoptic_runs.config_for(folder, patch_sizes=(8,))
  config.model = dict(
    variant="mu",
    depth=1,
    decoder_depth=1,
    patch_size=4,
    posemb_grid=4,
    coder=dict(
      num_instances=4,
      width=8,
      encoder_depth=1,
      decoder_depth=1,
      mlp_dim=8,
      num_heads=1,
      patch_size=4,
      posemb_grid=4,
      code_grid=2,
      head_zeroinit=False,
    ),
  )
  config.flexi = dict(patch_size=dict(values=(8,)))
  config.task = dict(name="panoptic", temperature=1.0)
  test = config.evals.test
  test.batch_size, test.data.split = 4, "train[:7]"
  config.evals.prepared = {k: v for k, v in test.items() if k != "truth"}
  (alone,) = evaluate_by_processes(config, 1, devices=1)
  first, second = evaluate_by_processes(config, 2)
  assert first == second == pytest.approx(alone, rel=1e-5)
  assert len(alone) == 2 * (3 * 3 + 2 + 1 + 1)
  assert alone["test/patch8/examples"] == 7
  assert 0 < alone["test/patch8/PQ"] != alone["prepared/patch8/PQ"] > 0
