"""Datasets by name: TFDS, noise, and the errors about names and splits."""

import itertools
import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.data.sources import tfds as tfds_source


@pytest.mark.parametrize(
  "split, expected",
  [
    ("train", range(200)),
    ("train[:]", range(200)),
    ("train[:25%]", range(50)),
    ("train[25%:]", range(50, 200)),
    ("train[-10%:]", range(180, 200)),
    ("train[:0.5%]", range(1)),
    ("train[10:20]", range(10, 20)),
    ("train[-5:]", range(195, 200)),
  ],
)
def test_slices_are_those_of_tfds(split, expected):
  ((name, part),) = splits.parse(split)
  assert name == "train"
  assert splits.positions(part, 200, name) == expected


def test_sums_of_splits():
  assert splits.parse("train[:9%] + my val") == [
    ("train", "[:9%]"),
    ("my val", ""),
  ]


@pytest.mark.parametrize("split", ["train[:5", "[:5]", "a+", "", "a[:1][2:]"])
def test_bad_splits(split):
  with pytest.raises(ValueError, match="Cannot read the split"):
    splits.parse(split)


@pytest.mark.parametrize(
  "part", ["[5]", "[:999]", "[::2]", "[:1shard]", "[:101%]", "[a:]"]
)
def test_bad_slices(part):
  with pytest.raises(ValueError, match="of flowers, which has 200 examples"):
    splits.positions(part, 200, "flowers")


# Noise


def test_fake_is_fixed_noise_of_the_shape():
  config = {"name": "fake:6x8x1:5:30", "split": "train"}
  source = data.open_source(config)
  assert len(source) == 30 and source.num_classes == 5
  again = data.open_source(config)
  for i in range(30):
    assert source[i]["image"].shape == (6, 8, 1)
    assert source[i]["image"].dtype == np.uint8
    assert source[i]["id"] == i
    np.testing.assert_array_equal(source[i]["image"], again[i]["image"])
  assert {int(source[i]["label"]) for i in range(30)} == set(range(5))
  assert (source[0]["image"] != source[1]["image"]).any()

  part = data.open_source({**config, "split": "train[50%:]"})
  assert len(part) == 15
  np.testing.assert_array_equal(part[0]["image"], source[15]["image"])
  both = data.open_source({**config, "split": "test+train[50%:]"})
  assert len(both) == 45 and both[31]["id"] == 31
  np.testing.assert_array_equal(both[31]["image"], source[16]["image"])
  other = data.open_source({**config, "split": "test"})
  assert (other[0]["image"] != source[0]["image"]).any()


def test_fake_with_masks_and_boxes():
  name = "fake:6x9x3:5:30"
  plain = data.open_source({"name": name, "split": "train"})
  source = data.open_source({"name": f"{name}:dense", "split": "train"})
  ids = set()
  for i in range(30):
    example, other = source[i], plain[i]
    np.testing.assert_array_equal(example["image"], other["image"])
    assert example["semantic"].shape == (6, 9)
    ids |= {*np.unique(example["semantic"]).tolist()}
    ymin, xmin, ymax, xmax = example["objects"]["bbox"].T
    assert (ymin < ymax).all() and (xmin < xmax).all() and (ymin >= 0).all()
    assert (example["objects"]["label"] < 5).all()
  assert ids == {0, 1, 2, 3, 4, 255}
  for key in ("label", "semantic", "objects/label"):
    assert source.classes(key) == (5, None)
  assert plain.classes("semantic") == (None, None)
  with pytest.raises(ValueError, match="only images of up to 255 classes"):
    data.open_source({"name": "fake:6x9x3:300:dense", "split": "train"})


def test_fake_with_captions():
  name = "fake:6x9x3:5:30"
  plain = data.open_source({"name": name, "split": "train"})
  source = data.open_source({"name": f"{name}:captions", "split": "train"})
  example = source[3]
  np.testing.assert_array_equal(example["image"], plain[3]["image"])
  assert example["captions"] == source[3]["captions"] != source[4]["captions"]
  assert example["captions"][0] == example["caption"]
  sentences = [text.split() for text in example["captions"]]
  assert len(sentences) == 5 and all(4 <= len(s) <= 16 for s in sentences)
  known = {fake.word(i) for i in range(1000)}
  assert len(known) == 1000 and known.issuperset(itertools.chain(*sentences))


def test_plain_fake():
  source = data.open_source({"name": "fake", "split": "x"})
  assert len(source) == 1024 and source.num_classes == 1000
  assert source[1023]["image"].shape == (224, 224, 3)


@pytest.mark.parametrize(
  "name", ["fake:3", "fake:8x8x4:10", "fake:8x8x3", "fake:0x8x3:10", "fake:"]
)
def test_bad_fake(name):
  with pytest.raises(ValueError, match="fake:HEIGHTxWIDTH"):
    data.open_source({"name": name, "split": "train"})


def test_empty_slice():
  with pytest.raises(ValueError, match=r"train\[:0\] of fake is empty"):
    data.open_source({"name": "fake", "split": "train[:0]"})


# TFDS


@pytest.mark.parametrize(
  "name, messages",
  [
    ("cifar_10", ["cifar10"]),
    ("digit", ["Close names: digits,"]),
    ("CIFAR-10", ["Close names: cifar10,"]),
    ("digits/", ["Close names: digits."]),
    ("nothing_like_it", ["Unknown dataset 'nothing_like_it'"]),
  ],
)
def test_unknown_name(name, messages, tmp_path):
  with pytest.raises(ValueError) as error:
    data.open_source(
      {"name": name, "split": "train", "data_dir": str(tmp_path)}
    )
  for message in [*messages, "folder:/path", "fake:", "digits", "TFDS name"]:
    assert message in str(error.value)


def test_prepared_configs_and_versions_are_named(tmp_path):
  for part in ("mine/a/1.0.0", "mine/b/2.0.1"):
    (tmp_path / part).mkdir(parents=True)
    (tmp_path / part / "dataset_info.json").touch()
  config = {"name": "mine", "split": "train", "data_dir": str(tmp_path)}
  with pytest.raises(ValueError, match=r"are mine/a:1\.0\.0, mine/b:2\.0\.1\."):
    data.open_source(config)


@pytest.mark.parametrize("data_dir", ["", 5])
def test_a_data_dir_that_is_no_folder(data_dir):
  config = {"name": "digits", "split": "train", "data_dir": data_dir}
  with pytest.raises(ValueError, match=r"data.data_dir=.* must be a folder"):
    data.open_source(config)


@pytest.mark.parametrize("name", ["digits", "cifar10", "video_folder/a"])
@pytest.mark.parametrize("is_argument", [True, False])
def test_a_bucket_of_datasets_is_to_be_mounted(name, is_argument, monkeypatch):
  config = {"name": name, "split": "train"}
  if is_argument:
    config["data_dir"] = "gs://bucket/tfds"
  else:
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/tfds")
  with pytest.raises(ValueError, match=r"(?i)data_dir=gs://bucket.*gcsfuse"):
    data.open_source(config)


def test_a_version_that_does_not_exist():
  with pytest.raises(ValueError, match=r"'digits:9.9.9'.*only: 1.0.0"):
    data.open_source({"name": "digits:9.9.9", "split": "train"})


def test_names_of_features_are_a_list():
  config = {"name": "digits", "split": "train", "features": "label"}
  for features, message in (
    ((), r"data\.features is empty.* Leave it out"),
    ((["label"],), r"data\.features=\['label'\] must be a string"),
    ((3,), r"data\.features=3 must be a string"),
  ):
    with pytest.raises(ValueError, match=message):
      data.open_source({**config, "features": features})
  with pytest.raises(ValueError, match=r"data.features='label' must be a list"):
    data.open_source(config)


@pytest.mark.parametrize("name", ["cifar10", "imagenet_v2/topimages"])
def test_unprepared_dataset(name, tmp_path):
  with pytest.raises(ValueError, match="is not prepared") as error:
    data.open_source(
      {"name": name, "split": "train", "data_dir": str(tmp_path)}
    )
  command = f"tfds build {name} --file_format=array_record"
  assert f"{command} --data_dir={tmp_path}\n" in str(error.value)


def test_dataset_prepared_as_tfrecord(digits, tmp_path):
  data.open_source(digits())
  root = pathlib.Path(digits()["data_dir"]) / "digits" / "1.0.0"
  folder = tmp_path / "digits" / "1.0.0"
  shutil.copytree(root, folder)
  path = folder / "dataset_info.json"
  info = json.loads(path.read_text())
  assert info["fileFormat"] == "array_record"
  info["fileFormat"] = "tfrecord"
  path.write_text(json.dumps(info))
  with pytest.raises(ValueError, match="stored as tfrecord") as error:
    data.open_source(digits(data_dir=str(tmp_path)))
  command = f"tfds convert_format --dataset_version_dir={folder} "
  assert f"{command}--out_file_format=array_record" in str(error.value)


@pytest.mark.parametrize("name", ["plain", "my data [v1] é, #2"])
def test_files_that_were_not_copied_are_named_at_the_start(
  digits, tmp_path, name
):
  data.open_source(digits())
  root = pathlib.Path(digits()["data_dir"]) / "digits" / "1.0.0"
  folder = tmp_path / name / "digits" / "1.0.0"
  shutil.copytree(root, folder)
  config = digits(data_dir=str(tmp_path / name))
  (path,) = folder.glob(f"*-{config['split']}.*")
  whole = path.read_bytes()
  with pytest.raises(ValueError, match=r"Cannot read .* slice .* incompatible"):
    data.open_source({**config, "split": f"{config['split']}[:1000000]"})
  for length in (5000, len(whole) - 1, 0):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=f"{path.name} \\(cut off\\)"):
      data.open_source(config)
  path.unlink()
  with pytest.raises(ValueError, match=f"{path.name} \\(missing\\)"):
    data.open_source(config)
  other = "test" if config["split"] == "train" else "train"
  assert len(data.open_source({**config, "split": other}))
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(ValueError, match=r"describes .*'digits' is damaged"):
    data.open_source(config)


def test_mocked_imagenet2012_takes_the_tfds_path():
  config = {
    "name": "imagenet2012",
    "split": "train[:99%]",
    "pp": "decode|inception_crop(24)|flip_lr|value_range|keep('image','label')",
    "num_threads": 2,
  }
  with tfds.testing.mock_data(num_examples=5):
    source = data.open_source(config)
    assert source.num_classes == 1000 and len(source) == 5
    batch = next(
      data.train_batches(config, batch_size=8, seed=0, source=source)
    )
    assert batch["image"].shape == (8, 24, 24, 3)
    assert batch["label"].dtype == np.int32
    masks = [b["mask"] for b in data.eval_batches(config, batch_size=4)]
    assert np.concatenate(masks).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def png(value):
  return cv2.imencode(".png", np.full((2, 3, 3), value, np.uint8))[1].tobytes()


class Nested(tfds.core.GeneratorBasedBuilder):
  """A dataset with images inside of other features."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = None

  def _info(self):
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    features = {
      "id": tfds.features.Scalar(np.int64),
      "image": image,
      "image/filename": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=["a", "b"]),
      "maps": {"depth": image, "scale": tfds.features.Scalar(np.float32)},
      "objects": tfds.features.Sequence({"crop": image, "area": np.int64}),
      "real_label": tfds.features.Sequence(
        tfds.features.ClassLabel(names=["c", "d"])
      ),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(5),
      "val": self._generate_examples(2),
    }

  def _generate_examples(self, count):
    for i in range(count):
      crops = [{"crop": png(10 + j), "area": j} for j in range(i)]
      yield (
        i,
        {
          "id": 100 + i,
          "image": png(i),
          "image/filename": f"photo{i}.png",
          "label": i % 2,
          "maps": {"depth": png(50 + i), "scale": 0.5},
          "objects": crops,
          "real_label": [0] * (i % 2),
        },
      )


class Unnamed(Nested):
  """A dataset whose examples are no dicts."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.Sequence({"x": np.int64})
    )

  def _generate_examples(self, count):
    yield from ((i, [{"x": i}]) for i in range(count))


class Tagged(Nested):
  """A dataset of examples of several classes, some of them unknown."""

  def _info(self):
    label = tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3))
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict({"label": label})
    )

  def _generate_examples(self, count):
    yield from ((i, {"label": [[1, -1], [-1], []][i % 3]}) for i in range(3))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("built"))
  for builder in (Nested, Unnamed, Tagged):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


def test_images_inside_of_features_stay_encoded(built):
  source = data.open_source(
    {"name": "nested:1.0.0", "split": "train", "data_dir": built}
  )
  example = source[4]
  own = int(example["dataset_id"]) - 100
  assert example["id"] == 4 and example["image"] == png(own)
  assert example["maps"]["depth"] == png(50 + own)
  assert list(example["objects"]["crop"]) == [png(10 + j) for j in range(own)]
  assert list(example["objects"]["area"]) == list(range(own))
  assert source.labels("id").tolist() == [
    int(source[i]["dataset_id"]) for i in range(5)
  ]


@pytest.mark.parametrize("part", ["[3:2]", "[2:2]", "[4:1]"])
def test_a_slice_without_examples_is_named(built, part):
  config = {"name": "nested:1.0.0", "split": f"train{part}", "data_dir": built}
  with pytest.raises(
    ValueError, match=r"train\[\d:\d\] of nested:1.0.0 is emp"
  ):
    data.open_source(config)


def test_an_unknown_class_is_not_the_last_one(built):
  source = data.open_source(
    {"name": "tagged:1.0.0", "split": "train", "data_dir": built}
  )
  labels = sorted(source[i]["label"].tolist() for i in range(3))
  assert labels == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_names_of_several_classes_are_known(built):
  config = {
    "name": "nested:1.0.0",
    "split": "train",
    "data_dir": built,
    "pp": "onehot(2,'real_label')|copy('real_label','label')",
  }
  source = data.open_source(config)
  assert data.classes(config, source) == (2, ["c", "d"])
  assert source.classes() == (2, ["a", "b"])


def test_corrupt_examples_are_named_by_files_whatever_is_read(built):
  config = {
    "name": "nested:1.0.0",
    "split": "train[:1]",
    "data_dir": built,
    "features": ("label",),
    "pp": "decode",
  }
  with pytest.raises(data.ExampleError, match=r"example 0, photo\d\.png of"):
    next(data.train_batches(config, batch_size=1, seed=0))


def test_splits_of_tfds_have_aliases(built):
  config = {"name": "nested:1.0.0", "data_dir": built}
  for split, count in [
    ("validation", 2),
    ("dev[:50%]", 1),
    ("training+valid", 7),
    ("all", 7),
  ]:
    assert len(data.open_source({**config, "split": split})) == count
  with pytest.raises(ValueError, match=r"'test'. Its splits are: train, val\."):
    data.open_source({**config, "split": "test"})


def test_examples_that_are_no_dicts_are_refused(built):
  config = {"name": "unnamed:1.0.0", "split": "train", "data_dir": built}
  with pytest.raises(ValueError, match="are no dicts of named features"):
    data.open_source(config)


# Labels and digests


def test_labels_are_read_without_images(digits):
  source = data.open_source(digits(split="test"))
  expected = [int(source[i]["label"]) for i in range(len(source))]
  assert source.labels().tolist() == expected
  assert source.labels().dtype == np.int64
  with pytest.raises(ValueError, match=r"'image' is no entry.*Such are: label"):
    source.labels("image")
  other = data.open_source(digits(split="test", features=("image",)))
  assert other.labels().tolist() == expected


def test_labels_of_noise():
  source = data.open_source({"name": "fake:4x4x1:5:30", "split": "train"})
  expected = [int(source[i]["label"]) for i in range(30)]
  assert source.labels().tolist() == expected
  with pytest.raises(ValueError, match="'image' is no entry"):
    source.labels("image")


def test_digests_tell_data_apart(digits):
  sources = [
    data.open_source({"name": name, "split": split})
    for name in ("fake:4x4x1:5:30", "fake:4x4x1:5:31")
    for split in ("train", "test")
  ]
  sources += [data.open_source(digits(split=s)) for s in ("train", "test")]
  digests = [source.digest() for source in sources]
  assert len(set(digests)) == len(digests)
  assert data.open_source(digits()).digest() == digests[-2]
  assert all(len(digest) == 16 for digest in digests)


def test_labels_of_many_examples_are_read_once(digits, tmp_path, monkeypatch):
  """By all evaluations, and by the starts of a run that follow."""
  monkeypatch.setenv("TLFV_CACHE", str(tmp_path))
  monkeypatch.setattr(
    tfds_source.TfdsSource, "has_labels_at_hand", property(lambda self: False)
  )
  section = digits(split="test")
  first = data.open_source(section).labels()
  source = data.open_source(section)
  assert first.tolist() == [int(source[i]["label"]) for i in range(len(source))]
  other = data.open_source(digits(split="train"))
  assert len(other.labels()) == len(other) != len(first)
  monkeypatch.setattr(tfds_source.TfdsSource, "_read_labels", None)
  np.testing.assert_array_equal(data.open_source(section).labels(), first)


def test_a_cache_that_cannot_be_written_costs_time_alone(
  digits, tmp_path, monkeypatch
):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("TLFV_CACHE", str(tmp_path / "file"))
  monkeypatch.setattr(
    tfds_source.TfdsSource, "has_labels_at_hand", property(lambda self: False)
  )
  source = data.open_source(digits(split="test"))
  assert len(source.labels()) == len(source)


def test_an_empty_file_in_the_cache_is_written_anew(
  digits, tmp_path, monkeypatch
):
  """As a power cut may leave it."""
  monkeypatch.setenv("TLFV_CACHE", str(tmp_path))
  monkeypatch.setattr(
    tfds_source.TfdsSource, "has_labels_at_hand", property(lambda self: False)
  )
  source = data.open_source(digits(split="test"))
  labels = source.labels()
  (file,) = (tmp_path / "labels").iterdir()
  file.write_bytes(b"")
  np.testing.assert_array_equal(source.labels(), labels)
  assert file.stat().st_size
