"""The study of image-text retrieval compares what it says, by numbers."""

import re

import pytest

from configs import captions_scenes, lit
from experiments import seeds, study, training
from experiments.flexivit_curves import config as curves_config
from experiments.transfer_retrieval import config, pictures, run
from tests.experiments import tiny_cells
from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.rendered_scenes import (
  examples,
  scene,
  shapes,
  textures,
)

SCALE = config.SCALES["cpu"]
SIZES = SCALE.sizes
COARSE, FINE = SIZES[0], SIZES[-1]
DIFFER = (-0.01, 0.0, 0.01)
NAMES = {
  "texture": textures.NAMES,
  "shape": shapes.NAMES,
  "colour": list(scene.COLOURS),
}


class Scenes(data.Source):
  """A source that knows names alone, as that of rendered_scenes does."""

  value_names = NAMES

  def __len__(self):
    return 0

  def __getitem__(self, index):
    raise IndexError


def get(cell):
  return config.get_config(f"cell={cell},seed=1,workdir=runs").to_dict()


@pytest.mark.parametrize("name", config.SCALES)
def test_each_cell_comes_after_those_it_needs(name):
  seen = set()
  for cell, needs in config.needs(config.SCALES[name]).items():
    assert seen.issuperset(needs)
    seen.add(cell)
  scale = config.SCALES[name]
  assert seen.issuperset({*config.towers(scale), *config.transfers(scale)})
  text = "cell=distilled_from_teacher,seed=2,workdir=runs"
  assert config.get_config(text) == curves_config.get_config(text)


def test_towers_differ_in_backbone_and_sizes_alone():
  base = get("coarse")
  for name, backbone in config.towers(SCALE).items():
    other = get(name)
    assert other["flexi"]["patch_size"]["values"] == backbone.sizes
    assert other["init"].endswith(f"runs/cpu_{backbone.name}_1")
    assert other["init_fresh"] == ("head/",)
    assert other["model"] == get(backbone.name)["model"]
    for key in ("flexi", "init", "model"):
      other[key] = base[key]
    assert other == base
  with pytest.raises(ValueError, match="flexible needs distilled_from_teacher"):
    config.get_config("cell=flexible")


def test_towers_learn_every_attribute_of_an_image():
  section = get("fine")["data"]
  example = examples.image_example(64, 0, "train", 5)
  label = data.parse(section["pp"].replace("random", "central"))(example)
  hot = label["label"]
  assert len(hot) == sum(config.ATTRIBUTES.values())
  assert hot.sum() == len(config.ATTRIBUTES)
  count, names = data.classes(section, Scenes())
  chosen = {names[i] for i in hot.nonzero()[0]}
  assert count == len(hot)
  assert f"num_objects {example['num_objects']}" in chosen
  assert f"texture {textures.NAMES[example['texture']]}" in chosen
  assert len({name.split()[0] for name in chosen}) == len(config.ATTRIBUTES)


def test_transfers_differ_in_tower_sizes_and_rates_alone():
  base = get(config.ANY_SIZE)
  assert base["total_steps"] == SCALE.pair_steps
  assert set(base["evals"]) == {"retrieval", *captions_scenes.ATTRIBUTES}
  for name, transfer in config.transfers(SCALE).items():
    other = get(name)
    assert other["init"].endswith(f"runs/cpu_{transfer.tower}_1")
    stored = get(transfer.tower)["model"]
    assert stored.items() <= other["model"].items()
    assert other["flexi"]["patch_size"]["values"] == transfer.sizes
    optimizer = other["optimizer"]
    if transfer.way == config.LOCKED:
      assert optimizer["freeze"] == lit.IMAGE_TOWER
    else:
      ((pattern, rate),) = optimizer["lr_scales"]
      assert rate == 0.1 and re.fullmatch(pattern, "embedding/kernel")
    for key in ("init", "flexi", "optimizer", "model"):
      other[key] = base[key]
    assert other == base
  for evaluation in base["evals"].values():
    assert evaluation["patch_sizes"] == SIZES
  with pytest.raises(ValueError, match="locked_fine_at6 needs fine"):
    config.get_config("cell=locked_fine_at6")


def curve(first, last):
  """Returns a straight curve over the patch sizes, from coarse to fine."""
  step = (last - first) / (len(SIZES) - 1)
  return {size: first + i * step for i, size in enumerate(SIZES)}


def make_rows(**changed):
  """Returns rows for which each claim holds, but for some.

  Args:
    **changed: the curve of a cell's metric, by `CELL__METRIC`.
  """
  rows = []
  for name in config.towers(SCALE):
    for size, value in curve(0.6, 0.8).items():
      values = seeds.spread(value + d for d in DIFFER)
      rows.append({"cell": name, "patch_size": size, "mAP": values})
  for name, transfer in config.transfers(SCALE).items():
    curves = {metric: curve(0.5, 0.52) for metric in pictures.METRICS}
    curves |= dict(texture=curve(0.4, 0.7), num_objects=curve(0.3, 0.5))
    if transfer.tower == "coarse":
      curves["texture"] = curve(0.45, 0.2)
    if transfer.tower == "fine":
      curves["texture"] = curve(0.2, 0.7)
    if transfer.tower == "flexible" and transfer.sizes == SIZES:
      curves["texture"] = curve(0.4, 0.75)
    if transfer.way == config.TUNED:
      curves["texture"] = {s: v - 0.05 for s, v in curves["texture"].items()}
    for size in SIZES:
      row = {"cell": name, "patch_size": size}
      for metric, values in curves.items():
        value = changed.get(f"{name}__{metric}", values)[size]
        row[metric] = seeds.spread(value + d for d in DIFFER)
      rows.append(row)
  return [row | {"train_seconds": [60.0]} for row in rows]


def verdicts(**changed):
  outcome = run.STUDY.judge("cpu", [0, 1, 2], make_rows(**changed))
  return [claim["verdict"] for claim in outcome.claims]


def test_claims_follow_the_numbers():
  outcome = run.STUDY.judge("cpu", [0, 1, 2], make_rows())
  assert [claim["verdict"] for claim in outcome.claims] == ["yes"] * 10
  rise, counts, large, *_ = outcome.claims
  assert rise["measured"] == "40.0 % -> 70.0 % (+30.0 ± 0.0)"
  assert counts["measured"] == "30.0 % -> 50.0 % (+20.0 ± 0.0)"
  assert "shape: +2.0 ± 0.0" in large["measured"]
  (text,) = run.STUDY.tables(outcome).values()
  assert "| `locked_fine_at6`" in text and "50.0 -> 52.0" in text
  assert "60.0 ± 1.0" in text  # The mAP of a tower.


@pytest.mark.parametrize(
  "cell, metric, changed, failing",
  [
    ("locked_flexible_at15", "num_objects", curve(0.3, 0.2), [1]),
    ("locked_flexible_at15", "shape", curve(0.5, 0.9), [2]),
    ("locked_flexible_at15", "colour", curve(0.9, 0.5), [2]),  # Down as well.
    ("locked_flexible_at15", "R1", curve(0.5, 0.9), [3]),
    ("locked_coarse_at15", "texture", curve(0.2, 0.8), [4]),
    ("tuned_coarse_at15", "texture", curve(0.2, 0.8), [4]),
    ("locked_fine_at15", "texture", curve(0.6, 0.7), [5]),
    ("locked_fine_at6", "texture", curve(0.6, 0.7), [5]),
    ("locked_coarse_at15", "R1", curve(0.7, 0.2), [6]),
    ("locked_any_size", "texture", curve(0.9, 0.6), [7]),
    ("tuned_flexible_at15", "texture", curve(0.5, 0.3), [8, 9]),
  ],
)
def test_a_claim_fails_by_its_own_numbers(cell, metric, changed, failing):
  judged = verdicts(**{f"{cell}__{metric}": changed})
  assert [i for i, verdict in enumerate(judged) if verdict != "yes"] == failing
  assert {judged[i] for i in failing} == {"no"}


def test_rows_are_read_from_reports():
  """And lead to a figure with a line for each transfer."""
  names = config.needs(SCALE)
  settings = [
    {"patch_size": size, "mAP": 0.5, "R1": 0.4}
    | {f"{a}/accuracy": 0.3 for a in captions_scenes.ATTRIBUTES}
    for size in SIZES
  ]
  report = {"settings": settings, "train": {"seconds": 60.0}}
  done = study.Done(
    study.Asked(scale="cpu", seeds=[0, 1]),
    SCALE,
    {name: [report, report] for name in names},
  )
  rows = run.rows(done)
  measured = {*config.towers(SCALE), *config.transfers(SCALE)}
  assert len(rows) == len(measured) * len(SIZES)
  last = rows[-1]
  assert last["R1"]["by_seed"] == [0.4, 0.4] and last["texture"]["mean"] == 0.3
  outcome = run.STUDY.judge("cpu", [0, 1], rows)
  (figure,) = run.STUDY.figures(outcome).values()
  lines = [len(axes.containers) for axes in figure.axes]
  per_way = [
    sum(t.way == way for t in config.transfers(SCALE).values())
    for way in config.WAYS
  ]
  assert lines == [n for n in per_way for _ in pictures.METRICS]


@pytest.mark.studies
def test_a_tower_is_distilled_and_put_beside_texts(tmp_path):
  """The reports have what rows read."""
  reports = {}
  backbones = ("fixed6", "distilled_from_teacher")
  cells = ("flexible", "locked_any_size", "tuned_flexible_at15")
  for cell in (*backbones, *cells):
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    reports[cell] = [tiny_cells.train_cell(c, tmp_path, cell)]
  rows = run.rows(study.Done(study.Asked(), SCALE, reports))
  assert [row["patch_size"] for row in rows] == list(SIZES) * len(cells)
  assert {"texture", "R1"} <= rows[-1].keys() and "mAP" in rows[0]
  shown = training.in_words(reports["locked_any_size"][0])
  assert shown.endswith(" %")
