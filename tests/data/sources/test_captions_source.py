"""Tables of images and captions: CSV, TSV, JSONL and Karpathy's JSON."""

import json
import logging
import pickle
import shutil

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import splits_read
from tokenlearner_flexivit.data.sources.captions import source as captions

NAMES = ("a.png", "b/c.png", "d.png")


def write_images(folder, names=NAMES):
  for i, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((4, 5, 3), i, np.uint8))


def write(folder, text, name="table.csv"):
  path = folder / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def open_captions(path, split="train"):
  return data.open_source({"name": f"captions:{path}", "split": split})


def by_name(source):
  examples = [source[i] for i in range(len(source))]
  return {e["image/filename"].decode(): e["captions"] for e in examples}


EXPECTED = {"a.png": ["A cat.", "A pet, asleep"], "b/c.png": ["Zwei Vögel"]}
LINES = [
  {"image": "a.png", "text": "A cat."},
  {"image": "b/c.png", "text": ["Zwei Vögel"]},
  {"image": "./a.png", "text": " A pet, asleep "},
]
TABLES = {
  "a.csv": 'file,caption\na.png,A cat.\nb\\c.png,Zwei Vögel\n\n"a.png","A pet,'
  ' asleep"\n',
  "b.csv": "\ufeffCaption;File Name\r\nA cat.;a.png\r\nZwei Vögel;b/c.png\r\n"
  "A pet, asleep;a.png\r\n",
  "flickr30k.csv": "image_name| comment_number| comment\na.png| 0| A cat.\n"
  "a.png| 1| A pet, asleep\nb/c.png| 0| Zwei Vögel\n",
  "c.tsv": "title\tfilepath\nA cat.\ta.png\nZwei Vögel\tb/c.png\n"
  "A pet, asleep\ta.png\n",
  "d.jsonl": "\n".join(json.dumps(line) for line in LINES),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name, tmp_path):
  write_images(tmp_path)
  path = write(tmp_path, TABLES[name], name)
  source = open_captions(tmp_path)
  assert by_name(source) == EXPECTED
  assert by_name(open_captions(path)) == EXPECTED
  example = source[1]
  assert [*example] == ["image", "captions", "image/filename", "id"]
  assert (example["id"], example["id"].dtype) == (1, np.int32)
  image = tmp_path / example["image/filename"].decode()
  assert example["image"] == image.read_bytes()
  assert str(image) in source.describe(1)
  assert source.notes == [
    f"captions:{tmp_path}: train has 2 images with 3 captions."
  ]
  assert sorted(data.captions_of(source)) == sorted(
    text for texts in EXPECTED.values() for text in texts
  )
  copy = pickle.loads(pickle.dumps(source))
  assert by_name(copy) == EXPECTED


def test_utf_16_as_spreadsheets_write_it(tmp_path):
  write_images(tmp_path)
  write(tmp_path, TABLES["c.tsv"].encode("utf-16"), "c.tsv")
  assert by_name(open_captions(tmp_path)) == EXPECTED


def test_excels_line_of_the_separator_is_no_line_of_the_table(tmp_path):
  write_images(tmp_path, ("a.png", "b.png"))
  text = '"sep=|"\nfile|caption\na.png|a,b\nb.png|\n'
  path = write(tmp_path, text, "c.csv")
  with pytest.raises(ValueError, match=r"line 4: a caption of b\.png has"):
    open_captions(tmp_path)
  write(tmp_path, text.replace("b.png|", "b.png|c"), "c.csv")
  assert len(open_captions(path)) == 2


def karpathy(folder, **changes):
  images = [
    {
      "filepath": "val2014",
      "filename": f"{i}.png",
      "split": split,
      "sentences": [{"raw": f"picture {i}"}, {"raw": f"Number {i}"}],
    }
    for i, split in enumerate(("train", "restval", "val", "test", "train"))
  ]
  images[1] |= changes
  content = json.dumps({"dataset": "coco", "images": images})
  return write(folder, content, "dataset_coco.json")


@pytest.mark.parametrize("where", ["coco", "coco/images", "."])
def test_karpathys_splits(where, tmp_path):
  folder = tmp_path / "coco"
  write_images(tmp_path / where / "val2014", [f"{i}.png" for i in range(5)])
  folder.mkdir(exist_ok=True)
  path = karpathy(folder)
  sizes = {
    split: len(open_captions(path, split))
    for split in ("train", "restval", "val", "test", "train+restval", "all")
  }
  assert list(sizes.values()) == [2, 1, 1, 1, 3, 4]
  (example,) = open_captions(path, "restval")
  assert example["captions"] == ["picture 1", "Number 1"]
  assert example["image/filename"] == b"val2014/1.png"
  assert captions.choose_splits(path) == ("train", "validation")
  with pytest.raises(
    ValueError, match=r"no split 'other'\. Its splits are: train"
  ):
    data.check_section(
      {"name": f"captions:{path}", "split": "other", "pp": "decode"}, "data"
    )
  section = {"name": f"captions:{path}", "split": "train"}
  (line,) = splits_read.describe({"data": section, "evals": {}})
  assert line.endswith("reading train. Not reading validation, test, restval.")


def test_a_column_of_splits_and_slices(tmp_path):
  write_images(tmp_path)
  text = "file,caption,split\na.png,x,Training\nb/c.png,y,dev\nd.png,z,dev\n"
  write(tmp_path, text)
  assert by_name(open_captions(tmp_path, "validation")) == {
    "b/c.png": ["y"],
    "d.png": ["z"],
  }
  parts = [
    by_name(open_captions(tmp_path, f"val{s}")) for s in ("[:1]", "[1:]")
  ]
  assert sorted([*parts[0], *parts[1]]) == ["b/c.png", "d.png"]
  assert captions.choose_splits(tmp_path) == ("train", "validation")


def test_without_splits_a_tenth_is_for_evaluation(tmp_path):
  write_images(tmp_path)
  write(tmp_path, TABLES["a.csv"])
  expected = ("train[:90%]", "train[90%:]")
  assert captions.choose_splits(tmp_path) == expected
  assert captions.choose_splits("/nowhere") == expected


def test_the_digest_is_of_names_and_captions(tmp_path):
  write_images(tmp_path / "one")
  write(tmp_path / "one", TABLES["a.csv"])
  shutil.copytree(tmp_path / "one", tmp_path / "two")
  one = open_captions(tmp_path / "one").digest()
  assert open_captions(tmp_path / "two").digest() == one
  write(tmp_path / "two", TABLES["a.csv"].replace("cat", "lynx"))
  assert open_captions(tmp_path / "two").digest() != one


def test_a_file_by_its_whole_path_is_the_same_image(tmp_path):
  write_images(tmp_path)
  write(tmp_path, f"file,caption\n{tmp_path}/a.png,A cat.\na.png,A pet\n")
  assert by_name(open_captions(tmp_path)) == {"a.png": ["A cat.", "A pet"]}
  lines = f"{tmp_path}/a.png,x,train\na.png,y,val\n"
  write(tmp_path, f"file,caption,split\n{lines}")
  with pytest.raises(ValueError, match=r"a\.png is in 'val', but in 'train'"):
    open_captions(tmp_path)


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_names_that_no_file_can_have_are_told(tmp_path, name):
  line = json.dumps({"file": name, "caption": "A cat."})
  write(tmp_path, line, "table.jsonl")
  with pytest.raises(ValueError, match="line 1: has no image, file is '"):
    open_captions(tmp_path)


@pytest.mark.parametrize(
  "text, error",
  [
    ("file,caption\nz.png,A cat\n", r"line 2: .*z\.png: .*No such file"),
    ("file,caption\nA.PNG,A cat\n", r"A\.PNG: .*; 'a\.png' is there"),
    ("file,caption\nbad.png,A cat\n", r"line 2: .*bad\.png: "),
    ("file,caption\na.png,\n", r"line 2: a caption of a\.png has no word: ''"),
    ("file,caption\na.png,-\n", r"line 2: a caption of a\.png has no word"),
    ("file,caption\n,A cat\n", "line 2: has no image, file is ''"),
    (
      "file,caption\na.png,A cat, asleep\n",
      "line 2: has 3 values, but the fir",
    ),
    ('file,caption\na.png,"A "big" cat"\n', "line 2: .*need.* them doubled"),
    ('file,caption\na.png,"A cat\n', "unexpected end of data"),
    (
      b"file,caption\na.png,caf\xe9\n",
      r"is not UTF-8.*\n  line 2: b'a.png,caf",
    ),
    ("a.png,A cat\n", r"has the columns 'a.png', 'a_cat'.*must name each"),
    ("url,caption\nhttp://x,A cat\n", "has the columns 'url', 'caption'"),
    ("file,caption\n", "lists no images"),
    ("", r"table\.csv is empty: its first line names the columns"),
    ("\nfile,caption\na.png,A cat\n", "begins with an empty line"),
    (
      "file,caption,split\na.png,x,train\na.png,y,val\n",
      r"line 3: a\.png is in 'val', but in 'train' at line 2",
    ),
    ("file,caption,split\na.png,x,\n", r"line 2: has no split for a\.png"),
    (
      "file,caption,split\na.png,x,val\nd.png,y,dev\n",
      "has both .* and .*, and one must be",
    ),
  ],
)
def test_what_is_wrong_in_a_table_is_named(text, error, tmp_path):
  write_images(tmp_path)
  write(tmp_path, b"no image", "bad.png")
  write(tmp_path, text)
  with pytest.raises(ValueError, match=f"(?s){error}"):
    open_captions(tmp_path)


def test_the_first_few_problems_are_named(tmp_path):
  write_images(tmp_path)
  rows = "".join(f"z{i}.png,A cat\n" for i in range(9))
  write(tmp_path, "file,caption\n" + rows)
  with pytest.raises(ValueError, match=r"line 2: .*z0\.png") as error:
    open_captions(tmp_path)
  assert "line 6" in str(error.value)
  assert "line 7" not in str(error.value)
  assert "and 4 more" in str(error.value)


def test_missing_files_of_a_large_table(tmp_path, monkeypatch):
  monkeypatch.setattr(captions, "_MOST_HEADERS", 1)
  write_images(tmp_path)
  write(tmp_path, TABLES["a.csv"])
  assert by_name(open_captions(tmp_path)) == EXPECTED
  for name in EXPECTED:
    (tmp_path / name).unlink()
  with pytest.raises(ValueError, match=r"(?s)line 2: .*line 3: "):
    open_captions(tmp_path)


@pytest.mark.parametrize(
  "text, error",
  [
    ("{", "line 1: is no JSON"),
    ("[1]", "line 1: is no object"),
    ('{"file": "a.png", "caption": []}', "line 1: has no caption of a"),
    ('{"file": "a.png", "caption": 3}', "a caption of a.png has no word: 3"),
    ('{"file": 3, "caption": "x"}', "line 1: has no image, file is 3"),
  ],
)
def test_lines_of_json(text, error, tmp_path):
  write_images(tmp_path)
  write(tmp_path, text, "table.jsonl")
  with pytest.raises(ValueError, match=error):
    open_captions(tmp_path)


def test_json_of_another_form(tmp_path):
  write_images(tmp_path / "val2014", [f"{i}.png" for i in range(5)])
  with pytest.raises(ValueError, match="image 1: 'raw' is missing"):
    open_captions(karpathy(tmp_path, sentences=[{}]))
  path = write(tmp_path, '{"images": [], "annotations": []}', "captions.json")
  with pytest.raises(ValueError, match="are read by coco:FOLDER"):
    open_captions(path)
  with pytest.raises(
    ValueError, match=r"has several tables: captions\.json, d"
  ):
    open_captions(tmp_path)


def test_no_table(tmp_path):
  with pytest.raises(ValueError, match="has no table of captions"):
    open_captions(tmp_path)
  with pytest.raises(ValueError, match="no such file or folder"):
    open_captions(tmp_path / "x.csv")
  with pytest.raises(ValueError, match=r"whose name ends with \.csv, \.tsv"):
    open_captions(write(tmp_path, "", "x.txt"))


def test_to_tokens(tmp_path, caplog):
  write_images(tmp_path)
  write(tmp_path, "file,caption\na.png,A cat.\nd.png,The left one\n")
  pp = "decode|flip_lr|choice|tokenize(4)|keep('image','tokens','id')"
  section = {"name": f"captions:{tmp_path}", "split": "train", "pp": pp}
  source = data.open_source(section)
  section["vocabulary"] = data.make_vocabulary(pp, source).describe()
  with caplog.at_level(logging.WARNING):
    batches = data.train_batches(section, batch_size=2, seed=0, source=source)
  batch = next(batches)
  batches.close()
  assert batch["tokens"].shape == (2, 4)
  assert "mirrors images" in caplog.text
