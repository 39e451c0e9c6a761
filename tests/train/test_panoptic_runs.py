"""Panoptic segmentation: both stages on a COCO folder, used and exported."""

import csv
import io
import json
import shutil

import ml_collections
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export
from PIL import Image

from tests.conftest import make_config, write_untrained
from tokenlearner_flexivit import inference, predict, train
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.train import setup

SIDE = 16
MASKS = "masks=('semantic','instances')"
IDS = "decode_ids(rgb=True,key='panoptic_image')"
CODER = dict(
  num_instances=4,
  width=8,
  encoder_depth=1,
  decoder_depth=1,
  mlp_dim=8,
  num_heads=1,
  patch_size=4,
  posemb_grid=4,
  code_grid=2,
  quantizer="vq",
  num_words=6,
  word_dim=3,
)
MODEL = dict(
  variant="mu", depth=1, decoder_depth=1, patch_size=4, posemb_grid=4
)


def write_panoptic(root):
  """Eight images 12 x 16 of a red rectangle on blue, in COCO's layout."""
  notes = root / "annotations"
  (notes / "panoptic_train2017").mkdir(parents=True)
  (root / "train2017").mkdir()
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for number in range(1, 9):
    y, x = rng.integers(0, 5, 2).tolist()
    pixels = np.full((12, 16, 3), (30, 30, 220), np.uint8)
    ids = np.full((12, 16), 70000, np.int32)
    pixels[y : y + 6, x : x + 8] = 220, 30, 30
    ids[y : y + 6, x : x + 8] = 9
    ids[11] = 0  # Void.
    Image.fromarray(pixels).save(root / "train2017" / f"{number}.png")
    colours = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1)
    Image.fromarray(colours.astype(np.uint8)).save(
      notes / "panoptic_train2017" / f"{number}.png"
    )
    file = {"id": number, "file_name": f"{number}.png"}
    images.append({**file, "height": 12, "width": 16})
    segments = [
      {"id": 9, "category_id": 5, "bbox": [x, y, 8, 6], "area": 48},
      {"id": 70000, "category_id": 90, "bbox": [0, 0, 16, 11], "area": 128},
    ]
    annotations.append(
      {
        "image_id": number,
        "file_name": f"{number}.png",
        "segments_info": [{**s, "iscrowd": 0} for s in segments],
      }
    )
  content = {
    "images": images,
    "annotations": annotations,
    "categories": [
      {"id": 5, "name": "ball", "isthing": 1},
      {"id": 90, "name": "sky", "isthing": 0},
    ],
  }
  (notes / "panoptic_train2017.json").write_text(json.dumps(content))
  return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_panoptic(tmp_path_factory.mktemp("coco"))


def config_for(folder, **evaluation):
  """Returns a config of two steps, without model and task."""
  config = make_config()
  config.batch_size, config.total_steps = 8, 2
  pp = (
    f"{IDS}|decode(masks='panoptic_image')|panoptic|resize({SIDE},{MASKS})"
    "|canonical(3)|value_range(-1,1)|keep('image','semantic','instances')"
  )
  data = dict(name=f"coco:{folder}", split="train", num_threads=1)
  config.data = dict(**data, pp=pp)
  config.evals = dict(
    test=dict(
      type="panoptic",
      data=dict(**data, pp=pp),
      truth=f"{IDS}|panoptic(crowds=True)"
      "|pad_to(20,key='semantic',masks=('instances','crowd'))"
      "|keep('semantic','instances','crowd','valid')",
      **evaluation,
    )
  )
  config.flexi = None
  return config


@pytest.fixture(scope="module")
def coder(folder, tmp_path_factory):
  config = config_for(folder)
  config.model = CODER
  config.task = dict(name="panoptic_code", commitment=0.25)
  workdir = tmp_path_factory.mktemp("coder")
  state, _ = train.train_and_evaluate(config, workdir)
  # Decayed twice, and 32 words counted in each of two steps.
  counts = np.asarray(state.params["codebook"]["counts"])
  expected = 6 * 0.995**2 + 32 * (1 + 0.995)
  np.testing.assert_allclose(counts.sum(), expected, rtol=1e-5)
  return workdir


@pytest.fixture(scope="module")
def run(folder, coder, tmp_path_factory):
  config = config_for(folder, patch_sizes=(8, 4))
  config.model = dict(**MODEL, coder=str(coder))
  config.flexi = dict(patch_size=dict(values=(8,)))
  config.task = dict(name="panoptic")
  workdir = tmp_path_factory.mktemp("run")
  state, _ = train.train_and_evaluate(config, workdir)
  from tokenlearner_flexivit.run import checkpoint

  stage_one = checkpoint.read_params(coder)["embedding_semantics"]["kernel"]
  kept = state.params["label_coder"]["embedding_semantics"]["kernel"]
  np.testing.assert_array_equal(kept, stage_one)
  return workdir


@pytest.fixture(scope="module")
def predictor(run):
  return inference.Predictor.load(run)


def test_stage_one_reports_what_the_code_keeps(coder):
  report = json.loads((coder / "report.json").read_text())
  assert (report["headline"], report["num_examples"]) == ("PQ", 8)
  (row,) = report["settings"]
  assert {"PQ", "SQ_things", "RQ_stuff", "PQ_ball", "PQ_sky"} <= set(row)
  assert np.asarray(Image.open(coder / "panoptic.png")).shape[0] > 200
  lines = (coder / "metrics.jsonl").read_text().splitlines()
  logged = {key for line in lines for key in json.loads(line)}
  assert {"loss_semantics", "loss_instances", "codes_used"} <= logged
  assert not any("words" in key for key in logged)
  with pytest.raises(ValueError, match="encodes true labels"):
    inference.Predictor.load(coder).predict(np.zeros((9, 9, 3), np.uint8))


def test_stage_two_reports_the_ceiling_of_its_coder(run, coder):
  report = json.loads((run / "report.json").read_text())
  (code,) = json.loads((coder / "report.json").read_text())["settings"]
  assert [row["patch_size"] for row in report["settings"]] == [8, 4]
  for row in report["settings"]:
    assert row["ceiling"] == pytest.approx(code["PQ"], rel=1e-6)
    assert 0 <= row["PQ"] <= 1
  assert "PQ % of" in (run / "report.md").read_text()
  assert np.asarray(Image.open(run / "panoptic.png")).shape[0] > 200


def test_a_run_goes_on_without_its_coder(run, tmp_path, capsys):
  """Checkpoints hold its weights, and the workdir what it is."""
  workdir = shutil.copytree(run, tmp_path / "run")
  config = json.loads((workdir / "config.json").read_text())
  config["model"]["coder"] = str(tmp_path / "gone")
  config = ml_collections.ConfigDict(config)
  _, history = train.train_and_evaluate(config, workdir)
  assert history[-1]["step"] == 2
  said = capsys.readouterr().out
  assert "Not read again after the first checkpoint: config.model.coder" in said
  about, before = (
    json.loads((path / "about_data.json").read_text())
    for path in (workdir, run)
  )
  assert about == before
  # Nor is it needed by an evaluation that names another place.
  results = train.evaluate(config, workdir)
  assert results["test"]["patch8/PQ"] == history[-1]["test/patch8/PQ"]


def test_another_coder_is_refused(folder, coder, tmp_path):
  """One that is described in the config is no other place of the same."""
  config = config_for(folder)
  config.task = dict(name="panoptic")
  for before, message in (
    (CODER, r"a different config .*\n  config\.model\.coder\.width: 8 -> 16"),
    (str(coder), r"on other data .*\n  coder: .*'width': 8.* -> .*'width': 16"),
  ):
    config.model = dict(**MODEL, coder=before)
    workdir = tmp_path / type(before).__name__
    write_untrained(setup.Experiment(config), workdir)
    config.model = dict(**MODEL, coder={**CODER, "width": 16})
    with pytest.raises(ValueError, match=message):
      train.train_and_evaluate(config, workdir)


def test_segments_have_the_size_of_the_original_image(predictor):
  for height, width in ((12, 16), (33, 20)):
    image = np.full((height, width, 3), 128, np.uint8)
    (prediction,) = predictor.predict(image, patch_size=8)
    answer = prediction.answer
    assert answer["segments"].shape == (height, width)
    assert answer["segments"].max() == len(answer["classes"])
    assert set(answer["classes"].tolist()) <= {0, 1}


def test_the_command_line_writes_segments_and_a_picture(
  run, folder, tmp_path, capsys
):
  image = str(folder / "train2017" / "1.png")
  arguments = [image, f"--workdir={run}", "--patch_size=8"]
  for more in (f"--output={tmp_path / 'out'}", "--csv"):
    with pytest.raises(SystemExit) as stopped:
      predict.main([*arguments, more])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
  rows = list(csv.DictReader(io.StringIO(shown)))
  written = json.loads((tmp_path / "out" / "1.json").read_text())
  ids = np.asarray(Image.open(tmp_path / "out" / written["file_name"]))
  segments = written["segments_info"]
  assert len(segments) == len(rows)
  for segment in segments:
    x, y, width, height = segment["bbox"]
    inside = ids[y : y + height, x : x + width, 0] == segment["id"]
    assert inside.sum() == (ids[..., 0] == segment["id"]).sum()
    assert inside.sum() == segment["area"]
  picture = np.asarray(Image.open(tmp_path / "out" / "1.png"))
  assert picture.shape[0] / picture.shape[1] == pytest.approx(12 / 16, rel=0.02)


def test_an_export_answers_with_segments(predictor, coder, tmp_path):
  folder = tmp_path / "export"
  settings = [predictor.setting(patch_size=8)]
  manifest = export.write(predictor.trained, folder, settings)
  manifest = json.loads(manifest.read_text())
  file = folder / manifest["settings"][0]["file"]
  weights = safetensors.numpy.load_file(folder / manifest["weights"])
  program = jax_export.deserialize(file.read_bytes())
  answer = program.call(weights, np.zeros((2, SIDE, SIDE, 3), np.float32))
  assert answer["segments"].shape == (2, SIDE, SIDE)
  assert answer["classes"].shape == (2, 1 + 4 + 2)
  for path in folder.iterdir():  # Nobody else has the coder's run.
    assert str(coder).encode() not in path.read_bytes()
  again = inference.Predictor.load(folder)
  assert again.trained.task.class_names == ["ball", "sky"]
