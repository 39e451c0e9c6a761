"""The benchmarks run; what they measure is not judged here."""

from benchmarks import patch_embed


def test_patch_embed_reports_times():
  for result in (
    patch_embed.measure_matrices(processes=1),
    patch_embed.measure_application(sizes=(8, 4), width=8, repeats=1),
  ):
    assert result["milliseconds"] > 0
