"""The image towers of models for other tasks, in use without the rest."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import flexify, segmentation_folder, transfer
from tests import tiny
from tests.conftest import write_untrained
from tests.train import test_panoptic_runs
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.train import setup

TOWER = dict(
  width=8,
  depth=1,
  mlp_dim=8,
  num_heads=1,
  patch_size=(4, 4),
  posemb_grid=(3, 3),
)
TEXT = dict(width=8, depth=1, mlp_dim=8, num_heads=1, max_len=4, vocab_size=5)
CODER = dict(
  num_labels=3,
  num_instances=3,
  width=8,
  encoder_depth=1,
  decoder_depth=1,
  mlp_dim=8,
  num_heads=1,
  patch_size=4,
  posemb_grid=3,
  code_grid=3,
)
OTHERS = {
  "segmenter": dict(num_classes=3, decoder="mask"),
  "uvim": dict(coder=CODER),
  "owl_vit": dict(text=TEXT),
  "two_towers": dict(text=TEXT, num_classes=6),
}
IMAGES = jnp.zeros((1, 12, 12, 3))


def write(name, folder):
  model = models.create(name=name, **TOWER, **OTHERS[name])
  params = tiny.init(model, IMAGES)
  path = folder / "weights.npz"
  interop.save_params(params, path, model=model)
  return path, params


@pytest.mark.parametrize("name", OTHERS)
def test_another_task_starts_from_the_image_tower(name, tmp_path):
  path, params = write(name, tmp_path)
  tower = models.create(**interop.describe(path).image_model)
  assert type(tower) is models.ViT
  assert tower.num_classes == (6 if name == "two_towers" else None)
  data = "data=fake:12x12x3:5:16,runlocal"
  for config, cls in (
    (transfer.get_config(f"init={path},{data}"), models.ViT),
    (flexify.get_config(f"init={path},{data}"), models.ViT),
    (segmentation_folder.get_config(f"init={path},runlocal"), models.Segmenter),
  ):
    run = setup.Experiment(config, begins=True)
    assert type(run.task.model) is cls
    began = run.init_params()
    np.testing.assert_array_equal(
      began["embedding"]["kernel"], params["embedding"]["kernel"]
    )


def test_a_coder_of_labels_has_no_image_tower(tmp_path):
  model = models.LabelCoder(**CODER)
  path = tmp_path / "coder.npz"
  interop.save_params(tiny.init(model, IMAGES), path, model=model)
  for config in (transfer, flexify, segmentation_folder):
    with pytest.raises(ValueError, match="'label_coder', which sees labels"):
      config.get_config(f"init={path},runlocal")
  with pytest.raises(ValueError, match="'label_coder', which sees labels"):
    runs.open_weights(str(path))


def test_the_run_of_a_coder_of_labels_sees_no_images(tmp_path):
  folder = test_panoptic_runs.write_panoptic(tmp_path / "coco")
  config = test_panoptic_runs.config_for(folder)
  config.model = test_panoptic_runs.CODER
  config.task = dict(name="panoptic_code")
  run = write_untrained(setup.Experiment(config), tmp_path / "run")
  with pytest.raises(ValueError, match="'label_coder', which sees labels"):
    runs.open_run(run, "image")
  # What the model is made for is known by this file alone.
  (run / "about_data.json").unlink()
  words = (
    r"about_data\.json, which holds the classes.* start the run's training"
  )
  with pytest.raises(ValueError, match=words):
    runs.open_run(run, "image")
