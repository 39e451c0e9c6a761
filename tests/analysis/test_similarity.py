"""Pictures of CKA: points where they should be, and a command that draws."""

import numpy as np
import pytest

from tokenlearner_flexivit.analysis import similarity


def test_what_is_alike_lies_together():
  place = np.r_[0:0.5:20j, 3:3.5:20j]  # Two models of twenty layers each.
  values = np.cos(np.minimum(abs(place[:, None] - place), np.pi / 2))
  points = similarity.embedding(values)
  distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
  nearest = np.argsort(distances, axis=1)[:, 1:4]
  assert ((nearest < 20) == (np.arange(40) < 20)[:, None]).all()
  with pytest.raises(ValueError, match="4 representations or more, got 3"):
    similarity.embedding(values[:3, :3])
  values[0, 1] = np.nan
  with pytest.raises(ValueError, match="Leave them out"):
    similarity.embedding(values)


def test_the_command_draws_a_run(untrained_run, tmp_path, capsys):
  picture = tmp_path / "similarity.png"

  def command(*arguments):
    similarity.main(
      [f"--workdir={untrained_run}", f"--output={picture}", *arguments]
    )

  command("--num_images=12", "--batch_size=6")
  assert picture.stat().st_size > 10_000
  assert "12 images" in capsys.readouterr().out
  saved = np.load(picture.with_suffix(".npz"))
  number = 3 * (1 + 2 * 2)  # Sizes; position embedding and two half blocks.
  assert saved["cka"].shape == (number, number)
  assert set(saved["labels"][:, 0]) == {"patch6", "patch4", "patch3"}
  np.testing.assert_allclose(np.diag(saved["cka"]), 1, rtol=1e-5)
  for arguments, words in (
    (["--patch_sizes=5"], "5"),
    (["--names=block"], "no 'block'"),
    (["--num_images=3"], "at least 4"),
  ):
    with pytest.raises(SystemExit, match=words):
      command(*arguments)
