"""A dial that is registered from outside is used like those of the library."""

import json

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from tokenlearner_flexivit import dials, inference, models, predict, train
from tokenlearner_flexivit.inference import export, model_card, profile
from tokenlearner_flexivit.models import protocol


def _read(value, where):
  if not isinstance(value, int) or value < 1:
    raise ValueError(f"{where}={value!r} is no number of rounds.")
  return value


ROUNDS = dials.Kind(
  _read, "rounds{}".format, "rounds", "how often, as 2", "rounds"
)


class Repeating(protocol.Model):
  """Applies one layer several times; how often is its dial."""

  num_classes: int | None = None

  @nn.compact
  def __call__(self, images, *, rounds=1, train=False):
    x = nn.Dense(8)(images.mean(axis=(1, 2)))
    layer = nn.Dense(8)
    for _ in range(rounds):
      x = x + nn.tanh(layer(x))
    # Without a representation in `out`.
    return nn.Dense(self.num_classes, name="head")(x), {"last": x}


@pytest.fixture
def run(config, monkeypatch, tmp_path):
  monkeypatch.setitem(dials.KINDS, "rounds", ROUNDS)
  monkeypatch.setitem(models.MODELS, "repeating", Repeating)
  config.model = dict(name="repeating")
  config.flexi = dict(rounds=dict(values=(1, 3)))
  config.evals.test.rounds = (1, 3)
  train.train_and_evaluate(config, tmp_path / "run")
  return tmp_path / "run"


def test_it_is_set_measured_and_exported(run, tmp_path, capsys):
  report = json.loads((run / "report.json").read_text())
  assert [row["rounds"] for row in report["settings"]] == [1, 3]
  assert "| rounds |" in (run / "report.md").read_text().replace("  ", "")

  predictor = inference.Predictor.load(run)
  images = np.zeros((2, 12, 12, 3), np.uint8)
  three = dials.Setting(rounds=3)
  assert predictor.setting(rounds=3) == three
  assert predictor.predict(images, rounds=3)[0].setting == three
  with pytest.raises(ValueError, match="rounds=0 is no number of rounds"):
    predictor.predict(images, rounds=0)
  with pytest.raises(ValueError, match=r"dial='round'.*Did you mean 'rounds'"):
    predictor.predict(images, round=3)
  with pytest.raises(ValueError, match="not both"):
    predictor.predict(images, rounds=3, budget_ms=5)
  with pytest.raises(ValueError, match=r"='pre_logits' is unknown.*: last\."):
    predictor.embed(images, rounds=3)
  last = predictor.embed(images, rounds=3, representation="last")
  assert last.vectors.shape == (2, 8)

  rows = predictor.profile(repeats=1)
  assert [row["rounds"] for row in rows] == [1, 3]
  assert "| rounds |" in profile.markdown(rows).replace("  ", "")
  assert predictor.choose(budget_ms=1e6) in predictor.trained.known_settings

  manifest = export.write(predictor.trained, tmp_path / "export", [three])
  (row,) = json.loads(manifest.read_text())["settings"]
  assert (row["rounds"], row["file"]) == (3, "rounds3.jax")
  card = model_card.write(predictor.trained, tmp_path / "hub").read_text()
  assert 'predictor.predict("image.jpg", rounds=1)' in card
  again = inference.Predictor.load(tmp_path / "hub")
  assert again.trained.known_settings == predictor.trained.known_settings

  Image.fromarray(images[0]).save(tmp_path / "photo.png")
  command = [str(tmp_path / "photo.png"), f"--workdir={run}", "--rounds=3"]
  capsys.readouterr()
  with pytest.raises(SystemExit) as done:
    predict.main([*command, "--json"])
  assert not done.value.code
  assert json.loads(capsys.readouterr().out)["rounds"] == 3
