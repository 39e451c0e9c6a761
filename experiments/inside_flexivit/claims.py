"""What the paper says of the inside of FlexiViT: whether it holds here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import seeds, study
from experiments.inside_flexivit import measure

Run = Mapping[str, Any]
_PAPER = "FlexiViT, Figure 6 (as reported)"
_ALIKE = 0.8  # CKA from which on we call representations alike.
_RISE = 0.05
_SELDOM = 0.25
_LIKE = 0.1


class Runs(NamedTuple):
  """The rows of results.json by what was measured, seeds of one model each.

  Attributes:
    flexivit: of `measure.measure_flexivit`.
    fixed: of `measure.measure_fixed`, perhaps none.
    two_dials: of `measure.measure_two_dials`, perhaps none.
  """

  flexivit: Sequence[Run]
  fixed: Sequence[Run]
  two_dials: Sequence[Run]


def by_kind(rows: Sequence[study.Row]) -> Runs:
  """Returns the rows of results.json by kind."""
  kinds = {"alike": [], "labels": [], "num_tokens": []}
  for row in rows:
    kinds[next(key for key in kinds if key in row)].append(row)
  return Runs(*kinds.values())


def middle(layers: Sequence[str]) -> int:
  """Returns the index of the MLP of the middle block, as block 6 of 12.

  Args:
    layers: of `similarity.layers`: the position embedding, then two for each
      block.
  """
  depth = (len(layers) - 1) // 2
  return 2 * (depth // 2)


def cka_by_layer(flexi: Sequence[Run]) -> dict[str, list[float]]:
  """Returns CKA between the patch sizes by layer, a value for each run."""
  layers = [name for name in flexi[0]["alike"] if name != measure.POOLED]
  return {name: [run["alike"][name] for run in flexi] for name in layers}


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns the claims; those of models that are not there are left out."""
  flexi, fixed, two_dials = by_kind(outcome.rows)
  judged = [
    *_claims_on_depth(flexi),
    _claim_on_pooled(flexi),
    _claim_on_places(flexi),
  ]
  judged += [
    _claim_on_ensembles(flexi),
    _claim_on_details(flexi),
    _claim_on_labels(flexi),
  ]
  if fixed:
    judged.append(_claim_on_fixed(flexi, fixed))
  if two_dials:
    judged.append(_claim_on_two_dials(two_dials))
  return judged


def _claims_on_depth(flexi: Sequence[Run]) -> list[study.Row]:
  values = np.array(list(cka_by_layer(flexi).values()))  # [layers, runs]
  half, blocks = middle(values), (len(values) - 1) // 2
  # Of two blocks none is between the middle one and the last, so nothing can
  # be said of what is there; one block has no middle either.
  if blocks < 2:
    return []
  before, after = values[1 : half + 1], values[half + 1 : -2]
  last, previous = values[-1], values[-3]
  first, at_half = before.mean(axis=1)[[0, -1]]
  judged = [
    seeds.claim(
      "patch sizes are alike up to the MLP of the middle block (block 6 of "
      f"12; here {blocks // 2} of {blocks})",
      _PAPER,
      f"CKA >= {_ALIKE}",
      f"mean {before.mean():.2f}, from {first:.2f} after the first "
      f"attention to {at_half:.2f}",
      list(before.mean(axis=0) - _ALIKE),
    )
  ]
  if len(after):
    judged.append(
      seeds.claim(
        "after it they part",
        _PAPER,
        "CKA lower than before",
        f"mean {after.mean():.2f}, before {before.mean():.2f}",
        list(before.mean(axis=0) - after.mean(axis=0)),
      )
    )
  judged.append(
    seeds.claim(
      "in the last block they come together again",
      _PAPER,
      f"CKA rises by {_RISE} or more in the last block",
      f"from {previous.mean():.3f} to {last.mean():.3f}",
      list(last - previous - _RISE),
    )
  )
  return judged


def _claim_on_pooled(flexi: Sequence[Run]) -> study.Row:
  pairs = _by_key(run["pooled"] for run in flexi)
  means = _means(pairs)
  worst = min(means, key=means.get)
  return seeds.claim(
    "cls is aligned across all grids (here, where there is none, the mean of "
    "the tokens that the head sees)",
    _PAPER,
    f"CKA >= {_ALIKE} for each pair of patch sizes",
    f"mean {_mean(means.values()):.2f}; least {means[worst]:.2f}, of {worst}",
    *([value - _ALIKE for value in values] for values in pairs.values()),
  )


def _claim_on_places(flexi: Sequence[Run]) -> study.Row:
  rates = _by_key(_rates(run, "rate") for run in flexi)
  means = _means(rates)
  chance = _means(_by_key(_rates(run, "chance") for run in flexi))
  worst = min(means, key=means.get)
  return seeds.claim(
    "a token is most similar to that at the same place at another patch size",
    "FlexiViT, Figure 13 (as reported)",
    "more than half of the tokens, for each pair of patch sizes",
    f"{100 * _mean(means.values()):.0f} % on average (by chance "
    f"{100 * _mean(chance.values()):.0f} %); least {100 * means[worst]:.0f} %, "
    f"{worst}",
    *([rate - 0.5 for rate in values] for values in rates.values()),
  )


def _rates(run: Run, key: str) -> dict[str, float]:
  return {f"{r['from']} to {r['to']}": r[key] for r in run["correspondence"]}


def _claim_on_ensembles(flexi: Sequence[Run]) -> study.Row:
  by_run = [
    {
      row["name"]: 100 * (row["accuracy"] - row["single_accuracy"])
      for row in run["agreement"]["ensembles"]
    }
    for run in flexi
  ]
  gains = _means(_by_key(by_run))
  mean, error = seeds.mean_and_error([_mean(run.values()) for run in by_run])
  shown = "one seed"
  if error is not None:
    shown = f"standard error over seeds {error:.1f}"
  best = max(gains, key=gains.get)
  pay = sum(gain > 0 for gain in gains.values())
  # No more may be better than these: the next one must not be.
  few = int(_SELDOM * len(gains))
  return seeds.claim(
    "ensembles of patch sizes are almost always worse than one patch size at "
    "the same cost",
    "FlexiViT, appendix (as reported)",
    f"at most {100 * _SELDOM:.0f} % of them are better",
    f"{pay} of {len(gains)} are better; on average {mean:+.1f} points "
    f"({shown}), best {gains[best]:+.1f} ({best})",
    [-sorted(run.values(), reverse=True)[few] for run in by_run],
  )


def _claim_on_details(flexi: Sequence[Run]) -> study.Row:
  rows = [run["agreement"]["attributes"][0] for run in flexi]
  by_run = _by_key(
    {part: values["only_fine"] for part, values in row["parts"].items()}
    for row in rows
  )
  finest, coarsest = (f(by_run, key=float) for f in (min, max))
  numbers = {p: v["examples"] for p, v in rows[0]["parts"].items()}

  def difference(shares: Mapping[str, float]) -> tuple[float, float]:
    """Returns it and its standard error by the number of images."""
    # Seeds answer the same images, so they make no sample of more images.
    variance = sum(
      shares[part] * (1 - shares[part]) / numbers[part]
      for part in (finest, coarsest)
    )
    return shares[finest] - shares[coarsest], variance**0.5

  shares = _means(by_run)
  mean, error = difference(shares)
  correlation = _mean(row["correlation"] or 0.0 for row in rows)
  fine, coarse = (
    f"{100 * shares[part]:.1f} % of the {numbers[part]} images of the {which}"
    for part, which in ((finest, "finest textures"), (coarsest, "coarsest"))
  )
  return seeds.claim(
    "what only small patches get right are images of small details",
    "this project's question",
    "a larger share of the fine textures than of the coarse ones, by more than "
    "the standard error",
    f"{fine}, {coarse}: {100 * mean:+.1f} points, standard error by the "
    f"number of images {100 * error:.1f} (correlation with the "
    f"{measure.ATTRIBUTE} {correlation:+.2f})",
    [points - error for points, error in map(difference, _runs(by_run))],
  )


def _claim_on_labels(flexi: Sequence[Run]) -> study.Row:
  answers, probes = (
    {
      label: _by_key(_column(run, label, key) for run in flexi)
      for label in measure.LABELS
    }
    for key in ("answer", "above_chance")
  )
  return seeds.claim(
    "trained on textures, answers follow the texture at every patch size",
    "this project's question",
    "texture above shape everywhere",
    f"of the texture's entropy {_listed(_means(answers['texture']))}, of the "
    f"shape's {_listed(_means(answers['shape']))}; linear probes reach, from "
    f"chance to perfect, {_listed(_means(probes['texture']))} and "
    f"{_listed(_means(probes['shape']))}",
    *(
      [a - b for a, b in zip(texture, answers["shape"][size], strict=True)]
      for size, texture in answers["texture"].items()
    ),
  )


def _claim_on_fixed(flexi: Sequence[Run], fixed: Sequence[Run]) -> study.Row:
  """Judges Figure 25's comparison, by what linear probes find."""
  alone, ours = _shares(fixed), _shares(flexi)
  # Runs come in the order of their seeds. A seed counts if both are known.
  by_size = {
    size: [
      a - b
      for a, b in zip(ours[size], alone[size], strict=False)
      if a is not None and b is not None
    ]
    for size in alone
    if size in ours
  }
  known = {size: values for size, values in by_size.items() if values}
  unknown = [
    size.removeprefix("patch") for size in by_size if size not in known
  ]
  measured = [_listed(_means(known), signed=True) + " points"] * bool(known)
  if unknown:
    measured.append(f"{', '.join(unknown)}: probes find neither beyond chance")
  by_seed = known.values()
  return seeds.claim(
    "shape against texture is like in the ViT of that patch size alone",
    "FlexiViT, Figure 25 (as reported)",
    "shape's share of what the representation holds (a probe below chance "
    f"counts as 0) within {100 * _LIKE:.0f} points",
    "; ".join(measured) or "no patch size is among both",
    *([_LIKE - value for value in values] for values in by_seed),
    *([_LIKE + value for value in values] for values in by_seed),
  )


def _shares(runs: Sequence[Run]) -> dict[str, list[float | None]]:
  """Returns `shape_share` of runs by patch size, None where it is unknown.

  Runs need not have the same patch sizes.
  """
  shares: dict[str, list[float | None]] = {}
  for run in runs:
    known = shape_share(run)
    for row in run["labels"]:
      shares.setdefault(row["name"], []).append(known.get(row["name"]))
  return shares


def shape_share(run: Run) -> dict[str, float]:
  """Returns shape's share of what probes find beyond chance, by patch size.

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


def _column(run: Run, label: str, key: str) -> dict[str, float]:
  return {row["name"]: row["labels"][label][key] for row in run["labels"]}


def _claim_on_two_dials(two_dials: Sequence[Run]) -> study.Row:
  sizes, numbers = (
    [run[key] for run in two_dials] for key in ("patch_size", "num_tokens")
  )
  return seeds.claim(
    "with both dials, what the head sees changes more with the patch size than "
    "with the number of learned tokens",
    "this project's question",
    "lower CKA between patch sizes",
    f"{_mean(sizes):.2f} between patch sizes, {_mean(numbers):.2f} between "
    "numbers of tokens",
    [b - a for a, b in zip(sizes, numbers, strict=True)],
  )


def _by_key(runs: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
  """Returns the values of the runs by name."""
  runs = list(runs)
  return {key: [run[key] for run in runs] for key in runs[0]}


def _runs(by_key: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
  """Returns the values by name of each run."""
  return [
    dict(zip(by_key, run, strict=True))
    for run in zip(*by_key.values(), strict=True)
  ]


def _means(by_key: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {key: _mean(values) for key, values in by_key.items()}


def _mean(values: Iterable[float]) -> float:
  return float(np.mean(list(values)))


def _listed(values: Mapping[str, float], signed: bool = False) -> str:
  form = "{:+.0f}" if signed else "{:.0f} %"
  return ", ".join(
    f"{size.removeprefix('patch')}: {form.format(100 * value)}"
    for size, value in values.items()
  )
