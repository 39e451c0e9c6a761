"""The settings of a trained model: which one is meant, what is known of it."""

import warnings
from typing import Any

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import trained as trained_lib


class Settings:
  """The settings of the training and of its evaluation, and others that fit.

  Attributes:
    known: those that the training drew from or its report has evaluated.
    values: by setting, its headline metric in [0, 1] (`Trained.headline`),
      where the report has one.
  """

  def __init__(self, trained: trained_lib.Trained):
    """Looks the settings up in the report."""
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
      ValueError: it does not fit.
    """
    if setting not in self._gmacs:
      macs = self._model.cost(self._image_shape, **setting)
      self._gmacs[setting] = macs / 1e9
    return self._gmacs[setting]

  def resolve(
    self, patch_size: Any, num_tokens: int | str | None
  ) -> dials.Setting:
    """Returns the setting that a call means; see `Predictor.setting`."""
    sizes = dict.fromkeys(s.patch_size for s in self.known)
    numbers = dict.fromkeys(s.num_tokens for s in self.known)
    if patch_size is not None:
      sizes = [dials.as_patch_size(patch_size, "patch_size")]
    if num_tokens is not None:
      number = dials.as_num_tokens(num_tokens, "num_tokens")
      learner = self._model.token_learner
      # All that it learns, a run without that dial calls None.
      own = None in numbers and learner and number == learner["num_tokens"]
      numbers = [None if own else number]
    candidates = [dials.Setting(p, n) for p in sizes for n in numbers]
    candidates = [s for s in candidates if s in self.known] or candidates
    if not candidates:
      raise ValueError(
        f"No patch size of the training fits images of {self._image_shape}; "
        f"give one, patch_size=. {self._known_for()}"
      )
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
    """Orders settings: by metric, and then the cheapest is the best.

    Of what is not evaluated the dearest is taken for the most accurate.
    """
    if setting in self.values:
      return self.values[setting], -self.gmacs(setting)
    return 0.0, self.gmacs(setting)

  def _known_for(self) -> str:
    """Names the settings that are known."""
    trained = ", ".join(setting.name for setting in self._trained)
    others = [s.name for s in self.known if s not in self._trained]
    evaluated = f", and evaluated for {', '.join(others)} too" if others else ""
    return f"It was trained for {trained}{evaluated}."
