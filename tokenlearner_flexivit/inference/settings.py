"""The settings of a trained model, with their recorded metrics and costs."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import trained as trained_lib


class Settings:
  """A lookup of the settings of the training and of its evaluation.

  Attributes:
    known: those that the training drew from or its report has evaluated.
    values: the headline metric (`Trained.headline`) of each setting that the
      report has evaluated; higher is better.
  """

  def __init__(self, trained: trained_lib.Trained):
    """Reads the settings from the report."""
    self._model = trained.model
    self._image_shape = trained.image_shape
    self._trained = trained.settings
    self.known = trained.known_settings
    metrics = {setting: trained.metric(setting) for setting in self.known}
    self.values = {
      s: value for s, value in metrics.items() if value is not None
    }
    self._gmacs: dict[dials.Setting, float] = {}

  def gmacs(self, setting: dials.Setting) -> float:
    """Returns the 10⁹ multiply-adds that a setting takes for an image.

    Raises:
      ValueError: the setting does not fit.
    """
    if setting not in self._gmacs:
      macs = self._model.cost(self._image_shape, **setting)
      self._gmacs[setting] = macs / 1e9
    return self._gmacs[setting]

  def resolve(self, values: Mapping[str, Any]) -> dials.Setting:
    """Returns the best known setting that has some values of dials.

    Args:
      values: by the name of the dial; None leaves the value open.

    Raises:
      ValueError: an unknown dial, or a value that does not fit.
    """
    fixed = {
      name: configuration.choose(name, dials.KINDS, "dial").read(value, name)
      for name, value in values.items()
      if value is not None
    }
    if not (self.known or fixed):
      raise ValueError(
        f"No patch size of the training fits images of {self._image_shape}; "
        f"give one, patch_size=. {self._known_for()}"
      )
    choices = {
      name: list(dict.fromkeys(s.get(name) for s in self.known)) or [None]
      for name in dials.KINDS
    }
    for name, value in fixed.items():
      # A run without this dial calls the model's own value None.
      own = None in choices[name] and value == self._model.own_setting.get(name)
      choices[name] = [None if own else value]
    fitting = [
      setting
      for setting in self.known
      if all(setting.get(name) in choices[name] for name in fixed)
    ]
    candidates = fitting or dials.positions(choices)
    try:
      chosen = max(candidates, key=self._rank)
    except ValueError as error:
      raise ValueError(f"{error} {self._known_for()}") from None
    if chosen not in self.known:
      warnings.warn(
        f"The model was neither trained nor evaluated for {chosen.name}, so "
        f"its answers may be poor. {self._known_for()}",
        stacklevel=4,
      )
    return chosen

  def _rank(self, setting: dials.Setting) -> tuple[float, float]:
    """Returns a sort key: by metric, and then the cheapest is the best.

    Among settings that are not evaluated the dearest counts as most accurate.
    """
    if setting in self.values:
      return self.values[setting], -self.gmacs(setting)
    return -math.inf, self.gmacs(setting)

  def _known_for(self) -> str:
    """Returns a sentence that names the known settings."""
    trained = ", ".join(setting.name for setting in self._trained)
    others = [s.name for s in self.known if s not in self._trained]
    evaluated = f", and evaluated for {', '.join(others)} too" if others else ""
    return f"It was trained for {trained}{evaluated}."
