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
    """Returns CKA of one layer between each two settings."""
    rows = {s: i for i, (s, name) in enumerate(self.labels) if name == layer}
    return {
      (a, b): float(self.values[rows[a], rows[b]])
      for a, b in itertools.combinations(rows, 2)
    }

  def by_depth(self) -> dict[str, float]:
    """Returns the mean over pairs of settings, for each layer in order."""
    return similarity_by_depth.layer_means(self.values, self.labels)


def read(path: pathlib.Path) -> Model:
  """Opens a run.

  Raises:
    ValueError: no run there.
  """
  run = runs.open_run(path, "image")
  link = agreement.read_link(run.config)
  return Model(run.model, run.params, run.dials.settings, run.data, link)


def alike(
  trained: Model, settings: Sequence[dials.Setting], batches: Sequence[Any]
) -> Alike:
  """Compares the layers, tokens at all positions, and what is pooled."""
  names = (*similarity.layers(trained.model), POOLED)
  sides = similarity.sides_at(trained.model, trained.params, settings, names)
  return Alike(*cka.cka((batch["image"] for batch in batches), sides))


class Inside(NamedTuple):
  """What is found in a model of several patch sizes.

  Attributes:
    name: of its run.
    trained: the model.
    images: some of the test images.
    alike: its layers, compared.
    same: of `correspondence`, after the last block.
    places: by layer, mean over pairs of patch sizes of the rate at which the
      most similar token is at the same place.
    agreement: of `agreement`.
    labels: of `shape_or_texture`.
  """

  name: str
  trained: Model
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
      "correspondence": correspondence.as_json(
        self.same, self.trained.settings
      ),
      "places": self.places,
      "agreement": self.agreement,
      "labels": self.labels,
    }


@functools.cache  # The first is drawn after all have been measured.
def measure_flexivit(path: pathlib.Path, number: int) -> Inside:
  """Looks into a model of several patch sizes.

  Args:
    path: of its run.
    number: of test images.
  """
  trained = read(path)
  test = trained.batches(number)
  images = (batch["image"] for batch in test)
  answers = agreement.answer(
    trained.model,
    trained.params,
    [{k: b[k] for k in ("image", "label", ATTRIBUTE)} for b in test],
    trained.settings,
    trained.link,
  )
  meanings = runs.value_names(trained.data, [ATTRIBUTE])
  return Inside(
    path.name,
    trained,
    test[0]["image"],
    alike(trained, trained.settings, test),
    correspondence.matches(
      trained.model, trained.params, images, trained.settings
    ),
    _places(trained, test[:_FEW]),
    agreement.summary(answers, meanings),
    _labels(trained, test, number),
  )


def _places(trained: Model, batches: Sequence[Any]) -> dict[str, float]:
  others = ~np.eye(len(trained.settings), dtype=bool)
  rates = {}
  for name in similarity.layers(trained.model)[::2]:  # After whole blocks.
    images = (batch["image"] for batch in batches)
    same = correspondence.matches(
      trained.model, trained.params, images, trained.settings, name
    )
    rates[name] = float(same.rates[others].mean())
  return rates


def measure_fixed(path: pathlib.Path, number: int) -> dict[str, Any]:
  """Measures what a model of one patch size makes of both labels."""
  trained = read(path)
  rows = _labels(trained, trained.batches(number), number)
  return {"run": path.name, "labels": rows}


def _labels(trained: Model, test: Sequence[Any], number: int) -> list[Any]:
  return shape_or_texture.compare(
    trained.model,
    trained.params,
    trained.batches(number, "train"),
    test,
    trained.settings,
    LABELS,
    POOLED,
  )


def measure_two_dials(path: pathlib.Path, number: int) -> dict[str, Any]:
  """Measures how a model of both dials changes with each.

  Args:
    path: of its run.
    number: of test images.

  Returns:
    `run`, and CKA of the pooled representation: means over the pairs of
    settings that differ in nothing but the patch size (`patch_size`), and in
    nothing but the number of learned tokens (`num_tokens`).
  """
  trained = read(path)
  sides = similarity.sides_at(
    trained.model, trained.params, trained.settings, names=(POOLED,)
  )
  images = (batch["image"] for batch in trained.batches(number))
  compared = Alike(*cka.cka(images, sides))
  pairs = compared.pairs(POOLED)
  similar = {"patch_size": [], "num_tokens": []}
  for a, b in itertools.combinations(trained.settings, 2):
    if a.num_tokens == b.num_tokens:
      similar["patch_size"].append(pairs[a.name, b.name])
    elif a.patch_size == b.patch_size:
      similar["num_tokens"].append(pairs[a.name, b.name])
  means = {dial: float(np.mean(values)) for dial, values in similar.items()}
  return {"run": path.name, **means}
