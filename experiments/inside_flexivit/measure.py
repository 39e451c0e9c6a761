"""What one trained model gives: all the numbers of the study."""

import functools
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import (
  agreement,
  cka,
  correspondence,
  shape_or_texture,
  similarity,
  similarity_by_depth,
)
from tokenlearner_flexivit.inference import runs

# Numbers of each example of rendered_scenes.
LABELS = ("shape", "texture")
ATTRIBUTE = "scale"
POOLED = "pre_logits"
BATCH = 100
_FEW = 2  # Batches, for what is of many tokens each.


class Model(NamedTuple):
  """A trained model at its settings.

  Attributes:
    model: a `models.ViT`.
    params: its parameters.
    settings: those of its training, from large patches to small ones.
    data: the data section of its evaluation.
    link: from its logits to probabilities.
  """

  model: Any
  params: Any
  settings: tuple[dials.Setting, ...]
  data: dict[str, Any]
  link: Any

  def batches(self, number: int, split: str | None = None) -> list[Any]:
    """Returns batches with images, labels and what `LABELS` names."""
    data = {**self.data, "split": split or self.data["split"]}
    names = (*LABELS, ATTRIBUTE)
    return list(runs.read_batches(data, number, BATCH, names))


class Alike(NamedTuple):
  """CKA of a model's layers at several settings.

  Attributes:
    values: [R, R].
    labels: the R pairs (setting, layer).
  """

  values: np.ndarray
  labels: cka.Labels

  def pairs(self, layer: str) -> dict[tuple[str, str], float]:
    """CKA of one layer between each two settings."""
    rows = {s: i for i, (s, name) in enumerate(self.labels) if name == layer}
    return {
      (a, b): float(self.values[rows[a], rows[b]])
      for a, b in itertools.combinations(rows, 2)
    }

  def by_depth(self) -> dict[str, float]:
    """The mean over the pairs of settings, for each layer in order."""
    return similarity_by_depth.of_pairs(self.values, self.labels)


def read(path: pathlib.Path) -> Model:
  """Opens a run.

  Raises:
    ValueError: no run there.
  """
  run = runs.open_run(path, "image")
  link = agreement.link_of(run.config)
  return Model(run.model, run.params, run.dials.settings, run.data, link)


def alike(
  of: Model, settings: Sequence[dials.Setting], batches: Sequence[Any]
) -> Alike:
  """Compares the layers, tokens at all positions, and what is pooled."""
  names = (*similarity.layers(of.model), POOLED)
  sides = similarity.of_settings(of.model, of.params, settings, names)
  return Alike(*cka.cka((batch["image"] for batch in batches), sides))


class Inside(NamedTuple):
  """What is found in a model of several patch sizes.

  Attributes:
    name: of its run.
    of: the model.
    images: some of the test images.
    alike: its layers, compared.
    same: of `correspondence`, after the last block.
    places: by layer, mean over pairs of patch sizes of the rate at which the
      most similar token is at the same place.
    agreement: of `agreement`.
    labels: of `shape_or_texture`.
  """

  name: str
  of: Model
  images: np.ndarray
  alike: Alike
  same: correspondence.Matches
  places: dict[str, float]
  agreement: dict[str, Any]
  labels: list[dict[str, Any]]

  def numbers(self) -> dict[str, Any]:
    """Returns all but the model and the images, as JSON takes it.

    `alike` is the mean between the patch sizes by layer, `pooled` what it is
    for each pair and the pooled representation.
    """
    return {
      "run": self.name,
      "alike": self.alike.by_depth(),
      "pooled": {
        " and ".join(pair): value
        for pair, value in self.alike.pairs(POOLED).items()
      },
      "correspondence": correspondence.as_json(self.same, self.of.settings),
      "places": self.places,
      "agreement": self.agreement,
      "labels": self.labels,
    }


@functools.cache  # The first is drawn after all have been measured.
def of_flexivit(path: pathlib.Path, number: int) -> Inside:
  """Looks into a model of several patch sizes.

  Args:
    path: of its run.
    number: of test images.
  """
  of = read(path)
  test = of.batches(number)
  images = (batch["image"] for batch in test)
  answers = agreement.answer(
    of.model,
    of.params,
    [{k: b[k] for k in ("image", "label", ATTRIBUTE)} for b in test],
    of.settings,
    of.link,
  )
  meanings = runs.value_names(of.data, [ATTRIBUTE])
  return Inside(
    path.name,
    of,
    test[0]["image"],
    alike(of, of.settings, test),
    correspondence.matches(of.model, of.params, images, of.settings),
    _places(of, test[:_FEW]),
    agreement.summary(answers, meanings),
    _labels(of, test, number),
  )


def _places(of: Model, batches: Sequence[Any]) -> dict[str, float]:
  others = ~np.eye(len(of.settings), dtype=bool)
  found = {}
  for name in similarity.layers(of.model)[::2]:  # After whole blocks.
    images = (batch["image"] for batch in batches)
    same = correspondence.matches(
      of.model, of.params, images, of.settings, name
    )
    found[name] = float(same.rates[others].mean())
  return found


def of_fixed(path: pathlib.Path, number: int) -> dict[str, Any]:
  """Measures what a model of one patch size makes of both labels."""
  of = read(path)
  rows = _labels(of, of.batches(number), number)
  return {"run": path.name, "labels": rows}


def _labels(of: Model, test: Sequence[Any], number: int) -> list[Any]:
  return shape_or_texture.compare(
    of.model,
    of.params,
    of.batches(number, "train"),
    test,
    of.settings,
    LABELS,
    POOLED,
  )


def of_two_dials(path: pathlib.Path, number: int) -> dict[str, Any]:
  """Measures how a model of both dials changes with each.

  Args:
    path: of its run.
    number: of test images.

  Returns:
    `run`, and CKA of the pooled representation: means over the pairs of
    settings that differ in nothing but the patch size (`patch_size`), and in
    nothing but the number of learned tokens (`num_tokens`).
  """
  of = read(path)
  sides = similarity.of_settings(
    of.model, of.params, of.settings, names=(POOLED,)
  )
  images = (batch["image"] for batch in of.batches(number))
  compared = Alike(*cka.cka(images, sides))
  pairs = compared.pairs(POOLED)
  found = {"patch_size": [], "num_tokens": []}
  for a, b in itertools.combinations(of.settings, 2):
    if a.num_tokens == b.num_tokens:
      found["patch_size"].append(pairs[a.name, b.name])
    elif a.patch_size == b.patch_size:
      found["num_tokens"].append(pairs[a.name, b.name])
  means = {dial: float(np.mean(values)) for dial, values in found.items()}
  return {"run": path.name, **means}
