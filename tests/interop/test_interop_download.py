"""Sources other than a local path; nothing leaves this machine."""

import hashlib
import io
import json
import sys
import types
import urllib.error
import urllib.request

import pytest
from etils import epath

from tokenlearner_flexivit import interop
from tokenlearner_flexivit.interop import download

CONTENT = b"some weights"


class Response(io.BytesIO):
  """What urlopen returns."""

  def __init__(self, content, length=None):
    super().__init__(content)
    self.headers = {"Content-Length": str(length or len(content))}


@pytest.fixture
def web(monkeypatch):
  """Answers requests by address, and remembers them."""
  pages, asked = {}, []

  def urlopen(url, timeout):
    asked.append(url)
    if isinstance(pages[url], Exception):
      raise pages[url]
    return pages[url]

  monkeypatch.setattr(urllib.request, "urlopen", urlopen)
  return types.SimpleNamespace(pages=pages, asked=asked)


def test_released_name(web):
  url = "https://storage.googleapis.com/big_vision/flexivit/flexivit_b_i1k.npz"
  web.pages[url] = Response(CONTENT)
  path = interop.fetch("FlexiViT-B i1k")
  assert path.read_bytes() == CONTENT
  assert path.name.endswith("-flexivit_b_i1k.npz")
  # The second time it is there.
  assert interop.fetch("FlexiViT-B i1k") == path
  assert web.asked == [url]


def test_another_file_under_a_known_address_is_refused(web, tmp_path):
  url = "https://example.com/a.npz"
  web.pages[url] = Response(CONTENT)
  path = interop.fetch(url)
  noted = path.with_name(f"{path.name}.sha256")
  assert noted.read_text().split()[0] == hashlib.sha256(CONTENT).hexdigest()
  # The cached file changes on the disk.
  path.write_bytes(b"other weights")
  with pytest.raises(ValueError, match="damaged or was replaced"):
    download.checked_sha256(path)
  # The server has another one.
  path.unlink()
  web.pages[url] = Response(b"other weights")
  with pytest.raises(ValueError, match="not what it was at its first download"):
    interop.fetch(url)
  assert [p.name for p in path.parent.iterdir()] == [noted.name]
  noted.unlink()
  web.pages[url] = Response(b"other weights")
  assert interop.fetch(url).read_bytes() == b"other weights"


def test_without_a_network(web):
  url = "https://storage.googleapis.com/big_vision/flexivit/flexivit_b_i1k.npz"
  web.pages[url] = urllib.error.URLError("no route")
  with pytest.raises(OSError, match=f"{url} cannot be downloaded .*the path"):
    interop.fetch("FlexiViT-B i1k")
  with pytest.raises(
    FileNotFoundError, match="Released names: FlexiViT-B i1k,"
  ):
    interop.fetch("no such name")


def test_names_of_the_issue_are_known():
  assert {"FlexiViT-B i1k", "ViT-B/8 augreg i21k"} <= interop.RELEASED.keys()
  for location in interop.RELEASED.values():
    assert location.startswith("gs://") and location.endswith(".npz")


def test_checksum_is_printed_and_checked(
  tmp_path, make_model, make_params, capsys
):
  model = make_model()
  path = tmp_path / "a.npz"
  interop.save_params(make_params(model), path)
  expected = hashlib.sha256(path.read_bytes()).hexdigest()
  url = path.as_uri()
  interop.load_params(url, model, sha256=expected)
  assert expected in capsys.readouterr().out
  with pytest.raises(ValueError, match=f"has sha256 {expected}, not 00"):
    interop.load_params(url, model, sha256="00")


def test_incomplete_download_is_not_kept(web, tmp_path):
  url = "https://example.com/a.npz"
  web.pages[url] = Response(CONTENT, length=100)
  with pytest.raises(ValueError, match="ended after 12 of 100 bytes"):
    interop.fetch(url)
  assert not list((tmp_path / "cache").iterdir())
  web.pages[url] = Response(CONTENT)
  assert interop.fetch(url).read_bytes() == CONTENT


def test_private_bucket(web, tmp_path, monkeypatch):
  url = "https://storage.googleapis.com/mine/a%20b.npz"
  web.pages[url] = urllib.error.HTTPError(url, 403, "Forbidden", {}, None)
  (tmp_path / "remote").write_bytes(CONTENT)
  monkeypatch.setattr(epath, "Path", lambda _: tmp_path / "remote")
  assert interop.fetch("gs://mine/a b.npz").read_bytes() == CONTENT

  def no_backend(_):
    raise ImportError("gcsfs")

  web.pages[url.replace("mine", "other")] = web.pages[url]
  monkeypatch.setattr(epath, "Path", no_backend)
  with pytest.raises(OSError, match="pip install gcsfs"):
    interop.fetch("gs://other/a b.npz")


def test_missing_page(web):
  url = "https://example.com/b.npz"
  web.pages[url] = urllib.error.HTTPError(url, 404, "Not Found", {}, None)
  with pytest.raises(OSError, match="Not Found"):
    interop.fetch(url)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub with one repository; returns the files it has."""
  files = ["README.md", "model.safetensors", "model.npz"]

  def hf_hub_download(repo, file, revision):
    path = tmp_path / f"{repo}-{revision}-{file}".replace("/", "-")
    path.write_bytes(CONTENT)
    return str(path)

  library = types.SimpleNamespace(
    hf_hub_download=hf_hub_download,
    list_repo_files=lambda repo, revision: files,
  )
  monkeypatch.setitem(sys.modules, "huggingface_hub", library)
  return files


@pytest.mark.parametrize(
  ("source", "name"),
  [
    ("hf://timm/vit", "timm-vit-None-model.safetensors"),
    ("hf://timm/vit@v1", "timm-vit-v1-model.safetensors"),
    ("hf://timm/vit@refs/pr/3", "timm-vit-refs-pr-3-model.safetensors"),
    ("hf://timm/vit@a%2Fb+c/model.npz", "timm-vit-a-b+c-model.npz"),
    ("hf://timm/vit.a@v1/model.npz", "timm-vit.a-v1-model.npz"),
    ("hf://timm/vit/sub/a.npz", "timm-vit-None-sub-a.npz"),
  ],
)
def test_hugging_face(source, name, hub):
  assert interop.fetch(source).name == name


def test_what_a_repository_tells_of_its_model_is_fetched_too(hub, tmp_path):
  hub.append("config.json")
  interop.fetch("hf://timm/vit")
  assert (tmp_path / "timm-vit-None-config.json").exists()
  assert not (tmp_path / "timm-vit-None-preprocessor_config.json").exists()


def test_all_of_several_files_are_fetched(hub, tmp_path, monkeypatch):
  hub[:] = ["model.safetensors.index.json", "a.safetensors", "b.safetensors"]
  library = sys.modules["huggingface_hub"]
  fetch = library.hf_hub_download

  def hf_hub_download(repo, file, revision):
    path = tmp_path / file
    files = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    path.write_text(json.dumps(files))
    return str(path) if file in hub else fetch(repo, file, revision)

  monkeypatch.setattr(library, "hf_hub_download", hf_hub_download)
  assert interop.fetch("hf://a/b").name == hub[0]
  assert {f.name for f in tmp_path.glob("*.safetensors*")} == set(hub)


def test_hugging_face_without_choice(hub):
  hub.remove("model.safetensors")
  assert interop.fetch("hf://a/b").name == "a-b-None-model.npz"
  hub.append("other.npz")
  with pytest.raises(ValueError, match=r"has model\.npz, other\.npz"):
    interop.fetch("hf://a/b")


def test_hugging_face_without_its_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ImportError, match="pip install huggingface_hub"):
    interop.fetch("hf://a/b")


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("hf://owner", "must be hf://owner/repo"),
    ("hf://owner/repo/../../etc/passwd", "must be hf://owner/repo"),
    ("ftp://example.com/a.npz", "Known: gs://"),
    ("http://example.com/a.npz", "Known: gs://"),
  ],
)
def test_other_sources_are_refused(source, message):
  with pytest.raises(ValueError, match=message):
    download.fetch(source)
