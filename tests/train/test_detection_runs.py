"""Detection: trained on an own COCO export, evaluated, used and exported."""

import csv
import dataclasses
import io
import json

import chex
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export
from PIL import Image

from tests.conftest import make_config
from tokenlearner_flexivit import inference, models, predict, train
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.run import checkpoint, workdir
from tokenlearner_flexivit.tasks import detection
from tokenlearner_flexivit.train import setup

pytest.importorskip("pycocotools", reason="pip install pycocotools")
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def write_export(folder):
  """Eight grey images, 24 x 32, each with a red and a blue rectangle."""
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for number in range(8):
    pixels = np.full((24, 32, 3), 128, np.uint8)
    for category, colour in enumerate(COLOURS.values(), start=1):
      x, y = rng.integers(0, 12, 2).tolist()
      x += 16 * (category - 1)
      width, height = rng.integers(4, 8, 2).tolist()
      width = min(width, 16 * category - x)
      pixels[y : y + height, x : x + width] = colour
      annotations.append(
        {
          "id": len(annotations) + 1,
          "image_id": number,
          "category_id": category,
          "bbox": [x, y, width, height],
          "area": width * height,
          "iscrowd": 0,
        }
      )
    Image.fromarray(pixels).save(folder / f"{number}.png")
    name = f"{number}.png"
    images.append({"id": number, "file_name": name, "height": 24, "width": 32})
  categories = [{"id": i, "name": n} for i, n in enumerate(COLOURS, start=1)]
  content = {
    "images": images,
    "annotations": annotations,
    "categories": categories,
  }
  (folder / "_annotations.coco.json").write_text(json.dumps(content))
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
  config = make_config()
  config.batch_size, config.total_steps = 8, 2
  name, last = f"coco:{folder}", "value_range(-1,1)|keep('image'"
  seen = "decode{}|resize_keep(24{})|pad_to(24{})|"
  moved = "boxes='boxes'"
  config.data = dict(
    name=name,
    split="all",
    pp=seen.format("|objects(3)", f",{moved}", f",{moved}")
    + f"{last},'boxes','box_label')",
  )
  config.model = dict(
    variant="mu",
    depth=1,
    patch_size=(6, 6),
    posemb_grid=(4, 4),
    text=dict(width=16, depth=1, mlp_dim=16, num_heads=2, max_len=4),
  )
  config.flexi = dict(patch_size=dict(values=(8,)))
  config.task = dict(name="detection", held_out=("blue",), min_score=0.001)
  config.evals = dict(
    test=dict(
      type="detection",
      data=dict(
        name=name, split="all", pp=seen.format("", "", "") + f"{last},'valid')"
      ),
      truth="image_size|objects(3,details=True)"
      "|keep('size','boxes','box_label','box_area','box_crowd')",
      patch_sizes=(8, 6),
    )
  )
  workdir = tmp_path_factory.mktemp("run")
  train.train_and_evaluate(config, workdir)
  return workdir


@pytest.fixture(scope="module")
def predictor(run):
  return inference.Predictor.load(run)


def test_a_run_reports_precisions_and_draws_boxes(run):
  report = json.loads((run / "report.json").read_text())
  assert (report["headline"], report["num_examples"]) == ("AP", 8)
  for row in report["settings"]:
    assert {"AP50", "AP_small", "AR", "AP_novel", "AP_seen"} <= set(row)
    assert 0 <= row["AP"] <= row["AP50"] <= 1
    assert "AP_large" not in row  # No box is so large.
  assert "| AP % of |" in (run / "report.md").read_text().replace("  ", "")
  picture = np.asarray(Image.open(run / "detection.png"))
  assert min(picture.shape[:2]) > 300
  lines = (run / "metrics.jsonl").read_text().splitlines()
  logged = {key for line in lines for key in json.loads(line)}
  assert {"loss_box", "loss_giou", "loss_classes"} <= logged


def test_boxes_lie_in_the_original_image(predictor):
  """Wide, tall, and of another size than those of the training."""
  for height, width in ((24, 32), (90, 40), (33, 77)):
    image = np.full((height, width, 3), 128, np.uint8)
    (prediction,) = predictor.predict(image, patch_size=6)
    boxes = prediction.answer["boxes"]
    assert len(boxes) and (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(prediction.answer["scores"]) <= 0).all()


def test_other_names_are_other_queries(predictor):
  image = np.full((24, 32, 3), 128, np.uint8)
  (own,) = predictor.predict(image, patch_size=6)
  (same,) = predictor.predict(image, labels=["red", "blue"], patch_size=6)
  np.testing.assert_allclose(
    own.answer["scores"], same.answer["scores"], rtol=1e-5
  )
  (one,) = predictor.predict(image, labels=["blue"], patch_size=6)
  blue = own.answer["scores"][own.answer["labels"] == 1]
  np.testing.assert_allclose(one.answer["scores"], blue, rtol=1e-5)
  assert not one.answer["labels"].any()
  with pytest.raises(ValueError, match="names='red' must be a list"):
    predictor.looking_for("red")
  with pytest.raises(ValueError, match="names has 'red' more than once"):
    predictor.predict(image, labels=["red", "blue", "red"], patch_size=6)


def test_names_are_embedded_once_for_all_calls(predictor):
  """A call no longer has the text tower in its program."""
  task, image = predictor.trained.task, np.zeros((24, 32, 3), np.uint8)
  in_use = task.in_use(predictor.trained.params)
  batch = {"image": np.zeros((1, 12, 12, 3), np.float32)}
  setting = predictor.setting(patch_size=6)
  without = {k: v for k, v in in_use.items() if k != "txt"}
  embedded = task.predict(without, batch, setting)
  usual = task.predict(predictor.trained.params, batch, setting)
  chex.assert_trees_all_close(embedded, usual)
  (before,) = predictor.predict(image, patch_size=6)
  other = predictor.looking_for(["blue", "red"])
  assert other.trained.params.keys() == predictor.trained.params.keys()
  (after,) = other.predict(image, patch_size=6)
  np.testing.assert_allclose(before.answer["scores"], after.answer["scores"])


def count_traces(monkeypatch, cls, name):
  """Returns a list that gets an entry whenever a method is traced."""
  traced, method = [], getattr(cls, name)

  def counted(*args, **options):
    traced.append(name)
    return method(*args, **options)

  monkeypatch.setattr(cls, name, counted)
  return traced


def test_an_evaluation_embeds_names_once_for_all_batches(run, monkeypatch):
  """No program of the answers has the text tower in it."""
  experiment = setup.Experiment(
    workdir.read_config(run), workdir.read_about_data(run)
  )
  params = experiment.parallel.place(checkpoint.read_params(run))
  traced = count_traces(monkeypatch, models.OwlViT, "embed_texts")
  first = dict(experiment.evaluators["test"].run(params))
  assert dict(experiment.evaluators["test"].run(params)) == first
  experiment.evaluators["test"].throughput(params, repeats=1)
  assert len(traced) == 1
  reported = workdir.read_report(run)["settings"][0]
  np.testing.assert_allclose(first["patch8/AP"], reported["AP"], rtol=1e-6)


def test_a_setting_looks_at_examples_by_one_program(predictor, monkeypatch):
  image = np.full((24, 32, 3), 128, np.uint8)
  traced = count_traces(monkeypatch, detection.Detection, "embedding_in")
  for box in ((0, 0, 8, 8), (4, 4, 20, 20)):
    predictor.looking_for(["this"], [(image, box)], patch_size=8)
  assert len(traced) == 1


def test_things_that_look_like_an_example(predictor):
  """The query is the embedding of the prediction at the example's box."""
  image = np.full((24, 32, 3), 128, np.uint8)
  image[4:10, 20:28] = COLOURS["blue"]
  alike = predictor.looking_for(
    ["this"], [(image, (20, 4, 28, 10))], patch_size=6
  )
  (prediction,) = alike.predict(image, patch_size=6)
  best = prediction.answer
  assert len(best["scores"]) and not best["labels"].any()
  other = predictor.looking_for(["that"], [(image, (0, 0, 8, 8))], patch_size=6)
  (prediction,) = other.predict(image, patch_size=6)
  assert abs(prediction.answer["scores"] - best["scores"]).max() > 0
  with pytest.raises(ValueError, match="There are 1 examples for 2 names"):
    predictor.looking_for(["a", "b"], [(image, (0, 0, 8, 8))])


def test_the_command_line_writes_boxes_and_pictures(
  run, folder, tmp_path, capsys
):
  image = str(folder / "0.png")
  arguments = [image, f"--workdir={run}", "--patch_size=8"]
  for more in (
    ["--csv"],
    ["--detect=red;blue", f"--output={tmp_path / 'out'}"],
  ):
    with pytest.raises(SystemExit) as stopped:
      predict.main([*arguments, *more])
    assert stopped.value.code == 0
    if "--csv" in more:
      rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  assert rows and {row["class"] for row in rows} <= {"red", "blue"}
  written = json.loads((tmp_path / "out" / "0.json").read_text())
  assert [box["class"] for box in written] == [row["class"] for row in rows]
  for box, row in zip(written, rows, strict=True):
    assert box["xmax"] == pytest.approx(float(row["xmax"]), rel=1e-4)
  picture = np.asarray(Image.open(tmp_path / "out" / "0.png"))
  assert picture.shape[0] / picture.shape[1] == pytest.approx(24 / 32, rel=0.02)


def test_labels_are_names_to_find(run, folder, capsys):
  names, tables = "blue;red", []  # The training has another order.
  for flag in ("labels", "detect"):
    with pytest.raises(SystemExit) as stopped:
      predict.main(
        [
          *(str(folder / "0.png"), f"--workdir={run}", "--patch_size=8"),
          *(f"--{flag}={names}", "--csv"),
        ]
      )
    assert stopped.value.code == 0
    tables.append(capsys.readouterr().out)
  assert tables[0] == tables[1] and "blue" in tables[0]


def test_pictures_show_what_the_preprocessing_decodes(predictor, tmp_path):
  stored = tmp_path / "stored.jpg"
  exif = Image.Exif()
  exif[0x0112] = 6  # Viewers turn it by a quarter.
  Image.new("RGB", (32, 24)).save(stored, exif=exif)
  dark = tmp_path / "dark.png"
  Image.fromarray(np.full((24, 32), 2000, np.uint16)).save(dark)
  trained = predictor.trained
  pp = trained.pp.replace("decode", "decode(exif=False,bits=12)", 1)
  file = tmp_path / "model.safetensors"
  dataclasses.replace(trained, pp=pp).save(file)
  with pytest.raises(SystemExit) as stopped:
    predict.main(
      [
        *(str(stored), str(dark), f"--workdir={file}", "--patch_size=8"),
        f"--output={tmp_path / 'out'}",
      ]
    )
  assert stopped.value.code == 0
  for name in ("stored", "dark"):
    picture = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
    assert picture.shape[1] / picture.shape[0] == pytest.approx(32 / 24)


def test_an_export_answers_with_boxes(predictor, tmp_path):
  folder = tmp_path / "export"
  manifest = json.loads(export.write(predictor.trained, folder).read_text())
  file = folder / manifest["settings"][0]["file"]
  weights = safetensors.numpy.load_file(folder / manifest["weights"])
  program = jax_export.deserialize(file.read_bytes())
  answer = program.call(weights, np.zeros((2, 24, 24, 3), np.float32))
  assert answer["boxes"].shape[0] == 2 and answer["boxes"].shape[2] == 4
  again = inference.Predictor.load(folder)
  assert again.trained.task.class_names == ("red", "blue")
