"""Heads of weights to start from, for the classes of the data or others."""

import json

import numpy as np
from PIL import Image

from tests import tiny
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.train import setup

MODEL = dict(variant="mu", depth=1, patch_size=4, posemb_grid=3, gelu="erf")


def write_images(root, names):
  for name in names:
    (root / name).mkdir(parents=True)
    for i in range(8):
      pixels = np.full((12, 12, 3), 30 * i, np.uint8)
      Image.fromarray(pixels).save(root / name / f"{i}.png")


def write_weights(folder, names):
  model = models.create(**MODEL, num_classes=len(names))
  params = tiny.init(model, np.zeros((1, 12, 12, 3)))
  interop.save_params(
    params, folder, "timm", model=model, input_mean=(0.5,), input_std=(0.5,)
  )
  config = json.loads((folder / "config.json").read_text())
  config["label_names"] = names
  (folder / "config.json").write_text(json.dumps(config))


def test_a_head_of_other_classes_is_told(config, tmp_path, capsys):
  write_images(tmp_path / "images", ("cat", "dog", "red emu"))
  config.data.name = f"folder:{tmp_path / 'images'}"
  config.model, config.evals = MODEL, {}
  config.init = str(tmp_path / "timm")

  def said(*fresh):
    config.init_fresh = fresh
    setup.Experiment(config, begins=True).init_params()
    return capsys.readouterr().out

  write_weights(tmp_path / "timm", ["dog", "cat", "red emu"])
  assert (
    "is of other classes: the class 0 is 'dog' there and 'cat' in the training "
    "data. It is taken all the same; let a new one start by "
    "config.init_fresh=('head/',)."
  ) in said()
  assert "of other classes" not in said("head/")
  config_file = tmp_path / "timm" / "config.json"
  told = json.loads(config_file.read_text())
  told["label_names"] = ["Cat", "dog", "red_emu"]
  config_file.write_text(json.dumps(told))
  assert "of other classes" not in said()
