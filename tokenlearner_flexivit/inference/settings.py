"""The settings of a trained model: which one is meant, what is known of it."""

import warnings
from typing import Any

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import flops
from tokenlearner_flexivit.inference import trained as trained_lib


class Settings:
  """The settings of the training, and others that fit the model.

  Attributes:
    trained: those of the training.
    accuracies: by setting, in [0, 1], where the run's report has one.
  """

  def __init__(self, trained: trained_lib.Trained):
    """Looks the settings up in the report."""
    self._model = trained.model
    self._image_shape = trained.image_shape
    self.trained = trained.settings
    rows = {setting: trained.row(setting) or {} for setting in self.trained}
    self.accuracies = {
      setting: row["accuracy"]
      for setting, row in rows.items()
      if "accuracy" in row
    }
    self._gmacs: dict[dials.Setting, float] = {}

  def gmacs(self, setting: dials.Setting) -> float:
    """Returns the 10⁹ multiply-adds that a setting takes for an image.

    Raises:
      ValueError: it does not fit.
    """
    if setting not in self._gmacs:
      macs = flops.macs(self._model, self._image_shape, *setting)
      self._gmacs[setting] = macs / 1e9
    return self._gmacs[setting]

  def resolve(
    self, patch_size: Any, num_tokens: int | str | None
  ) -> dials.Setting:
    """Returns the setting that a call means; see `Predictor.setting`."""
    sizes = dict.fromkeys(s.patch_size for s in self.trained)
    numbers = dict.fromkeys(s.num_tokens for s in self.trained)
    if patch_size is not None:
      sizes = [dials.as_patch_size(patch_size, "patch_size")]
    if num_tokens is not None:
      number = dials.as_num_tokens(num_tokens, "num_tokens")
      learner = self._model.token_learner
      # All that it learns, a run without that dial calls None.
      own = None in numbers and learner and number == learner["num_tokens"]
      numbers = [None if own else number]
    candidates = [dials.Setting(p, n) for p in sizes for n in numbers]
    try:
      chosen = max(
        candidates, key=lambda s: (self.accuracies.get(s, 0), self.gmacs(s))
      )
    except ValueError as error:
      raise ValueError(f"{error} {self._trained_for()}") from None
    if chosen not in self.trained:
      warnings.warn(
        f"The model was not trained for {chosen.name}, so its answers may be "
        f"poor. {self._trained_for()}",
        stacklevel=4,
      )
    return chosen

  def _trained_for(self) -> str:
    names = ", ".join(setting.name for setting in self.trained)
    return f"It was trained for {names}."
