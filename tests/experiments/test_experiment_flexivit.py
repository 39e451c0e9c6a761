"""The study of FlexiViT trains in order, and judges claims by numbers."""

import jax
import numpy as np
import pytest

from experiments import recipe, seeds
from experiments.flexivit_curves import cells, config, resized, run, scales
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import patch_embed
from tokenlearner_flexivit.run import checkpoint

SCALE = scales.SCALES["cpu"]
SIZES = SCALE.sizes
DIFFER = (-0.01, 0.0, 0.01)


@pytest.mark.parametrize("scale", scales.SCALES.values(), ids=scales.SCALES)
def test_all_sizes_cut_the_images(scale):
  for size in (*scale.sizes, *scale.outside):
    assert scale.side % size == 0
  assert tuple(sorted(scale.sizes, reverse=True)) == scale.sizes
  assert min(scale.outside) < scale.sizes[-1] < scale.sizes[0]
  assert max(scale.outside) > scale.sizes[0]


@pytest.mark.parametrize("name", scales.SCALES)
def test_each_cell_comes_after_those_it_needs(name):
  known, seen = cells.cells_by_name(scales.SCALES[name]), set()
  for cell in known.values():
    assert seen.issuperset(cell.needs)
    seen.add(cell.name)
  assert ("transfer_fixed" in known) == (name != "digits")


def test_supervised_cells_differ_in_sizes_and_buffers_alone():
  base = config.get_config("cell=flexi,seed=1").to_dict()
  for name, cell in cells.cells_by_name(SCALE).items():
    other = config.get_config(f"cell={name},seed=1,workdir=runs").to_dict()
    if not cell.needs:
      few = len(SIZES) if cell.few else 1
      assert other["total_steps"] == SCALE.steps // few
      for part in ("flexi", "evals", "total_steps"):
        other[part] = base[part]
      for key in ("patch_size", "posemb_grid"):
        other["model"][key] = base["model"][key]
      assert other == base
    else:
      with pytest.raises(ValueError, match=f"{name} needs .* workdir="):
        config.get_config(f"cell={name}")


def test_transfer_learns_from_images_that_the_backbone_has_not_seen():
  trained = config.get_config("cell=flexi").data
  tuned = config.get_config("cell=transfer_flexible,workdir=runs").data
  assert (tuned.name, tuned.pp) == (trained.name, trained.pp)
  assert (trained.split, tuned.split) == ("train", "validation")
  shapes = config.get_config("cell=transfer_fixed,workdir=runs,label=shape")
  for data in (shapes.data, shapes.evals.test.data):
    assert "copy('shape','label')|keep" in data.pp
  with pytest.raises(ValueError, match="label=shape is for transfer"):
    config.get_config("cell=flexi,label=shape")


def make_curves():
  """Accuracies by cell and size for which every claim holds."""
  curve = dict(zip(SIZES, (0.7, 0.75, 0.78, 0.8), strict=True))
  better = {size: value + 0.01 for size, value in curve.items()}
  trained = {name: dict(curve) for name in cells.cells_by_name(SCALE)}
  trained["flexi"] |= dict.fromkeys(SCALE.outside, 0.78)
  for size in SIZES:
    trained[cells.few(size)] = {s: value - 0.05 for s, value in curve.items()}
  trained["distilled_from_teacher"] = trained["curriculum"] = better
  trained["made_flexible"] = better
  trained["transfer_fixed"] = {s: 0.7 if s == SIZES[0] else 0.3 for s in SIZES}
  tried = {
    (size, method, scaled): {
      s: 0.8 if size == s else 0.5
      for s in ({*SIZES, *SCALE.outside} if scaled else SIZES)
    }
    for size in (SIZES[0], SCALE.middle, SIZES[-1])
    for method in patch_embed.METHODS
    for scaled in (True, False)
  }
  tried[SIZES[-1], "pi", True] = dict.fromkeys((*SIZES, *SCALE.outside), 0.81)
  return trained, tried


def judge(trained, tried, **by_seed):
  """Judges seeds that differ, but all cells alike; `by_seed` has some else."""

  def spread(cell, size, value):
    values = by_seed.get(f"{cell}_at_{size}", [value + d for d in DIFFER])
    return seeds.spread(values)

  rows = [
    {"cell": c, "patch_size": s, "accuracy": spread(c, s, value)}
    for c, curve in trained.items()
    for s, value in curve.items()
  ]
  rows += [
    {
      "cell": cells.fixed(size),
      "patch_size": s,
      "resized_by": method,
      "image_resized": scaled,
      "accuracy": spread("", s, value),
    }
    for (size, method, scaled), curve in tried.items()
    for s, value in curve.items()
  ]
  return run.STUDY.judge("cpu", [0, 1, 2], rows).claims


def test_claims_follow_the_numbers():
  trained, tried = make_curves()
  claims = judge(trained, tried)
  assert [c["claim"] for c in claims if c["verdict"] != "yes"] == []
  assert claims[0]["measured"].startswith("15: +0.0")
  trained["flexi"][SIZES[0]] = 0.684
  claims = judge(trained, tried)
  assert claims[0]["measured"].startswith("15: -1.6")
  assert claims[0]["verdict"] == "no"
  # What differs as much from seed to seed is no gain.
  seeds_of_fine = {f"transfer_flexible_at_{SIZES[-1]}": [0.65, 0.7, 0.8]}
  *_, unclear, _ = judge(trained, tried, **seeds_of_fine)
  assert "(+1.7 ± 3.8)" in unclear["measured"]
  assert unclear["verdict"] == "undecided"


@pytest.mark.studies
def test_resized_models_are_those_of_the_forward_pass(tmp_path, monkeypatch):
  """By PI-resize; at their own size by every method."""
  scale = scales.dataclasses.replace(
    scales.SCALES["digits"], width=32, depth=1, batch_size=64
  )
  model = models.ViT(**recipe.model_section(scale, 6, 8), num_classes=10)
  image = jax.random.normal(jax.random.key(1), (2, 48, 48, 3))
  params = model.init(jax.random.key(0), image)["params"]
  small = resized._create_task(params, scale, resized.Trial(6, 12, False)).model
  changed = resized._resized(params, 12, "pi")
  np.testing.assert_allclose(
    small.apply({"params": changed}, image)[1]["encoded"],
    model.apply({"params": params}, image, patch_size=12)[1]["encoded"],
    atol=1e-5,
  )
  monkeypatch.setattr(checkpoint, "read_params", lambda run: params)
  rows = resized.evaluate(resized.Trial(6, 6, True), scale, [tmp_path])
  assert [row["method"] for row in rows] == list(patch_embed.METHODS)
  assert len({row["accuracies"][0] for row in rows}) == 1
