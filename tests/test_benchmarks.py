"""The benchmarks run; what they measure is not judged here."""

from benchmarks import dispatch, patch_embed


def test_patch_embed_reports_times():
  for result in (
    patch_embed.measure_matrices(processes=1),
    patch_embed.measure_application(sizes=(8, 4), width=8, repeats=1),
  ):
    assert result["milliseconds"] > 0


def test_dispatch_reports_ratios(config):
  result = dispatch.measure(config, rounds=1, steps=2)
  assert result["backend"] == "cpu"
  for what in ("compile", "step"):
    assert result[f"{what}_switch_over_host"] > 0
