"""Predictions: those of the evaluation, for any images, within a budget."""

import dataclasses
import pickle
import shutil

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from tests.inference.conftest import NAMES
from tests.inference.test_export import build
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.inference import Predictor, profile

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 12, 12, 3), np.uint8)
SMALL, LARGE = dials.Setting((6, 6), 2), dials.Setting((3, 3), "all")


def test_logits_are_those_of_the_evaluation(parts, predictor):
  section = parts.config["evals"]["test"]["data"]
  source = data_lib.open_source(section)
  batch = next(iter(data_lib.eval_batches(section, batch_size=8)))
  prepared, errors = predictor.preprocess(
    [source[i]["image"] for i in range(8)]
  )
  assert not errors
  chex.assert_trees_all_equal(prepared, batch["image"])
  evaluate = jax.jit(parts.task.predict, static_argnums=2)
  for setting in (SMALL, LARGE):
    params = predictor.trained.params
    expected = evaluate(params, {"image": batch["image"]}, setting)
    found = predictor.forward(prepared, setting)
    chex.assert_trees_all_close(found.logits, np.asarray(expected), rtol=1e-5)
    chex.assert_trees_all_close(
      found.probabilities, np.asarray(jax.nn.softmax(expected)), rtol=1e-5
    )


def test_the_best_classes_come_first_and_by_name(predictor):
  images = IMAGES[:4]
  logits = predictor.forward(predictor.preprocess(images)[0], SMALL).logits
  predictions = predictor.predict(images, 6, 2, top_k=3)
  assert len(predictions) == 4
  for row, prediction in zip(logits, predictions, strict=True):
    assert prediction.setting == SMALL
    indices = [label.index for label in prediction.labels]
    assert indices == np.argsort(-row)[:3].tolist()
    names = [label.name for label in prediction.labels]
    assert names == [NAMES[i] for i in indices]
  (everything,) = predictor.predict(IMAGES[0], 6, 2, top_k=9)
  assert sum(label.probability for label in everything.labels) == pytest.approx(
    1
  )


def test_with_a_sigmoid_every_class_has_its_own_probability(predictor):
  sigmoid = Predictor(
    dataclasses.replace(predictor.trained, loss="sigmoid_xent")
  )
  found = sigmoid.forward(np.zeros((1, 12, 12, 3), np.float32), SMALL)
  chex.assert_trees_all_close(
    found.probabilities, 1 / (1 + np.exp(-found.logits)), rtol=1e-5
  )


def test_other_numbers_of_images_need_no_other_programs(run, monkeypatch):
  predictor = Predictor.load(run, max_batch=4)
  compiled, compile_ = [], jax.stages.Lowered.compile

  def counting(*args, **kwargs):
    compiled.append(args)
    return compile_(*args, **kwargs)

  monkeypatch.setattr(jax.stages.Lowered, "compile", counting)
  images = np.concatenate([IMAGES, IMAGES])
  prepared, _ = predictor.preprocess(images)
  one_by_one = [predictor.forward(image[None], SMALL) for image in prepared]
  for number in range(1, 13):
    found = predictor.forward(prepared[:number], SMALL)
    chex.assert_trees_all_close(
      found.logits,
      np.concatenate([o.logits for o in one_by_one[:number]]),
      rtol=1e-4,
      atol=1e-5,
    )
    assert len(predictor.predict(images[:number], 6, 2)) == number
  assert len(compiled) == 3  # For 1, 2 and 4 images.


def test_bad_images_lose_no_others(predictor):
  bad = [b"nothing", "nowhere.png", IMAGES[0] / 255, Image.new("I", (2, 2))]
  mixed = [IMAGES[0], bad[0], *bad, IMAGES[1]]
  found = predictor.predict(mixed, 6, 2)
  good = predictor.predict(IMAGES[:2], 6, 2)
  for one, other in zip((found[0], found[-1]), good, strict=True):
    for label, expected in zip(one.labels, other.labels, strict=True):
      assert label[:2] == expected[:2]
      assert label.probability == pytest.approx(expected.probability, 1e-4)
  for prediction, words in zip(
    found[2:-1],
    ("no image of", "No such file", "float64, not uint8", "mode 'I'"),
    strict=True,
  ):
    assert words in prediction.error and not prediction.labels
  embedded = predictor.embed(mixed, 6, 2)
  assert list(embedded.errors) == [1, 2, 3, 4, 5]
  chex.assert_shape(embedded.vectors, (7, 16))
  assert np.isnan(embedded.vectors[1:-1]).all()
  outputs = predictor.forward(predictor.preprocess(IMAGES[:2])[0], SMALL)
  chex.assert_trees_all_close(
    embedded.vectors[[0, -1]], outputs.pre_logits, rtol=1e-4, atol=1e-5
  )
  assert all(p.error for p in predictor.predict(bad, 6, 2))
  with pytest.raises(ValueError, match="at least one"):
    predictor.predict([])


def test_a_dial_that_is_not_given_is_at_its_most_accurate(predictor):
  assert predictor.setting() == LARGE
  assert predictor.setting(patch_size=6) == dials.Setting((6, 6), "all")
  assert predictor.setting(num_tokens=2) == dials.Setting((3, 3), 2) != SMALL
  rows = [dict(row) for row in predictor.trained.recorded]
  rows[1]["accuracy"] = 0.95
  changed = Predictor(
    dataclasses.replace(predictor.trained, recorded=tuple(rows))
  )
  assert changed.setting() == dials.Setting((6, 6), "all")
  rows[3]["accuracy"] = 0.95  # As good, but dearer.
  equal = Predictor(dataclasses.replace(changed.trained, recorded=tuple(rows)))
  assert equal.setting() == dials.Setting((6, 6), "all")
  unknown = Predictor(dataclasses.replace(predictor.trained, recorded=()))
  assert unknown.setting() == LARGE  # The dearest.


def test_settings_the_model_was_not_trained_for(predictor):
  with pytest.warns(UserWarning, match="nor evaluated for patch4_tok3.*patch6"):
    assert predictor.setting(4, 3) == dials.Setting((4, 4), 3)
  with pytest.raises(ValueError, match=r"5.*1, 2, 3, 4, 6, 12.*patch6_tok2"):
    predictor.predict(IMAGES, patch_size=5)
  with pytest.raises(ValueError, match=r"num_tokens=4 .* 1 to 3"):
    predictor.predict(IMAGES, num_tokens=4)
  with pytest.raises(ValueError, match="not both"):
    predictor.predict(IMAGES, patch_size=6, budget_ms=5)
  for number in (0, 1.5, True):
    with pytest.raises(ValueError, match="top_k must be"):
      predictor.predict(IMAGES, top_k=number)


def test_the_number_of_all_learned_tokens_is_the_models_own(predictor):
  settings = tuple(dials.Setting(size) for size in ((6, 6), (3, 3)))
  one_dial = Predictor(
    dataclasses.replace(predictor.trained, settings=settings)
  )
  assert one_dial.setting(6, 3) == dials.Setting((6, 6))


def test_a_profile_has_all_settings_and_lets_choose(predictor, tmp_path):
  rows = predictor.profile(repeats=2)
  assert [dials.Setting.from_row(row) for row in rows] == list(
    predictor.trained.settings
  )
  for row, recorded in zip(rows, predictor.trained.recorded, strict=True):
    assert row["batch_size"] == 1
    assert row["accuracy"] == recorded["accuracy"]
    assert row["gmacs"] == pytest.approx(recorded["gmacs"])
    assert 0 < row["latency_ms_p10"] <= row["latency_ms"]
    assert row["latency_ms"] <= row["latency_ms_p90"]
    # At least the parameters and the image.
    params = sum(x.nbytes for x in jax.tree.leaves(predictor.trained.params))
    assert row["memory_bytes"] > params + 12 * 12 * 3 * 4
  path = tmp_path / "profile.json"
  profile.write(rows, path)
  assert profile.read(path) == rows
  table = profile.markdown(rows)
  assert len(table.splitlines()) == 6 and "90.00" in table


def test_a_profile_is_of_full_programs(predictor):
  (row,) = predictor.profile([SMALL], batch_size=3, repeats=1)
  assert row["batch_size"] == 4
  assert row["images_per_s"] == pytest.approx(4e3 / row["latency_ms"])


def _rows(predictor, size, latencies):
  """A profile of calls of `size` images, made up."""
  return [
    {
      **setting.row,
      "batch_size": size,
      "gmacs": row["gmacs"],
      "latency_ms_p90": latency,
    }
    for setting, row, latency in zip(
      predictor.trained.settings,
      predictor.trained.recorded,
      latencies,
      strict=True,
    )
  ]


def test_the_budget_chooses_by_the_time_of_so_many_images(predictor):
  fresh = Predictor(predictor.trained, max_batch=4)
  # Settings are patch size 6 with 2 and all tokens, then 3; the best last.
  fresh.remember(_rows(predictor, 1, (1.0, 2.0, 3.0, 8.0)))
  (found,) = fresh.predict(IMAGES[0], budget_ms=4)
  assert found.setting == dials.Setting(
    (6, 6), "all"
  )  # More accurate than 3 with 2.
  assert fresh.choose(budget_ms=9) == LARGE
  assert fresh.choose(min_accuracy=0.6) == dials.Setting((6, 6), "all")
  with pytest.raises(ValueError, match=r"=0.5.*patch6_tok2, needs 1 "):
    fresh.predict(IMAGES[0], budget_ms=0.5)
  # Nine images are two calls of four and one of one.
  fresh.remember(_rows(predictor, 4, (2.0, 3.0, 5.0, 10.0)))
  assert fresh.choose(budget_ms=7, num_images=9) == SMALL
  assert fresh.choose(budget_ms=8, num_images=9) == dials.Setting((6, 6), "all")
  # Seven are two of four.
  assert fresh.choose(budget_ms=19, num_images=7) == dials.Setting(
    (6, 6), "all"
  )
  assert fresh.choose(budget_ms=20, num_images=7) == LARGE
  assert fresh.choose(budget_ms=10, num_images=3) == LARGE
  with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
    fresh.choose(budget_ms=10, num_images=0)


def test_operations_count_twice_the_multiply_adds(predictor):
  gmacs = [row["gmacs"] for row in predictor.trained.recorded]
  found = predictor.choose(gflops=2 * gmacs[1])
  assert found == predictor.trained.settings[1]
  assert predictor.choose(gmacs=gmacs[1]) == found
  with pytest.raises(ValueError, match="gmacs or gflops"):
    predictor.choose(gmacs=1, gflops=1)
  with pytest.raises(ValueError, match="patch6_tokall, needs"):
    predictor.choose(gflops=gmacs[1])


def _evaluated(predictor, values, headline="accuracy", settings=((6, 6),)):
  """A predictor of a run that trained little and evaluated all.

  Args:
    predictor: of the weights.
    values: of the evaluated patch sizes 6, 4 and 3.
    headline: the metric.
    settings: patch sizes of the training.
  """
  rows = tuple(
    {"patch_size": size, "num_tokens": None, headline: value}
    for size, value in zip((6, 4, 3), values, strict=True)
  )
  return Predictor(
    dataclasses.replace(
      predictor.trained,
      settings=tuple(map(dials.Setting, settings)),
      recorded=rows,
      headline=headline,
    ),
    max_batch=4,
  )


def test_evaluated_settings_are_known_though_not_trained(predictor, recwarn):
  """As of a fine-tuning on a coarse grid, whose patches are chosen later."""
  found = _evaluated(predictor, (0.5, 0.6, 0.9))
  assert found.setting() == dials.Setting((3, 3))
  assert found.choose(gmacs=100) == dials.Setting((3, 3))
  middle = 2 * found._known.gmacs(dials.Setting((4, 4)))
  assert found.choose(gflops=middle) == dials.Setting((4, 4))
  latencies = [
    dict(s.row, batch_size=1, gmacs=found._known.gmacs(s), latency_ms_p90=ms)
    for s, ms in zip(found.trained.known_settings, (1, 2, 3), strict=True)
  ]
  found.remember(latencies)
  assert found.choose(min_accuracy=0.55) == dials.Setting((4, 4))
  assert found.choose(min_accuracy=0.8) == dials.Setting((3, 3))
  assert found.choose(budget_ms=2.5) == dials.Setting((4, 4))
  assert found.setting(3) == dials.Setting((3, 3))  # And not a warning.
  assert not recwarn.list
  with pytest.warns(UserWarning, match=r"patch2, .* for patch6, and evaluated"):
    found.setting(2)


def test_trained_and_evaluated_settings_that_differ(predictor):
  """A request takes one of these, if one of them fits."""
  found = _evaluated(predictor, (0.5, 0.6, 0.9), settings=((12, 12),))
  assert found.trained.known_settings[-1] == dials.Setting((12, 12))
  rows = tuple({**row, "num_tokens": 2} for row in found.trained.recorded)
  mixed = Predictor(dataclasses.replace(found.trained, recorded=rows))
  assert mixed.setting(12) == dials.Setting((12, 12))
  assert mixed.setting(num_tokens=2) == dials.Setting((3, 3), 2)


def test_patch_sizes_of_the_training_that_the_evaluation_cannot_have(
  predictor,
):
  """As of a training at another resolution than that of the evaluation."""
  found = _evaluated(predictor, (0.5, 0.6, 0.9), settings=((8, 8), (6, 6)))
  assert dials.Setting((8, 8)) not in found.trained.known_settings
  assert found.setting() == dials.Setting((3, 3))
  with pytest.raises(ValueError, match=r"8x8 does not divide .* 12x12"):
    found.setting(8)
  trained = dataclasses.replace(
    found.trained, settings=(dials.Setting((8, 8)),), recorded=()
  )
  with pytest.raises(ValueError, match=r"No patch size .* trained for patch8"):
    Predictor(trained).setting()


def test_another_metric_than_accuracy(predictor):
  found = _evaluated(predictor, (0.5, 0.6, 0.9), headline="mAP")
  assert found.choose(gmacs=100) == dials.Setting((3, 3))
  found.remember(
    [
      dict(s.row, batch_size=1, gmacs=found._known.gmacs(s), latency_ms_p90=1.0)
      for s in found.trained.known_settings
    ]
  )
  assert found.choose(min_accuracy=0.55) == dials.Setting(
    (4, 4)
  )  # The cheaper.
  with pytest.raises(ValueError, match=r"here the mAP.*patch3, has mAP 0.9000"):
    found.choose(min_accuracy=0.95)
  (row,) = found.profile([dials.Setting((3, 3))], repeats=1)
  assert (row["mAP"], row["accuracy"]) == (0.9, None)
  assert "| mAP % |" in profile.markdown(
    [row], "mAP", Metric("mAP", "%")
  ).replace("  ", "")
  unknown = Predictor(dataclasses.replace(found.trained, recorded=()))
  with pytest.raises(ValueError, match="no report with mAP"):
    unknown.choose(gmacs=1)


def test_a_predictor_can_be_pickled(predictor):
  fresh = Predictor(predictor.trained, max_batch=2)
  fresh.remember(_rows(fresh, 1, (1.0, 2.0, 3.0, 8.0)))
  again = pickle.loads(pickle.dumps(fresh))
  assert again.choose(budget_ms=4) == fresh.choose(budget_ms=4)
  for one, other in zip(
    again.predict(IMAGES[:3], 6, 2),
    fresh.predict(IMAGES[:3], 6, 2),
    strict=True,
  ):
    assert one == other


def test_parameters_are_not_copied_for_a_loop_over_blocks():
  """A model with `scan` holds no stacks beside its parameters."""
  model = dict(width=64, mlp_dim=256, depth=4, token_learner=None, scan=True)
  looped = Predictor(build(recorded=(), **model))
  assert looped.trained.model_section["scan"]
  setting = dials.Setting((6, 6))
  program = looped._programs._program(setting, 1)
  size = sum(x.nbytes for x in jax.tree.leaves(looped.trained.params))
  assert program.memory_analysis().temp_size_in_bytes < size / 2


def test_without_a_report_there_is_no_best_setting(predictor):
  unknown = Predictor(dataclasses.replace(predictor.trained, recorded=()))
  with pytest.raises(ValueError, match="--mode=eval"):
    unknown.choose(gflops=1)


def test_profiles_of_other_models_and_machines_are_refused(predictor, tmp_path):
  path = tmp_path / "profile.json"
  rows = _rows(predictor, 1, (1.0, 2.0, 3.0, 8.0))
  with pytest.raises(ValueError, match="another model"):
    predictor.remember([{**rows[0], "gmacs": 1.0}])
  profile.write(rows, path)
  path.write_text(path.read_text().replace('"hardware": "', '"hardware": "x'))
  with pytest.raises(ValueError, match="measured on 'x"):
    profile.read(path)
  path.write_text("{}")
  with pytest.raises(ValueError, match="no profile"):
    profile.read(path)
  for kwargs, words in (
    (dict(batch_size=5), "batch_size=5 must be 1 to max_batch=4"),
    (dict(repeats=0), "repeats must be at least 1, got 0"),
    (dict(batch_size=2.5), "batch_size must be a whole number, got 2.5"),
  ):
    with pytest.raises(ValueError, match=words):
      predictor.profile(**kwargs)


def test_nothing_to_load_is_told(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    Predictor.load(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="holds no run and no exported"):
    Predictor.load(tmp_path)
  for name in ("config.json", "about_data.json"):
    shutil.copy(run / name, tmp_path)
  with pytest.raises(ValueError, match="holds no checkpoint"):
    Predictor.load(tmp_path)
  for number in (0, 2.0):
    with pytest.raises(ValueError, match="max_batch must be"):
      Predictor.load(run, max_batch=number)


def test_a_file_predicts_as_its_run_does(predictor, tmp_path):
  path = tmp_path / "model.safetensors"
  predictor.trained.save(path)
  other = Predictor.load(path, max_batch=4)
  assert other.predict(IMAGES[:4], 6, 2) == predictor.predict(IMAGES[:4], 6, 2)
