"""Tests that folders and tables become the splits that they are meant as."""

import pytest

from tests.data.sources import test_coco
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data import shared_examples, splits, splits_read
from tokenlearner_flexivit.data.sources.coco import annotations
from tokenlearner_flexivit.data.sources.coco import source as coco


@pytest.mark.parametrize(
  "name, role",
  [
    ("train", "train"),
    ("Training", "train"),
    ("val", "validation"),
    ("VALID", "validation"),
    ("validation.csv", "validation"),
    ("dev", "validation"),
    ("Testing", "test"),
    ("test.csv", "test"),
    ("trains", None),
    ("extra", None),
  ],
)
def test_roles(name, role):
  assert splits.role(name) == role


def test_two_names_for_one_role_are_refused():
  with pytest.raises(ValueError, match="flowers has both val and valid"):
    splits.by_role(["train", "val", "valid"], "flowers")


def test_names_are_resolved():
  known = ["Training", "dev", "extra"]
  assert splits.resolve("train", known, "x") == "Training"
  assert splits.resolve("validation", known, "x") == "dev"
  assert splits.resolve("extra", known, "x") == "extra"
  assert splits.resolve("val", ["val", "valid"], "x") == "val"
  with pytest.raises(ValueError, match=r"'test'. Its splits are: Training, de"):
    splits.resolve("test", known, "x")
  with pytest.raises(ValueError, match="do you mean val or valid"):
    splits.resolve("dev", ["val", "valid"], "x")


@pytest.mark.parametrize(
  "known, asked, expected",
  [
    (["train", "val"], {}, ("train", "val")),
    (["train", "test", "val"], {}, ("train", "val")),
    (["Train", "testing"], {}, ("Train", "testing")),
    (["training"], {}, ("training[:90%]", "training[90%:]")),
    (["train", "val", "test"], {"test": "test"}, ("train", "test")),
    (["train", "val"], {"train": "train[:5%]"}, ("train[:5%]", "val")),
    (["train", "val", "test"], {"train": "train+val", "test": "test"}, None),
    # What is trained on is not evaluated.
    (["train", "val", "test"], {"train": "train+val"}, ("train+val", "test")),
    (["a", "b"], {"train": "a", "test": "b"}, ("a", "b")),
    # Where the data for training are not, there are evaluations.
    (["test"], {}, ("train", "test")),
  ],
)
def test_choice(known, asked, expected):
  expected = expected or (asked["train"], asked["test"])
  assert splits.choose(known, "x", **asked) == expected


def test_splits_without_labels_are_not_chosen():
  known = ["train", "validation", "test"]
  chosen = splits.choose(known, "x", has_labels=lambda s: s == "test")
  assert chosen == ("train", "test")


@pytest.mark.parametrize(
  "known, asked, message",
  [
    (["train", "test"], {"test": "val"}, "no split 'val'. Its splits are: tr"),
    (["train"], {"train": "full[:5%]"}, "no split 'full'"),
    (["train"], {"train": "train"}, r"such as .*,test=train\[90%:\]"),
    (
      ["train", "val"],
      {"train": "train+dev"},
      r"on beside train=train\+d",
    ),
    (["train", "val"], {"train": "all"}, "evaluate on beside train=all"),
    (["train"], {"test": "train[90%:]"}, "is a part of the split to train on"),
    (["animals"], {}, "no split to train on"),
    (["test"], {"train": "train"}, "no split 'train'. Its splits are: test"),
    (["train", "val", "dev"], {}, "both val and dev"),
  ],
)
def test_bad_choice(known, asked, message):
  with pytest.raises(ValueError, match=message):
    splits.choose(known, "x", **asked)


def make(root, *files):
  for name in files:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")


def find(root):
  known = splits.find(root, lambda name: name.endswith(".png"))
  return {split: path.name for split, path in known.items()}


@pytest.mark.parametrize(
  "files, expected",
  [
    (["train/a/1.png", "val/a/1.png"], {"train": "train", "validation": "val"}),
    (["Training/a/1.png"], {"train": "Training"}),
    (["train.csv", "dev.csv", "a/1.png"], dict(train=1, validation=1)),
    (["a/1.png", "b/1.png"], {}),
    # Classes that are called like splits.
    (["bus/1.png", "car/1.png", "train/1.png"], {}),
    (["bus/1.png", "test/1.png"], {}),
    # A split without labels.
    (["train/a/1.png", "test/1.png"], {"train": "train"}),
    # What nobody sees.
    (["train/a/1.png", "__MACOSX/val/1.png"], {"train": "train"}),
    (["a/1.png", "train/1.png", "train/Thumbs.db", "train/.x/1"], {}),
    # A table and the folder of its files.
    (["train.csv", "train/1.png"], {"train": "train.csv"}),
  ],
)
def test_splits_of_a_folder(tmp_path, files, expected):
  make(tmp_path, *files)
  known = find(tmp_path)
  assert known.keys() == expected.keys()
  assert all(expected[key] in (1, known[key]) for key in known)


def test_split_folders_without_classes_are_refused(tmp_path):
  make(tmp_path, "train/1.png", "test/1.png")
  with pytest.raises(ValueError, match="rename them, such as to class_test"):
    find(tmp_path)
  make(tmp_path, "train/a/1.png", "training/a/1.png")
  with pytest.raises(ValueError, match="both train and training"):
    find(tmp_path)


def describe(name, *asked, **evals):
  data = [{"name": name, "split": split} for split in asked]
  evals |= {f"eval{i}": {"data": d} for i, d in enumerate(data[1:])}
  return splits_read.describe({"data": data[0], "evals": evals})


def test_a_run_says_which_folders_it_reads_and_which_not(tmp_path):
  make(tmp_path, "Training/a/1.png", "val/a/1.png", "test/1.png", "new/1.png")
  name = f"folder:{tmp_path}"
  (line,) = describe(name, "train[:50%]", "validation", "training[50%:]")
  assert line == f"{name}: reading Training, val. Not reading new, test."
  fewshot = {"type": "fewshot", "data": {"name": name}, "test_split": "dev"}
  (line,) = describe(name, "train", fewshot=fewshot)
  assert line == f"{name}: reading Training, val. Not reading new, test."
  (line,) = describe(name, "all")
  assert "reading Training, val. Not" in line
  make(tmp_path / "classes", "a/1.png")
  (line,) = describe(f"folder:{tmp_path}/classes", "train[:90%]", "train[90%:]")
  assert "no folders of splits. Reading train[:90%], train[90%:]." in line
  assert describe("digits", "train") == []
  assert describe("folder:/nowhere", "train") == []


@pytest.mark.parametrize(
  "train, test, is_told",
  [
    ("train[:90%]", "train[90%:]", False),
    ("train[:90%]", "train[85%:]", True),
    ("train", "training[90%:]", True),
    ("train[:100]", "train[100:200]", False),
    ("train[:-10]", "train[-10:]", False),
    ("train+val", "val", True),
    ("train", "val", False),
    ("all", "test", True),
    ("train[:2shard]", "train", True),
    ("train[:2shard]", "train[:9]", False),  # Not known here.
  ],
)
def test_a_run_says_that_it_evaluates_what_it_trains_on(train, test, is_told):
  lines = describe("digits", train, test)
  assert ("eval0 evaluates on examples that are" in "".join(lines)) == is_told
  digits = {"type": "fewshot", "data": {"name": "digits"}, "test_split": test}
  lines = describe("digits", train, few=digits)
  assert ("few evaluates on examples that are" in "".join(lines)) == is_told
  data = {"name": "digits", "split": train}
  other = {"data": {"name": "fake:1", "split": train}, "type": "fewshot"}
  assert splits_read.describe({"data": data, "evals": {"other": other}}) == []


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("coco")
  for part in ("train2017", "val2017"):
    test_coco.write_images(root / part)
    file = root / "annotations" / f"instances_{part}.json"
    test_coco.write(file, test_coco.boxes())
  return root


@pytest.mark.parametrize(
  "train, test, is_told",
  [
    ("train", "train2017", True),
    ("train2017[:50%]", "train[40%:]", True),
    ("train2017[:50%]", "training[50%:]", False),
    ("train+val2017", "val", True),
    ("all", "val2017", True),
    ("train2017", "val2017", False),
  ],
)
def test_splits_of_coco_may_be_named_with_their_years(
  coco_folder, train, test, is_told
):
  name = f"coco:{coco_folder}"
  first, *told = describe(name, train, test)
  reads_both = "all" in train or "val" in train + test
  assert first.endswith("reading train, validation.") == reads_both
  assert ["eval0 evaluates on examples that are" in t for t in told] == (
    [True] if is_told else []
  )
  data = [{"name": name, "split": split} for split in (test, train)]
  assert splits_read.unlike_training(*data)[0] == is_told


def test_lists_of_splits_may_have_images_in_common(tmp_path):
  """Pascal VOC's "trainval" has those of "train" and "val"."""
  make(tmp_path, *(f"JPEGImages/{i}.jpg" for i in range(3)))
  make(tmp_path, *(f"SegmentationClass/{i}.png" for i in range(3)))
  lists = tmp_path / "ImageSets" / "Segmentation"
  lists.mkdir(parents=True)
  for name, stems in dict(train="0", val="1", trainval="01", test="2").items():
    (lists / f"{name}.txt").write_text("\n".join(stems))
  name = f"mask_folder:{tmp_path}"
  for train, test, is_told in (
    ("trainval", "val", True),
    ("trainval", "validation", True),
    ("train", "val", False),
    ("trainval", "test", False),
  ):
    _, *told = describe(name, train, test)
    assert len(told) == is_told
    data = [{"name": name, "split": split} for split in (test, train)]
    assert splits_read.unlike_training(*data)[0] == is_told


def test_annotations_of_splits_may_list_the_same_images(
  tmp_path, coco_folder, monkeypatch
):
  names = [f"{n}.jpg" for n in "abcd"]
  test_coco.write_images(tmp_path / "images", names)
  listed = dict(train="abc", val="d", trainval="abcd", test="bd")
  for part, stems in listed.items():
    file = tmp_path / "annotations" / f"instances_{part}.json"
    content = test_coco.boxes([f"{s}.jpg" for s in stems])
    content["annotations"] = content["annotations"][1:]  # Of the first image.
    test_coco.write(file, content)
  name = f"coco:{tmp_path}"
  for train, test, is_told in (
    ("trainval", "val", True),
    ("train", "test[:1]", True),
    ("train+val", "test", True),
    ("train", "val", False),
  ):
    _, *told = describe(name, train, test)
    assert len(told) == is_told
    data = [{"name": name, "split": split} for split in (test, train)]
    assert splits_read.unlike_training(*data)[0] == is_told
  with pytest.raises(ValueError, match=r"1 image twice, .*b\.jpg: train and t"):
    data_lib.open_source({"name": name, "split": "train+test"})
  # Images in folders of their own are not compared: COCO's files are large.
  monkeypatch.setattr(annotations, "read", None)
  _, *told = describe(f"coco:{coco_folder}", "train", "val")
  assert not told


def test_splits_with_years_are_chosen_and_read_once(coco_folder):
  (line,) = describe(f"coco:{coco_folder}", "train2017")
  assert line.endswith(": reading train. Not reading validation.")
  both = "train2017", "val2017"
  assert coco.choose_splits(coco_folder, *both) == both
  assert coco.choose_splits(coco_folder, "train2017") == (
    "train2017",
    "validation",
  )
  with pytest.raises(ValueError, match=r"test=train2017 of .* is a part of"):
    coco.choose_splits(coco_folder, test="train2017")
  section = {"name": f"coco:{coco_folder}", "split": "val+val2017"}
  with pytest.raises(ValueError, match="twice: val and val2017 share some"):
    data_lib.open_source(section)


@pytest.mark.parametrize("train", ["train[:90%]", "training[:90%]"])
def test_data_that_are_trained_on_judge_a_training_last(train):
  data = {"name": "digits", "split": train}
  ranked = [
    ("digits", "test"),
    ("digits", "train[90%:]"),
    ("other", "test"),
    ("other", "train"),
    ("digits", "train[:10%]"),
  ]

  def rank(name, split):
    return splits_read.unlike_training({"name": name, "split": split}, data)

  assert sorted(reversed(ranked), key=lambda pair: rank(*pair)) == ranked
  assert rank("digits", "all") == rank("digits", "train[:10%]")


def test_a_run_says_which_tables_it_reads(tmp_path):
  make(tmp_path, "train.csv", "test.csv", "clips/1.mp4")
  (line,) = describe(f"video_folder:{tmp_path}?fps=5", "train")
  assert line.endswith("?fps=5: reading train.csv. Not reading test.csv.")
  (tmp_path / "train.csv").rename(tmp_path / "TRAIN.CSV")
  (line,) = describe(f"video_folder:{tmp_path}?fps=5", "train")
  assert line.endswith("?fps=5: reading TRAIN.CSV. Not reading test.csv.")


@pytest.mark.parametrize(
  "split, other, expected",
  [
    ("train", "test", False),
    ("train", "training", True),
    ("train+test", "test[:9]", True),
    ("train[:80%]", "train[80%:]", False),
    ("train[:80%]", "train[79%:]", True),
    ("train[:100]", "train[100:]", False),
    ("train[:100]", "train[99:]", True),
    ("train", "all", True),
    ("all[:10%]", "val[20%:]", False),
    ("all", "extra", False),
    # It depends.
    ("train[:100]", "train[50%:]", False),
    ("train[-100:]", "train[:200]", False),
    ("train[:1shard]", "train[:200]", False),
  ],
)
def test_splits_that_share_examples(split, other, expected):
  assert shared_examples.overlap(split, other) == expected


@pytest.mark.parametrize(
  "split, other, expected",
  [
    ("train[10%:]", "train[:12]", True),
    ("train[10%:]", "train[:10]", False),
    ("train[-10:]", "train[:90%]", False),
    ("train[-11:]", "training[:90%]", True),
    ("train[:90]", "train[-10:]", False),
    ("test+train[:9]", "train[8%:]", True),
    ("all", "test[-1:]", True),
  ],
)
def test_splits_that_share_examples_of_a_known_number(split, other, expected):
  source = data_lib.open_source(dict(name="fake:2x2x1:2:100", split=split))
  assert shared_examples.overlap(split, other, source.parts) == expected
  for name in (split, other):
    data_lib.open_source(dict(name="fake:2x2x1:2:100", split=name))


@pytest.mark.parametrize("part", ["[10%:50]", "[50:60%]", "[-50:100%]"])
def test_a_slice_has_one_unit(part):
  for name in ("fake:2x2x1:2", "digits"):
    with pytest.raises(ValueError, match=r"end in percent and another"):
      data_lib.open_source(dict(name=name, split=f"val+train{part}"))
  for part in ("[0:50%]", "[50%:]", "[-50%:0]", "[10:-10]"):
    assert splits.parse(f"train{part}") == [("train", part)]


def folder_of(tmp_path):
  for split in ("train", "val"):
    for label in "ab":
      make(tmp_path, *(f"{split}/{label}/{i}.png" for i in range(6)))
  return f"folder:{tmp_path}"


@pytest.mark.parametrize(
  "split, message",
  [
    ("train[50%:50%]+test", r": train\[50%:50%\] of .* is empty"),
    ("test+train[:0.001%]", r": train\[:0.001%\] of .* is empty.*START"),
    ("test+train[10:5]", r": train\[10:5\] of .* is empty"),
    ("train[90%:]+train[:12]", r"twice: train\[90%:\] and train\[:12\] share"),
    ("test+train[-2:]+train[50%:]", r"train\[-2:\] and train\[50%:\] share"),
  ],
)
@pytest.mark.parametrize("name", ["digits", "fake:2x2x1:2:12", "folder"])
def test_parts_of_a_sum_are_neither_empty_nor_read_twice(
  tmp_path, name, split, message
):
  if name == "folder":
    name, split = folder_of(tmp_path), split.replace("test", "val")
  if name == "digits":
    split = split.replace(":12]", ":1400]")
    message = message.replace(":12", ":1400")
  with pytest.raises(ValueError, match="split=.*" + message):
    data_lib.open_source(dict(name=name, split=split), "data")


@pytest.mark.parametrize("size, enough", [(1, 5), (4, 5)])
def test_too_few_examples_for_a_slice(size, enough):
  config = dict(name=f"fake:2x2x1:2:{size}", split="test[90%:]")
  with pytest.raises(ValueError) as error:
    data_lib.open_source(config, "config.evals.test.data")
  message = str(error.value)
  assert "config.evals.test.data.split='test[90%:]'" in message
  assert f"{size} example" in message and f"at least {enough} are" in message
  # What it advises can be opened.
  assert ("train=test[:3],test=test[3:]" in message) == (size > 1)
  for split in ["test[:3]", "test[3:]"] if size > 1 else ["test"]:
    assert len(data_lib.open_source({**config, "split": split}))
  larger = {**config, "name": f"fake:2x2x1:2:{enough}"}
  assert len(data_lib.open_source(larger))


def test_slices_of_all_are_those_of_each_split():
  config = dict(name="digits", split="all[:10%]")
  source = data_lib.open_source(config)
  assert [len(part.positions) for part in source.parts] == [144, 36]
  assert len(source) == 180
  first = data_lib.open_source({**config, "split": "test[:1]"})[0]
  assert source[144]["image"] == first["image"]


def test_parts_of_a_sum_of_shards_are_known():
  config = dict(name="digits", split="train[:1shard]+train[:9]")
  with pytest.raises(ValueError, match="examples twice"):
    data_lib.open_source(config, "data")
  config["split"] = "training[:1shard]+test"
  assert [part.text for part in data_lib.open_source(config).parts] == [
    "training[:1shard]",
    "test",
  ]


@pytest.mark.parametrize("name", ["digits", "fake:8x8x3:2", "folder:/nowhere"])
@pytest.mark.parametrize(
  "split", ["train+train", "test+val+validation", "train[:60%]+train[50%:]"]
)
def test_no_example_counts_twice(name, split):
  with pytest.raises(ValueError, match=r"data\.split=.* has examples twice"):
    data_lib.open_source(dict(name=name, split=split), "data")


def test_parts_of_a_split_are_no_repetition():
  for split in ("train[:10]+train[20:]", "train+test", "a+b"):
    shared_examples.check_disjoint(split, "data.split")
