"""Captions of sources on their way to tokens, and mirrored images."""

import json
import logging
import pickle

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import captions, settings

features = tfds.features
PIXELS = np.zeros((4, 5, 3), np.uint8)
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()
PP = "decode|choice|tokenize(4)|keep('image','tokens')"
ALL = "decode|tokenize_all(4,'words',3)|keep('image','texts','text_mask')"
CAPTIONS = [["A cat.", "a cat on the left"], ["A dog", "two dogs", "DOGS"]]


class Captioned(tfds.core.GeneratorBasedBuilder):
  """Has the captions of TFDS's coco_captions."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = None

  def _info(self):
    captions = features.Sequence({"id": np.int64, "text": features.Text()})
    return tfds.core.DatasetInfo(
      builder=self,
      features=features.FeaturesDict(
        {"image": features.Image(encoding_format="png"), "captions": captions}
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i, texts in enumerate(CAPTIONS):
      listed = [{"id": j, "text": text} for j, text in enumerate(texts)]
      yield i, {"image": PNG, "captions": listed}


def tfds_folder(folder):
  Captioned(data_dir=folder, file_format="array_record").download_and_prepare()
  return {"name": "captioned:1.0.0", "data_dir": str(folder)}


def coco_folder(folder, captions=CAPTIONS):
  images, notes = [], []
  (folder / "train2017").mkdir()
  for i, texts in enumerate(captions):
    cv2.imwrite(str(folder / "train2017" / f"{i}.png"), PIXELS)
    images.append({"id": i, "file_name": f"{i}.png"})
    notes += [{"image_id": i, "caption": text, "id": 0} for text in texts]
  (folder / "annotations").mkdir()
  path = folder / "annotations" / "captions_train2017.json"
  path.write_text(json.dumps({"images": images, "annotations": notes}))
  return {"name": f"coco:{folder}"}


@pytest.mark.parametrize("make", [tfds_folder, coco_folder])
def test_captions_of_folders(make, tmp_path):
  section = {**make(tmp_path), "split": "train", "pp": PP}
  source = data.open_source(section)
  texts = [text for texts in CAPTIONS for text in texts]
  assert sorted(data.captions_of(source)) == sorted(texts)
  words = data.make_vocabulary(PP, source)
  assert words.words[:2] == ("a", "cat")
  section["vocabulary"] = words.describe()
  assert data.peek(section)["tokens"].shape == (4,)
  example = data.peek({**section, "pp": ALL})
  assert example["texts"].shape == (3, 4)
  assert example["text_mask"].sum() in (2, 3)
  with pytest.raises(ValueError, match="have no 'title', only captions, i"):
    list(data.captions_of(source, "title"))


def scenes(tfds_dir, pp):
  section = {"name": "rendered_scenes/tiny", "split": "validation"}
  return {**section, "data_dir": tfds_dir, "pp": pp}


def test_captions_of_rendered_scenes(tfds_dir):
  pp = "decode|tokenize(24)|keep('image','tokens')"
  section = scenes(tfds_dir, pp)
  source = data.open_source(section)
  words = data.make_vocabulary(pp, source)
  section["vocabulary"] = words.describe()
  tokens = data.peek(section)["tokens"]
  (text,) = data.text_ops.texts_in(source[0]["caption"])
  np.testing.assert_array_equal(tokens, words.tokens(text, 24))
  assert 2 not in tokens


def test_a_pipeline_needs_the_words_when_it_is_opened(tfds_dir):
  section = scenes(tfds_dir, "decode|tokenize(24)|keep('image','tokens')")
  # Before the data are opened nobody can know them.
  data.check_section(section, "config.data")
  for function in (data.train_batches, data.eval_batches):
    options = {"seed": 0} if function is data.train_batches else {}
    with pytest.raises(
      ValueError, match=r"^config.data.pp: tokenize\(24\): The"
    ):
      function(section, batch_size=2, where="config.data", **options)
  with pytest.raises(ValueError, match=r"^config.data.vocabulary: A vocab"):
    data.check_section({**section, "vocabulary": 3}, "config.data")
  file = {**section, "pp": "tokenize(8,'sentencepiece:/nowhere')"}
  with pytest.raises(ValueError, match="'sentencepiece:/nowhere' cannot be"):
    data.check_section(file, "config.data")


def test_texts_are_no_entry_of_a_batch(tfds_dir):
  section = scenes(tfds_dir, "decode|keep('image','caption')")
  with pytest.raises(ValueError, match=r"make tokens of a text by tokenize"):
    data.peek(section)


def test_processes_get_the_vocabulary(tmp_path):
  section = {**coco_folder(tmp_path), "split": "train", "pp": PP}
  parsed = settings.Settings.from_config(
    {**section, "vocabulary": ["a", "cat"]}, "data"
  )
  make = pickle.loads(pickle.dumps(parsed.make_example(None, "data")))
  example, _ = make(0, np.random.default_rng(0))
  assert example["tokens"].shape == (4,)


def test_captions_without_words_are_left_out(tmp_path):
  section = coco_folder(tmp_path, [["a cat"], ["..."], ["a dog"]])
  section |= {"split": "train", "pp": PP, "num_threads": 0}
  section["vocabulary"] = ["a", "cat", "dog"]
  with (
    pytest.warns(UserWarning, match=r"1 caption without a word"),
    pytest.warns(UserWarning, match=r"no caption and are left out:\s*1\.png"),
  ):
    batches = data.train_batches(section, batch_size=2, seed=0)
  # Of each pair one is "a cat" and one "a dog".
  for _ in range(3):
    tokens = next(batches)["tokens"].tolist()
    assert sorted(tokens) == [[3, 4, 1, 1], [3, 5, 1, 1]]
  batches.close()


@pytest.mark.parametrize(
  "pp, texts",
  [
    ("choice|tokenize(8)", (8, "words")),
    ("tokenize_all(9,'clip',5)|keep('texts')", (9, "clip")),
  ],
)
def test_the_vocabulary_of_a_preprocessing(pp, texts):
  assert data.vocabulary_of(pp) == texts


def test_a_preprocessing_has_one_vocabulary():
  with pytest.raises(ValueError, match="makes no tokens of texts"):
    data.vocabulary_of("decode")
  with pytest.raises(ValueError, match="differ in length or vocabulary"):
    data.vocabulary_of("tokenize(4)|tokenize(5,outkey='x')")


@pytest.mark.parametrize(
  "pp, entry",
  [
    ("tokenize(8)", "caption"),
    ("choice|tokenize(8)", "captions"),
    ("choice('titles')|copy('caption','x')|tokenize(8,inkey='x')", "titles"),
    ("choice('other','o')|tokenize_all(8,'words',2)", "captions"),
  ],
)
def test_the_entry_that_becomes_tokens(pp, entry):
  assert captions.entry_of(pp) == entry


def test_scenes_with_captions_are_not_mirrored(tfds_dir):
  pp = "decode|flip_lr|tokenize(24)|keep('image','tokens')"
  section = {**scenes(tfds_dir, pp), "vocabulary": ["a"]}
  with pytest.raises(ValueError, match=r"flip_lr in .* false: captions say to"):
    data.peek(section)
  # Without the tokens, and without the mirror images.
  data.peek({**section, "pp": pp.replace(",'tokens'", "")})
  data.peek({**section, "pp": pp.replace("flip_lr|", "")})


def test_captions_that_name_a_side_are_warned_of(tmp_path, caplog):
  section = {**coco_folder(tmp_path), "split": "train", "vocabulary": ["a"]}
  section["pp"] = PP.replace("choice", "flip_lr|choice")
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      data.peek(section)
  (record,) = caplog.records
  assert "flip_lr mirrors images" in record.message
  assert "one says 'a cat on the left'" in record.message


def test_rows_of_tokens_are_no_mask(tmp_path):
  section = {**coco_folder(tmp_path), "split": "train", "vocabulary": ["a"]}
  data.peek({**section, "pp": ALL.replace("decode", "decode|random_crop(3)")})
