"""Files that are damaged or hostile: an error that says so, and no more."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tokenlearner_flexivit import interop


class Bomb:
  """Leaves a file behind when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (os.mkdir, (str(self.path),))


@pytest.fixture
def weights(make_model, make_params):
  """Arrays of a model by name."""
  params = make_params(make_model())
  return traverse_util.flatten_dict(params, sep="/")


@pytest.fixture
def refused(tmp_path, make_model):
  """Returns a function that checks that a file is refused with a reason."""

  def check(path, message):
    with pytest.raises(ValueError, match=message) as error:
      interop.load_params(path, make_model())
    assert path.name in str(error.value)

  return check


def entry(array):
  """The bytes of a .npy file."""
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as file:
    for name, content in entries.items():
      file.writestr(name, content)


def test_missing(tmp_path, make_model):
  with pytest.raises(FileNotFoundError, match="neither a file on this machine"):
    interop.load_params(tmp_path / "none.npz", make_model())
  with pytest.raises(FileNotFoundError, match="Did you mean 'FlexiViT-B i1k'"):
    interop.load_params("FlexiVit-B i1k", make_model())


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is empty"),
    (b"PK\3\4 and no more", "damaged or incomplete"),
    (b"\x93NUMPY\1\0v\0", "a single NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"<!doctype html><html>not found</html>", "a web page"),
    (b"\x85\xa3abc", "damaged or no flax msgpack"),
    (b"\x81\xa3abc\x01", "no arrays"),
    (b"\x10\0\0\0\0\0\0\0{not json       ", "damaged or no safetensors"),
    (b"\xff\xff\xff\xff\xff\0\0\0{}", "damaged or no safetensors"),
    (b"just some text", "starts with b'just som'"),
  ],
)
def test_no_weights_at_all(content, message, tmp_path, refused):
  path = tmp_path / "weights.npz"
  path.write_bytes(content)
  refused(path, message)


def test_folder_that_is_no_workdir(tmp_path, make_model):
  with pytest.raises(ValueError, match="holds no checkpoint"):
    interop.load_params(tmp_path, make_model())


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_truncated(name, part, weights, tmp_path, refused):
  path = tmp_path / name
  interop.save_params(traverse_util.unflatten_dict(weights, sep="/"), path)
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * part)])
  refused(path, "damaged")


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_bits(compressed, weights, tmp_path, refused):
  path = tmp_path / "a.npz"
  (np.savez_compressed if compressed else np.savez)(path, **weights)
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 8] = bytes(255 - b for b in content[middle:][:8])
  path.write_bytes(content)
  refused(path, "array '.*': ")


def test_pickled_array(weights, tmp_path, refused):
  bomb = np.array([Bomb(tmp_path / "ran")], dtype=object)
  path = tmp_path / "a.npz"
  np.savez(path, **(weights | {"embedding/kernel": bomb}))
  refused(path, "pickled Python objects, which are never read")
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle(protocol, tmp_path, refused):
  path = tmp_path / "a.safetensors"
  path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))
  refused(path, "it is a pickle, which runs code")
  assert not (tmp_path / "ran").exists()


def test_torch_file(tmp_path, refused):
  path = tmp_path / "model.pth"
  content = pickle.dumps(Bomb(tmp_path / "ran"))
  write_zip(path, {"archive/data.pkl": content, "archive/data/0": b"1234"})
  refused(path, "PyTorch file and holds a pickle")
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
  "name", ["../../evil.npy", "/etc/evil.npy", "a\\..\\evil.npy", "a//b.npy"]
)
def test_names_that_lead_elsewhere(name, tmp_path, refused):
  path = tmp_path / "a.npz"
  write_zip(path, {name: entry(np.zeros(3))})
  refused(path, "leads elsewhere")


def test_other_zip(tmp_path, refused):
  path = tmp_path / "a.npz"
  write_zip(path, {"word/document.xml": b"<xml/>"})
  refused(path, "no .npz file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_twice(tmp_path, refused):
  path = tmp_path / "a.npz"
  with zipfile.ZipFile(path, "w") as file:
    for _ in range(2):
      file.writestr("a.npy", entry(np.zeros(3)))
  refused(path, "has 'a' twice")


@pytest.mark.parametrize(
  ("header", "message"),
  [
    ("(1000000, 1000000, 1000000)", "asks for 4,000,000,000,000,000,000 bytes"),
    ("(-3,)", "absurd"),
    ("(1,) * 3", "array 'a'"),
    ("__import__('os').mkdir('ran')", "array 'a'"),
  ],
)
def test_absurd_headers(header, message, tmp_path, refused, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {header}, }}"
  text = text.ljust(117) + "\n"
  content = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()
  path = tmp_path / "a.npz"
  write_zip(path, {"a.npy": content + bytes(12)})
  refused(path, message)
  assert not (tmp_path / "ran").exists()


def test_entry_that_claims_more_than_compression_can_do(tmp_path, refused):
  path = tmp_path / "a.npz"
  write_zip(path, {"a.npy": entry(np.zeros(100))}, zipfile.ZIP_DEFLATED)
  content = path.read_bytes()
  # The claim of the uncompressed size, in both places where it stands.
  old = (928).to_bytes(4, "little")
  assert content.count(old) == 2
  path.write_bytes(content.replace(old, (2**30 + 128).to_bytes(4, "little")))
  refused(path, "array 'a': ")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_not_finite(name, value, weights, tmp_path, refused):
  kernel = weights["embedding/kernel"].copy()
  kernel[0, 0, 0, 0] = value
  params = traverse_util.unflatten_dict(
    weights | {"embedding/kernel": kernel}, sep="/"
  )
  interop.save_params(params, tmp_path / name)
  refused(tmp_path / name, "embedding/kernel holds NaN or infinity")


def test_too_large_for_float32(weights, tmp_path, refused):
  path = tmp_path / "a.npz"
  bias = weights["embedding/bias"] * np.float64(1e300)
  np.savez(path, **(weights | {"embedding/bias": bias}))
  refused(path, "embedding/bias is too large for float32")


def test_integers(weights, tmp_path, refused):
  path = tmp_path / "a.npz"
  bias = weights["embedding/bias"].astype(np.int32)
  np.savez(path, **(weights | {"embedding/bias": bias}))
  refused(path, "embedding/bias of type int32")


def test_safetensors_whose_shape_is_not_its_size(tmp_path, refused):
  path = tmp_path / "a.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
  path.write_bytes(path.read_bytes().replace(b"[3]", b"[9]"))
  refused(path, "damaged or no safetensors")


def test_unknown_names(tmp_path, refused):
  path = tmp_path / "a.npz"
  np.savez(path, **{f"layer{i}/w": np.zeros(3) for i in range(9)})
  refused(path, "layer7/w and 1 more")


def test_strange_shapes_in_torch_names(tmp_path, refused):
  path = tmp_path / "a.safetensors"
  names = (
    "patch_embed.proj.weight",
    "blocks.99999999.attn.qkv.weight",
    "pos_embed",
    "norm.weight",
    "norm.bias",
  )
  safetensors.numpy.save_file(
    {name: np.zeros((7,), np.float32) for name in names}, path
  )
  images = {"mean": [0.5] * 3, "std": [0.5] * 3}
  (tmp_path / "config.json").write_text(
    json.dumps({"architecture": "vit", "pretrained_cfg": images})
  )
  refused(
    path,
    r"patch_embed.proj.weight \(here embedding/kernel\) \[7\], the model's is"
    r" \[4, 4, 3, 16\]",
  )


def test_fortran_order_and_big_endian(
  weights, tmp_path, make_model, assert_same
):
  # Unusual, but right.
  path = tmp_path / "a.npz"
  strange = {k: np.asfortranarray(v.astype(">f4")) for k, v in weights.items()}
  np.savez(path, **strange)
  loaded, _ = interop.load_params_and_report(path, make_model())
  assert_same(loaded, traverse_util.unflatten_dict(weights, sep="/"))


INDEX = "model.safetensors.index.json"
SHARDS = tuple(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


@pytest.fixture
def in_two_files(weights, tmp_path):
  """Returns the names of arrays by the file, of two, that holds them."""
  names = sorted(weights)
  parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
  for file, part in parts.items():
    safetensors.numpy.save_file(
      {name: weights[name] for name in part}, tmp_path / file
    )
  files = {name: file for file, part in parts.items() for name in part}
  (tmp_path / INDEX).write_text(json.dumps({"weight_map": files}))
  return files


def test_several_files_are_one(
  in_two_files, weights, tmp_path, make_model, assert_same
):
  for source in (tmp_path, tmp_path / INDEX):
    loaded, report = interop.load_params_and_report(source, make_model())
    assert_same(loaded, traverse_util.unflatten_dict(weights, sep="/"))
  assert report.container == "safetensors index"
  # The checksum is that of all files, not of the index.
  changed = {
    k: v + 1 for k, v in weights.items() if in_two_files[k] in SHARDS[:1]
  }
  safetensors.numpy.save_file(changed, tmp_path / SHARDS[0])
  _, again = interop.load_params_and_report(tmp_path, make_model())
  assert again.sha256 != report.sha256


def test_several_files_that_are_not_whole(in_two_files, weights, tmp_path):
  with pytest.raises(ValueError, match=r"one of several files .*the index"):
    interop.describe(tmp_path / SHARDS[0])
  lacking = {k: v for k, v in weights.items() if in_two_files[k] == SHARDS[1]}
  missing = lacking.popitem()[0]
  safetensors.numpy.save_file(lacking, tmp_path / SHARDS[1])
  with pytest.raises(ValueError, match=f"names {missing} in {SHARDS[1]}"):
    interop.describe(tmp_path)
  (tmp_path / SHARDS[1]).unlink()
  with pytest.raises(FileNotFoundError, match=f"names {SHARDS[1]}, which"):
    interop.describe(tmp_path)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{}", "has no 'weight_map'"),
    ('{"weight_map": {"a": "../b.safetensors"}}', "not in its folder"),
  ],
)
def test_a_damaged_index(content, message, tmp_path):
  (tmp_path / INDEX).write_text(content)
  with pytest.raises(ValueError, match=message):
    interop.describe(tmp_path)


def test_a_folder_of_other_names_says_which_files_it_has(tmp_path):
  for name in ("b.npz", "a.safetensors"):
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=r"one of its files: a.safe\S+, b.npz"):
    interop.describe(tmp_path)
