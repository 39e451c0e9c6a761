"""Files of a workdir, on disks that fill up."""

import json
import resource

import pytest

from tokenlearner_flexivit.run import workdir as workdir_lib


@pytest.fixture
def full_disk():
  """Lets no file have more than 100 bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_leaves_the_file_before_and_nothing_else(
  tmp_path, full_disk
):
  path = tmp_path / "report.json"
  workdir_lib.write_json(path, {"step": 1})
  with pytest.raises(OSError, match=r"File too large: .*report\.json'"):
    workdir_lib.write_json(path, {"steps": list(range(100))})
  assert json.loads(path.read_text()) == {"step": 1}
  assert list(tmp_path.iterdir()) == [path]
