"""Image and text towers: trained on own pairs, evaluated, used and exported."""

import csv
import io
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export

from tests import image_text
from tokenlearner_flexivit import inference, interop, predict, train
from tokenlearner_flexivit.analysis import attention
from tokenlearner_flexivit.data import vocabulary
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.train import setup

LABELS = image_text.LABELS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  return image_text.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  train.train_and_evaluate(image_text.make_config(pairs), workdir)
  return workdir


@pytest.fixture(scope="module")
def predictor(run):
  return inference.Predictor.load(run)


def test_a_run_tells_recalls_and_zero_shot_accuracy(run):
  report = json.loads((run / "report.json").read_text())
  assert (report["headline"], report["num_examples"]) == ("R1", 12)
  for row in report["settings"]:
    assert row["R1"] == (row["i2t_R1"] + row["t2i_R1"]) / 2
    assert row["i2t_R10"] >= row["i2t_R5"] >= row["i2t_R1"]
  lines = (run / "metrics.jsonl").read_text().splitlines()
  logged = {key for line in lines for key in json.loads(line)}
  assert {"names/patch4/accuracy", "temperature"} <= logged
  about = json.loads((run / "about_data.json").read_text())
  assert interop.vocabulary(run) == about["vocabulary"]
  # By frequency, then by the alphabet.
  assert about["vocabulary"]["words"] == [
    *("a", "field", "all", "blue", "green", "red")
  ]


def test_similarity_is_that_of_the_embeddings(predictor):
  images = [
    np.full((12, 12, 3), c, np.uint8) for c in image_text.COLOURS.values()
  ]
  found = predictor.similarity([*images, b"no image"], LABELS, patch_size=6)
  z = np.stack([p.answer for p in predictor.predict(images, patch_size=6)])
  texts = predictor.embed_texts(LABELS)
  np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(found.cosines[:3], z @ texts.T, atol=1e-6)
  t = np.exp(predictor.trained.params["t"])
  np.testing.assert_allclose(found.logits[:3], t * z @ texts.T, rtol=1e-4)
  np.testing.assert_allclose(
    found.probabilities[:3], jax.nn.softmax(found.logits[:3]), rtol=1e-5
  )
  assert list(found.errors) == [3] and np.isnan(found.cosines[3]).all()
  labelled = predictor.predict(images, labels=LABELS, patch_size=6)
  for i, prediction in enumerate(labelled):
    assert prediction.labels[0].name == LABELS[found.logits[i].argmax()]
  with pytest.warns(match="reads 'A FIELD!' as 'a field', in its vocabulary"):
    predictor.predict(images, labels=["a field", "A FIELD!"], patch_size=6)
  with pytest.raises(ValueError, match="has no word"):
    predictor.embed_texts(["?"])
  with pytest.raises(ValueError, match="labels has 'a' more than once"):
    predictor.predict(images, labels=["a", "b", "a"])


def test_analyses_of_images_need_no_vocabulary(run, tmp_path, capsys):
  """The evaluation of pairs keeps the words of their captions, too."""
  output = tmp_path / "attention.png"
  attention.main([f"--workdir={run}", f"--output={output}", "--num_images=1"])
  assert capsys.readouterr().out.endswith(f"Maps of 1 image: {output}\n")
  assert output.is_file()


def test_a_run_needs_no_file_of_its_vocabulary(pairs, tmp_path):
  """It holds a SentencePiece model whole."""
  sentencepiece = pytest.importorskip("sentencepiece")
  file = tmp_path / "tiny.model"
  with file.open("wb") as model:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([*LABELS, "a field, all red"] * 8),
      model_writer=model,
      vocab_size=24,
      hard_vocab_limit=False,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      pad_id=0,
      minloglevel=2,
    )
  config, name = image_text.make_config(pairs), f"'sentencepiece:{file}'"
  config.data.pp = config.data.pp.replace("(6)", f"(6,{name})")
  pairs_data = config.evals.retrieval.data
  pairs_data.pp = pairs_data.pp.replace("'words'", name)
  about = json.loads(json.dumps(setup.Experiment(config).about_data))
  file.unlink()
  vocabulary._open_file.cache_clear()
  for known in (dict(before=about), dict(about_data=about)):
    again = setup.Experiment(config, **known).about_data
    assert again["vocabulary"] == about["vocabulary"]
  with pytest.raises(ValueError, match=r"data.pp: .* cannot be read: No such"):
    setup.Experiment(config)


def test_a_batch_with_a_pair_twice_is_refused(pairs, tmp_path):
  """It would be a wrong answer to itself."""
  config = image_text.make_config(pairs)
  config.batch_size = 16
  with pytest.raises(ValueError, match=r"batch_size=16, but there are 12 exam"):
    train.train_and_evaluate(config, tmp_path)


def test_classes_that_the_text_tower_reads_as_the_same(pairs):
  config = image_text.make_config(pairs)
  config.evals.names.class_names = ("red", "mauve", "puce")
  with (
    pytest.warns(match="No text of the training has 'mauve', 'puce'"),
    pytest.warns(match="reads 'puce' as 'mauve', .* at most 6 tokens"),
  ):
    setup.Experiment(config)
  # Cut before the words that tell them apart.
  config.evals.names.update(
    class_names=("a red", "a green", "blue"),
    templates=("a field a field {}", "all a field a {}"),
  )
  with pytest.warns(match="reads 'a green' as 'a red'"):
    setup.Experiment(config)


def test_own_labels_on_the_command_line(run, pairs, capsys):
  arguments = [str(pairs / "0.png"), f"--workdir={run}", "--patch_size=4"]
  labels = "--labels=a red field; a purple field"
  with (
    pytest.warns(match="No text of the training has 'purple', so the"),
    pytest.raises(SystemExit) as stopped,
  ):
    predict.main([*arguments, "--csv", labels, "--top_k=1"])
  assert stopped.value.code == 0
  (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
  assert row["name"] in ("a red field", "a purple field")
  with pytest.raises(SystemExit) as stopped:
    predict.main([*arguments, "--csv"])
  assert "--labels" in str(stopped.value)


def test_an_export_has_both_towers(predictor, tmp_path):
  trained = predictor.trained
  folder = tmp_path / "export"
  manifest = json.loads(export.write(trained, folder).read_text())
  program = manifest["further_programs"]["texts"]
  assert (program["shape"], program["dtype"]) == (["batch", 6], "int32")
  weights = safetensors.numpy.load_file(folder / manifest["weights"])
  texts = jax_export.deserialize((folder / program["file"]).read_bytes())
  tokens = trained.task.tokenize(LABELS)
  # By hand, as the README beside the program tells.
  ids = {w: i for i, w in enumerate(program["vocabulary"]["words"], start=3)}
  rows = [[*map(ids.get, text.split()), 1, 1, 1] for text in LABELS]
  np.testing.assert_array_equal(tokens, rows)
  embedded = predictor.embed_texts(LABELS)
  np.testing.assert_allclose(texts.call(weights, tokens), embedded, atol=1e-6)
  assert interop.vocabulary(folder) == trained.task.vocabulary.describe()
  again = inference.Predictor.load(folder)
  assert isinstance(again.trained.task.vocabulary, vocabulary.Words)
  np.testing.assert_allclose(again.embed_texts(LABELS), embedded, atol=1e-6)
  readme = (folder / "README.md").read_text(encoding="utf-8")
  assert "`texts.jax` takes int32 [batch, 6]" in readme
  assert "'words', which is in the manifest. The words of a text, in" in readme
  assert "the logit is exp(t) times as much" in readme
