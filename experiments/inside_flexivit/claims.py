"""What the paper says of the inside of FlexiViT: whether it holds here."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import study
from experiments.inside_flexivit import measure

Found = Mapping[str, Any]
_PAPER = "FlexiViT, Figure 6 (as reported)"
_ALIKE = 0.8  # CKA from which on we call representations alike.
_RISE = 0.05
_SELDOM = 0.25
_LIKE = 0.1


def middle(layers: Sequence[str]) -> int:
  """The index of the MLP of the middle block, as block 6 of 12.

  Args:
    layers: of `similarity.layers`: the position embedding, then two for each
      block.
  """
  depth = (len(layers) - 1) // 2
  return 2 * (depth // 2)


def depth_of(found: Sequence[Found]) -> dict[str, list[float]]:
  """CKA between the patch sizes by layer, a value for each run."""
  layers = [name for name in found[0]["alike"] if name != measure.POOLED]
  return {name: [run["alike"][name] for run in found] for name in layers}


def claims(
  flexivit: Sequence[Found],
  fixed: Sequence[Found],
  two_dials: Sequence[Found],
) -> list[study.Row]:
  """Judges.

  Args:
    flexivit: of `measure.of_flexivit`, seeds of one model.
    fixed: of `measure.of_fixed`, perhaps none.
    two_dials: of `measure.of_two_dials`, perhaps none.

  Returns:
    For each claim `claim`, `source`, `expected`, `measured` and `holds`.
  """
  flexi = flexivit
  found = [*_of_depth(flexi), _of_pooled(flexi), _of_places(flexi)]
  found += [_of_ensembles(flexi), _of_details(flexi), _of_labels(flexi)]
  if fixed:
    found.append(_of_fixed(flexi, fixed))
  if two_dials:
    found.append(_of_two_dials(two_dials))
  return found


def _of_depth(flexi: Sequence[Found]) -> list[study.Row]:
  by_layer = {k: statistics.fmean(v) for k, v in depth_of(flexi).items()}
  layers, values = list(by_layer), list(by_layer.values())
  half, blocks = middle(layers), (len(layers) - 1) // 2
  # Of two blocks none is between the middle one and the last, so nothing can
  # be said of what is there; one block has no middle either.
  if blocks < 2:
    return []
  before, after = values[1 : half + 1], values[half + 1 : -2]
  last, previous = values[-1], values[-3]
  found = [
    study.claim(
      "patch sizes are alike up to the MLP of the middle block (block 6 of "
      f"12; here {blocks // 2} of {blocks})",
      _PAPER,
      f"CKA >= {_ALIKE}",
      f"mean {_mean(before):.2f}, from {before[0]:.2f} after the first "
      f"attention to {before[-1]:.2f}",
      _mean(before) >= _ALIKE,
    )
  ]
  if after:
    found.append(
      study.claim(
        "after it they part",
        _PAPER,
        "CKA lower than before",
        f"mean {_mean(after):.2f}, before {_mean(before):.2f}",
        _mean(after) < _mean(before),
      )
    )
  found.append(
    study.claim(
      "in the last block they come together again",
      _PAPER,
      f"CKA rises by {_RISE} or more in the last block",
      f"from {previous:.3f} to {last:.3f}",
      last - previous >= _RISE,
    )
  )
  return found


def _of_pooled(flexi: Sequence[Found]) -> study.Row:
  pairs = _by_key(run["pooled"] for run in flexi)
  worst = min(pairs, key=pairs.get)
  return study.claim(
    "cls is aligned across all grids (here, where there is none, the mean of "
    "the tokens that the head sees)",
    _PAPER,
    f"CKA >= {_ALIKE} for each pair of patch sizes",
    f"mean {_mean(pairs.values()):.2f}; least {pairs[worst]:.2f}, of {worst}",
    pairs[worst] >= _ALIKE,
  )


def _of_places(flexi: Sequence[Found]) -> study.Row:
  rates = _by_key(_rates(run, "rate") for run in flexi)
  chance = _by_key(_rates(run, "chance") for run in flexi)
  worst = min(rates, key=rates.get)
  return study.claim(
    "a token is most similar to that at the same place at another patch size",
    "FlexiViT, Figure 13 (as reported)",
    "more than half of the tokens, for each pair of patch sizes",
    f"{100 * _mean(rates.values()):.0f} % on average (by chance "
    f"{100 * _mean(chance.values()):.0f} %); least {100 * rates[worst]:.0f} %, "
    f"{worst}",
    rates[worst] > 0.5,
  )


def _rates(run: Found, key: str) -> dict[str, float]:
  return {f"{r['from']} to {r['to']}": r[key] for r in run["correspondence"]}


def _of_ensembles(flexi: Sequence[Found]) -> study.Row:
  by_run = [
    {
      row["name"]: 100 * (row["accuracy"] - row["single_accuracy"])
      for row in run["agreement"]["ensembles"]
    }
    for run in flexi
  ]
  gains = _by_key(by_run)
  mean = study.spread(_mean(run.values()) for run in by_run)
  error = "one seed"
  if len(by_run) > 1:
    error = f"standard error over seeds {mean['std'] / len(by_run) ** 0.5:.1f}"
  best = max(gains, key=gains.get)
  pay = sum(gain > 0 for gain in gains.values())
  return study.claim(
    "ensembles of patch sizes are almost always worse than one patch size at "
    "the same cost",
    "FlexiViT, appendix (as reported)",
    f"at most {100 * _SELDOM:.0f} % of them are better",
    f"{pay} of {len(gains)} are better; on average {mean['mean']:+.1f} points "
    f"({error}), best {gains[best]:+.1f} ({best})",
    pay <= _SELDOM * len(gains),
  )


def _of_details(flexi: Sequence[Found]) -> study.Row:
  rows = [run["agreement"]["attributes"][0] for run in flexi]
  shares = _by_key(
    {part: values["only_fine"] for part, values in row["parts"].items()}
    for row in rows
  )
  finest, coarsest = (f(shares, key=float) for f in (min, max))
  numbers = {p: v["examples"] for p, v in rows[0]["parts"].items()}
  # Seeds answer the same images, so they make no sample of more images.
  error = sum(
    shares[part] * (1 - shares[part]) / numbers[part]
    for part in (finest, coarsest)
  )
  error **= 0.5
  difference = shares[finest] - shares[coarsest]
  correlation = _mean(row["correlation"] or 0.0 for row in rows)
  fine, coarse = (
    f"{100 * shares[part]:.1f} % of the {numbers[part]} images of the {which}"
    for part, which in ((finest, "finest textures"), (coarsest, "coarsest"))
  )
  return study.claim(
    "what only small patches get right are images of small details",
    "this project's question",
    "a larger share of the fine textures than of the coarse ones, by more than "
    "the standard error",
    f"{fine}, {coarse}: {100 * difference:+.1f} points, standard error by the "
    f"number of images {100 * error:.1f} (correlation with the "
    f"{measure.ATTRIBUTE} {correlation:+.2f})",
    difference > error,
  )


def _of_labels(flexi: Sequence[Found]) -> study.Row:
  answers = {
    label: _by_key(_column(run, label, "answer") for run in flexi)
    for label in measure.LABELS
  }
  probes = {
    label: _by_key(_column(run, label, "above_chance") for run in flexi)
    for label in measure.LABELS
  }
  least = min(
    answers["texture"][s] - answers["shape"][s] for s in probes["shape"]
  )
  return study.claim(
    "trained on textures, answers follow the texture at every patch size",
    "this project's question",
    "texture above shape everywhere",
    f"of the texture's entropy {_listed(answers['texture'])}, of the shape's "
    f"{_listed(answers['shape'])}; linear probes reach, from chance to "
    f"perfect, {_listed(probes['texture'])} and {_listed(probes['shape'])}",
    least > 0,
  )


def _of_fixed(flexi: Sequence[Found], fixed: Sequence[Found]) -> study.Row:
  """Figure 25's comparison, by what linear probes find."""
  alone, ours = _shares(fixed), _shares(flexi)
  differences = {
    size: _mean(ours[size]) - _mean(values)
    for size, values in alone.items()
    if values and ours.get(size)
  }
  # What differs by nothing known does not hold.
  largest = max(map(abs, differences.values()), default=np.inf)
  unknown = [
    size.removeprefix("patch")
    for size in alone
    if size in ours and size not in differences
  ]
  measured = [_listed(differences, signed=True) + " points"] * bool(differences)
  if unknown:
    measured.append(f"{', '.join(unknown)}: probes find neither beyond chance")
  return study.claim(
    "shape against texture is like in the ViT of that patch size alone",
    "FlexiViT, Figure 25 (as reported)",
    "shape's share of what the representation holds (a probe below chance "
    f"counts as 0) within {100 * _LIKE:.0f} points",
    "; ".join(measured) or "no patch size is among both",
    largest <= _LIKE,
  )


def _shares(runs: Sequence[Found]) -> dict[str, list[float]]:
  """`shape_share` of runs by patch size; of those that know none an empty one.

  Runs need not have the same patch sizes.
  """
  found: dict[str, list[float]] = {}
  for run in runs:
    known = shape_share(run)
    for row in run["labels"]:
      values = found.setdefault(row["name"], [])
      values += [known[row["name"]]] if row["name"] in known else []
  return found


def shape_share(run: Found) -> dict[str, float]:
  """Shape's share of what linear probes find beyond chance, by patch size.

  A probe below chance finds nothing: it counts as 0. Where neither is above
  there is no share.
  """
  shape, texture = (
    {s: max(value, 0.0) for s, value in _column(run, n, "above_chance").items()}
    for n in measure.LABELS
  )
  return {
    s: shape[s] / (shape[s] + texture[s])
    for s in shape
    if shape[s] + texture[s] > 0
  }


def _column(run: Found, label: str, key: str) -> dict[str, float]:
  return {row["name"]: row["labels"][label][key] for row in run["labels"]}


def _of_two_dials(two_dials: Sequence[Found]) -> study.Row:
  sizes, numbers = (
    _mean(run[key] for run in two_dials) for key in ("patch_size", "num_tokens")
  )
  return study.claim(
    "with both dials, what the head sees changes more with the patch size than "
    "with the number of learned tokens",
    "this project's question",
    "lower CKA between patch sizes",
    f"{sizes:.2f} between patch sizes, {numbers:.2f} between numbers of tokens",
    sizes < numbers,
  )


def _by_key(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """Means over runs of values by name."""
  runs = list(runs)
  return {key: _mean(run[key] for run in runs) for key in runs[0]}


def _mean(values: Iterable[float]) -> float:
  return float(np.mean(list(values)))


def _listed(values: Mapping[str, float], signed: bool = False) -> str:
  form = "{:+.0f}" if signed else "{:.0f} %"
  return ", ".join(
    f"{size.removeprefix('patch')}: {form.format(100 * value)}"
    for size, value in values.items()
  )
