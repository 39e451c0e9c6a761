r"""Looks into trained models: FlexiViT's section on internal representations.

  python -m experiments.inside_flexivit.run \
    --flexivit=/tmp/curves/cpu_flexi_0,/tmp/curves/cpu_flexi_1

Takes runs that `experiments.flexivit_curves` and `experiments.two_dials` have
trained, seeds of one model each. Nothing is trained. The results are written
beside the first run unless there are three seeds, models of each kind and 2,000
images.
"""

import json
import pathlib
import time

import jax
from absl import app, flags, logging

from experiments import study
from experiments.inside_flexivit import claims, measure, pictures, summary

HERE = pathlib.Path(__file__).parent
_FLEXIVIT = flags.DEFINE_list("flexivit", None, "Workdirs of FlexiViT's seeds.")
_FIXED = flags.DEFINE_list("fixed", [], "Of ViTs of one patch size each.")
_TWO_DIALS = flags.DEFINE_list("two_dials", [], "Of seeds with both dials.")
_IMAGES = flags.DEFINE_integer("images", 2000, "Test images.", lower_bound=100)
flags.mark_flag_as_required("flexivit")


def main(argv: list[str]) -> None:
  """Measures, draws, and writes results and sections."""
  del argv
  logging.set_verbosity(logging.WARNING)
  start = time.perf_counter()
  number = _IMAGES.value
  paths = {
    kind: [pathlib.Path(path) for path in flag.value]
    for kind, flag in (
      ("flexivit", _FLEXIVIT),
      ("fixed", _FIXED),
      ("two_dials", _TWO_DIALS),
    )
  }
  for kind, runs in paths.items():
    if len({run.resolve() for run in runs}) < len(runs):
      shown = ",".join(map(str, runs))
      raise app.UsageError(f"--{kind}={shown} has a run twice.")
  folder = study.results_folder(
    HERE,
    paths["flexivit"][0].parent,
    whole=len(paths["flexivit"]) >= len(study.SEEDS)
    and all(paths.values())
    and number >= _IMAGES.default,
  )
  figures = folder / "figures"
  figures.mkdir(exist_ok=True)
  found = {kind: [] for kind in paths}
  for i, path in enumerate(paths["flexivit"]):
    inside = measure.of_flexivit(path, number)
    if not i:
      pictures.of_flexivit(inside, figures)
    found["flexivit"].append(inside.numbers())
    print(f"{path.name}: done", flush=True)
  for kind, measured in (
    ("fixed", measure.of_fixed),
    ("two_dials", measure.of_two_dials),
  ):
    for path in paths[kind]:
      found[kind].append(measured(path, number))
      print(f"{path.name}: done", flush=True)
  pictures.depth(found["flexivit"], figures / "depth.png")
  if paths["two_dials"]:
    pictures.of_two_dials(paths["two_dials"][0], figures)
  judged = claims.claims(**found)
  results = {
    "command": summary.command(paths, number),
    "seeds": [path.name for path in paths["flexivit"]],
    "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "seconds": round(time.perf_counter() - start),
    "rows": [row for rows in found.values() for row in rows],
    "claims": judged,
  }
  (folder / "results.json").write_text(
    json.dumps(results, indent=2) + "\n", encoding="utf-8"
  )
  text = summary.sections(found["flexivit"], judged, bool(paths["two_dials"]))
  study.fill_in(folder / "README.md", "results", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
