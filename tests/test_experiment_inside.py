"""The study of trained models judges by numbers, and has places for them."""

import cv2
import numpy as np
import pytest

from experiments import study
from experiments.inside_flexivit import claims, measure, pictures, summary

LAYERS = (
  "with_posemb",
  *(
    f"encoder/block{i:02d}/{part}" for i in range(4) for part in ("+sa", "+mlp")
  ),
)
# Alike in two blocks of four, then apart, then together again.
CURVE = (0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.5, 0.6, 0.8)


def flexivit(
  curve=CURVE, pooled=0.9, rate=0.7, gain=-0.01, fine=0.3, shape=0.1
):
  def labels(name):
    return {
      label: {"answer": value, "above_chance": value}
      for label, value in (("shape", shape), ("texture", 0.8))
    } | {"name": name}

  pairs = (("patch10", "patch6"), ("patch6", "patch10"))
  return {
    "run": "cpu_flexi_0",
    "alike": {
      **dict(zip(LAYERS, curve, strict=True)),
      measure.POOLED: pooled,
    },
    "pooled": {"patch10 and patch6": pooled},
    "correspondence": [
      {"from": a, "to": b, "rate": rate, "chance": 0.05} for a, b in pairs
    ],
    "places": {LAYERS[0]: 0.9, LAYERS[2]: rate},
    "agreement": {
      "ensembles": [
        {
          "name": "patch10+patch6",
          "accuracy": 0.8 + gain,
          "gmacs": 0.03,
          "single": "patch6",
          "single_accuracy": 0.8,
          "single_gmacs": 0.02,
        }
      ],
      "attributes": [
        {
          "correlation": -0.1,
          "parts": {"0": {"only_fine": fine}, "2": {"only_fine": 0.1}},
        }
      ],
    },
    "labels": [
      {"name": row.pop("name"), "labels": row}
      for row in map(labels, ("patch10", "patch6"))
    ],
  }


def holds(**changes):
  return [c["holds"] for c in claims.claims([flexivit(**changes)], [], [])]


def test_claims_follow_the_numbers():
  assert claims.middle(LAYERS) == LAYERS.index("encoder/block01/+mlp")
  assert holds() == [True] * 8
  flat = (0.7,) * len(LAYERS)
  assert holds(curve=flat) == [False] * 3 + [True] * 5
  for change, which in (
    (dict(pooled=0.7), 3),
    (dict(rate=0.4), 4),
    (dict(gain=0.01), 5),
    (dict(fine=0.05), 6),
    (dict(shape=0.9), 7),
  ):
    assert holds(**change) == [i != which for i in range(8)]


def test_means_are_over_seeds():
  found = claims.claims([flexivit(), flexivit(pooled=0.5)], [], [])
  assert "mean 0.70; least 0.70" in found[3]["measured"]


@pytest.mark.parametrize("shape, like", [(0.1, True), (0.5, False)])
def test_fixed_models_and_both_dials(shape, like):
  fixed = {"run": "cpu_fixed6_0", "labels": flexivit(shape=shape)["labels"][1:]}
  dials = {"run": "x", "patch_size": 0.6, "num_tokens": 0.8}
  *_, of_fixed, of_both = claims.claims([flexivit()], [fixed], [dials])
  assert of_fixed["holds"] == like
  assert of_both["holds"] and "0.60 between patch sizes" in of_both["measured"]


def test_pairs_of_settings():
  values = np.arange(16.0).reshape(4, 4)
  labels = [(s, name) for s in ("a", "b") for name in ("x", "y")]
  alike = measure.Alike(values, labels)
  assert alike.pairs("y") == {("a", "b"): values[1, 3]}
  assert alike.by_depth() == {"x": values[0, 2], "y": values[1, 3]}


def test_the_readme_and_the_picture(tmp_path):
  found = [flexivit(), flexivit(curve=CURVE[::-1])]
  text = summary.sections(found, claims.claims(found, [], []), True)
  readme = tmp_path / "README.md"
  folder = study.ROOT / "experiments" / "inside_flexivit"
  readme.write_text((folder / "README.md").read_text())
  study.fill_in(readme, "results", text)
  assert "90.0 ± 0.0" in text and "0.850 ± 0.071" in text
  for name in ("depth", "agreement", "two_dials"):
    assert f"(figures/{name}.png)" in readme.read_text()
  pictures.depth(found, tmp_path / "depth.png")
  assert cv2.imread(str(tmp_path / "depth.png")).shape[0] > 300
