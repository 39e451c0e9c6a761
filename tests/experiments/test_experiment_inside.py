"""The study of trained models judges by numbers, and has places for them."""

import json
import shutil

import numpy as np
import pytest

from experiments import study
from experiments.inside_flexivit import claims, measure, run
from experiments.two_dials import config as two_dials
from tests.conftest import write_untrained
from tokenlearner_flexivit import train
from tokenlearner_flexivit.train import setup

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
          "parts": {
            "0": {"only_fine": fine, "examples": 200},
            "2": {"only_fine": 0.1, "examples": 300},
          },
        }
      ],
    },
    "labels": [
      {"name": row.pop("name"), "labels": row}
      for row in map(labels, ("patch10", "patch6"))
    ],
  }


def judge(flexi, fixed=(), two_dials=()):
  """Returns the claims of these runs."""
  return run.STUDY.judge("", [], [*flexi, *fixed, *two_dials]).claims


def verdicts(**changes):
  return [c["verdict"] for c in judge([flexivit(**changes)] * 3)]


def test_claims_follow_the_numbers():
  assert claims.middle(LAYERS) == LAYERS.index("encoder/block01/+mlp")
  assert verdicts() == ["yes"] * 8
  flat = (0.7,) * len(LAYERS)
  # What is the same before and after does not part, nor does it come together.
  assert verdicts(curve=flat) == ["no", "undecided", "no"] + ["yes"] * 5
  for change, which in (
    (dict(pooled=0.7), 3),
    (dict(rate=0.4), 4),
    (dict(gain=0.01), 5),
    (dict(fine=0.05), 6),
    (dict(shape=0.9), 7),
  ):
    assert verdicts(**change) == [
      "no" if i == which else "yes" for i in range(8)
    ]


def test_means_are_over_seeds():
  judged = judge([flexivit(gain=0.01), flexivit(pooled=0.5, gain=0.03)])
  assert "mean 0.70; least 0.70" in judged[3]["measured"]
  # Of the means 1 and 3 the standard deviation is the root of 2.
  expected = "on average +2.0 points (standard error over seeds 1.0)"
  assert expected in judged[5]["measured"]
  judged = judge([flexivit()])
  assert "(one seed)" in judged[5]["measured"]
  assert {claim["verdict"] for claim in judged} == {"undecided"}


def test_few_examples_make_no_claim():
  """Of 200 and 300 images at about 10 % the standard error is 2.8 points."""
  assert (verdicts(fine=0.12)[6], verdicts(fine=0.13)[6]) == ("no", "yes")
  details = judge([flexivit(fine=0.12)])[6]
  assert "12.0 % of the 200 images of the finest" in details["measured"]
  assert "10.0 % of the 300 images" in details["measured"]
  assert "standard error by the number of images 2.9" in details["measured"]


@pytest.mark.parametrize(
  "blocks, kept", [(1, []), (2, ["alike", "together"]), (3, None)]
)
def test_few_blocks_have_no_middle(blocks, kept):
  one = flexivit()
  layers = LAYERS[: 1 + 2 * blocks]
  one["alike"] = {name: 0.9 for name in layers} | {measure.POOLED: 0.9}
  judged = judge([one])
  assert len(judged) == 5 + (3 if kept is None else len(kept))
  for claim, word in zip(judged, kept or (), strict=False):
    assert word in claim["claim"] and "nan" not in claim["measured"]


def test_probes_below_chance_count_as_nothing():
  def probed(**above):
    labels = {k: {"above_chance": v} for k, v in above.items()}
    return {"labels": [{"name": "patch6", "labels": labels}]}

  share = claims.shape_share
  assert share(probed(shape=-0.02, texture=0.5)) == {"patch6": 0}
  assert share(probed(shape=0.1, texture=-0.3)) == {"patch6": 1}
  assert share(probed(shape=-0.02, texture=0.01 - 0.02)) == {}
  none = probed(shape=-0.1, texture=0.0)
  claim = judge([flexivit()], [none])[-1]
  assert claim["verdict"] == "undecided"
  assert claim["measured"] == "6: probes find neither beyond chance"
  # Other seeds know, and each is compared with the same seed.
  again = {**none, "labels": flexivit()["labels"][1:]}
  others = [flexivit(shape=0.9), flexivit(), flexivit()]
  assert judge(others, [none, again, again])[-1]["verdict"] == "yes"


@pytest.mark.parametrize("shape, like", [(0.1, "yes"), (0.5, "no")])
def test_fixed_models_and_both_dials(shape, like):
  fixed = {"run": "cpu_fixed6_0", "labels": flexivit(shape=shape)["labels"][1:]}
  dials = {"run": "x", "patch_size": 0.6, "num_tokens": 0.8}
  *_, fixed_row, both_row = judge([flexivit()] * 2, [fixed] * 2, [dials] * 2)
  assert fixed_row["verdict"] == like
  assert both_row["verdict"] == "yes"
  assert "0.60 between patch sizes" in both_row["measured"]


def test_pairs_of_settings():
  values = np.arange(16.0).reshape(4, 4)
  labels = [(s, name) for s in ("a", "b") for name in ("x", "y")]
  alike = measure.Alike(values, labels)
  assert alike.pairs("y") == {("a", "b"): values[1, 3]}
  assert alike.by_depth() == {"x": values[0, 2], "y": values[1, 3]}


def tiny(cell):
  """A run's config: rendered_scenes with 200 images, patch sizes 30, 20, 15."""
  c = two_dials.get_config(f"cell={cell},runlocal")
  for section in (c.data, c.evals.test.data):
    section.name = "rendered_scenes/tiny"
    section.num_threads = 0
  sizes = (30, 20, 15) if len(c.flexi.patch_size["values"]) > 1 else (15,)
  if "num_tokens" in c.flexi:  # Each of nine settings would take a program.
    sizes = sizes[::2]
    c.flexi.num_tokens = dict(values=("all", 4))
  c.flexi.patch_size["values"] = sizes
  c.evals.test.batch_size = 8
  c.model.patch_size, c.model.posemb_grid = (15, 15), (4, 4)
  return c


@pytest.mark.studies
def test_the_study_of_two_tiny_runs(tmp_path, monkeypatch):
  runs = {
    kind: tmp_path / cell
    for kind, cell in (
      ("flexivit", "patch_size"),
      ("fixed", "fixed15_all"),
      ("two_dials", "two_dials"),
    )
  }
  train.train_and_evaluate(tiny("patch_size"), runs["flexivit"])
  train.train_and_evaluate(tiny("fixed15_all"), runs["fixed"])
  write_untrained(setup.Experiment(tiny("two_dials")), runs["two_dials"])
  # As one that names its features leaves it.
  config = json.loads((runs["fixed"] / "config.json").read_text())
  config["evals"]["test"]["data"]["features"] = ["image", "label"]
  (runs["fixed"] / "config.json").write_text(json.dumps(config))

  (tmp_path / "experiments" / "inside_flexivit").mkdir(parents=True)
  here = tmp_path / "experiments" / "inside_flexivit"
  shutil.copy(run.STUDY.folder / "README.md", here)
  monkeypatch.setattr(study, "ROOT", tmp_path)
  own = {kind: [str(path)] for kind, path in runs.items()} | {"images": 100}
  run.STUDY.run(study.Asked(own=own))
  here = tmp_path / "results" / "inside_flexivit"  # It is a quick look.
  results = json.loads((here / "results.json").read_text())
  # Two blocks: nothing is between the middle one and the last.
  assert len(results["claims"]) == 9
  assert "NaN" not in json.dumps(results["claims"])
  first, fixed_row, both_row = results["rows"]
  assert [row["name"] for row in first["labels"]] == [
    "patch30",
    "patch20",
    "patch15",
  ]
  assert [row["name"] for row in fixed_row["labels"]] == ["patch15"]
  assert set(both_row) == {"run", "patch_size", "num_tokens"}
  (scale,) = first["agreement"]["attributes"]
  assert scale["names"] == {"0": "fine", "1": "medium", "2": "coarse"}
  assert sum(part["examples"] for part in scale["parts"].values()) == 50
  drawn = {path.stem for path in (here / "figures").glob("*.png")}
  assert drawn == {
    "agreement",
    "attention",
    "correspondence",
    "depth",
    "shape_or_texture",
    "similarity",
    "two_dials",
  }
  for name in drawn:
    assert f"(figures/{name}.png)" in (here / "README.md").read_text()
