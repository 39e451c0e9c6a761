"""The choice of a setting by what it costs on this machine."""

import abc
import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import budget
from tokenlearner_flexivit.inference import profile as profile_lib
from tokenlearner_flexivit.inference import programs as programs_lib
from tokenlearner_flexivit.inference import settings as settings_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.models import checks


class Chooser(abc.ABC):
  """The base of `Predictor`: chooses settings, and measures what they cost.

  Attributes:
    trained: the model and its metadata.
  """

  def __init__(
    self, trained: trained_lib.Trained, programs: programs_lib.Programs
  ):
    """Knows no cost yet.

    Args:
      trained: the model and its metadata.
      programs: those of the model.
    """
    self.trained = trained
    self._programs = programs
    self._known = settings_lib.Settings(trained)
    # The rows measured so far, by number of images and setting.
    self._measured: dict[int, Any] = collections.defaultdict(dict)

  @abc.abstractmethod
  def preprocess(self, images: Any) -> tuple[np.ndarray, dict[int, str]]:
    """Preprocesses images to inputs of the model."""

  @abc.abstractmethod
  def answer(self, images: Any, setting: dials.Setting) -> Any:
    """Answers to images at a setting."""

  @abc.abstractmethod
  def forward(self, prepared: np.ndarray, setting: dials.Setting) -> Any:
    """Runs the model on preprocessed images."""

  def setting(
    self,
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    **others: Any,
  ) -> dials.Setting:
    """Returns the setting for the arguments of a call.

    A dial that is not set takes the value with the best headline metric in the
    run's report, and the cheapest of several; without a report, the dearest.

    Args:
      patch_size: int or (int, int) in pixels.
      num_tokens: how many learned tokens; "all" switches TokenLearner off.
      **others: values of other dials, by the names of `dials.KINDS`.

    Raises:
      ValueError: the setting does not fit the model or its images, or there is
        no such dial.
    """
    values = dict(patch_size=patch_size, num_tokens=num_tokens, **others)
    return self._known.resolve(values)

  def choose(
    self,
    budget_ms: float | None = None,
    gflops: float | None = None,
    min_accuracy: float | None = None,
    num_images: int = 1,
    gmacs: float | None = None,
  ) -> dials.Setting:
    """Returns the best setting that meets all demands.

    It is chosen from the settings that the run's report has evaluated, trained
    or not. With a budget, it is the most accurate setting within it; with
    `min_accuracy` alone, the quickest that reaches it. Among settings that are
    equally accurate, or whose measured times overlap, it is the one with the
    fewest multiply-adds.

    The time is that of a `predict` call whose images are uint8 arrays of the
    model's size, from call to answer, on this machine; reading files and
    resizing images come on top. A setting is within a budget if nine of ten
    measured calls were (`profile`). Settings that were not measured yet are
    measured now, which takes seconds to minutes.

    Args:
      budget_ms: the most a call may take, in milliseconds.
      gflops: `gmacs` in the count of the FlexiViT paper, multiplications and
        additions each, which is twice as many.
      min_accuracy: the least accuracy, in [0, 1]; if the run's report has
        another headline metric (`trained.headline`), such as mAP, the least
        value of that, in its own range.
      num_images: the number of images of the call.
      gmacs: the most 10⁹ multiply-adds that an image may need, as in the
        tables of reports and profiles.

    Raises:
      ValueError: no demand, no setting that meets it (the error names the cost
        of the cheapest or the value of the best), or no recorded setting.
    """
    if gflops is not None:
      if gmacs is not None:
        raise ValueError("Give gmacs or gflops, which is twice as many.")
      checks.number(gflops, "gflops")
      gmacs = gflops / 2
    demands = dict(
      budget_ms=budget_ms,
      gmacs=gmacs,
      min_accuracy=min_accuracy,
      is_share=self.trained.headline_metric.unit == "%",
    )
    budget.check(**demands)
    checks.whole(num_images, "num_images")
    values = self._known.values
    if not values:
      raise ValueError(
        f"The run has no report with {self.trained.headline} for its settings, "
        "so the best one is not known. Let it end, or evaluate it: python -m "
        "tokenlearner_flexivit.main --mode=eval --workdir=..."
      )
    latencies = dict.fromkeys(values, (None, None))
    if budget_ms is not None or gmacs is None:
      latencies = self._latencies(tuple(values), num_images)
    candidates = [
      budget.Candidate(s, value, self._known.gmacs(s), *latencies[s])
      for s, value in values.items()
    ]
    chosen = budget.choose(
      candidates,
      **demands,
      num_images=num_images,
      metric=self.trained.headline,
    )
    return chosen.setting

  def setting_within(
    self, budget_ms: float | None, num_images: int, **values: Any
  ) -> dials.Setting:
    """Returns the setting of a call: by `choose` with a budget, else `setting`.

    Args:
      budget_ms: the most that the call may take; None for no budget.
      num_images: the number of images of the call.
      **values: of the dials, None for those that are not set.

    Raises:
      ValueError: both are given, or `choose` or `setting` raises it.
    """
    if budget_ms is None:
      return self.setting(**values)
    if any(value is not None for value in values.values()):
      raise ValueError("Give a setting or budget_ms, not both.")
    return self.choose(budget_ms, num_images=num_images)

  def _latencies(
    self, settings: Sequence[dials.Setting], num_images: int
  ) -> dict[dials.Setting, tuple[float, float]]:
    """Returns `profile.latencies` of a call with so many images."""
    sizes = self._programs.batch_sizes(num_images)
    for size in sizes:
      if any(setting not in self._measured[size] for setting in settings):
        # All settings, since only those measured side by side can be compared.
        self.profile(settings, batch_size=size)
    return profile_lib.latencies(self._measured, sizes, settings)

  def profile(
    self,
    settings: Sequence[dials.Setting] | None = None,
    batch_size: int = 1,
    repeats: int = 20,
  ) -> list[profile_lib.Row]:
    """Measures the cost of settings on this machine.

    They take turns, so that a slow moment affects all. `choose` uses the
    measurements.

    Args:
      settings: None for all of `Trained.known_settings`.
      batch_size: images of a call; padded as for `predict`.
      repeats: how often each setting is timed.

    Returns:
      A row for each setting:

      * the value of each dial, such as patch_size, and gmacs as in reports;
      * the metrics of `Trained.metrics`, None for those not recorded;
      * batch_size, the images of a call;
      * latency_ms, latency_ms_p10, latency_ms_p90: median and percentiles of
        the time of a `predict` call with arrays of the model's size;
      * forward_ms: median time from prepared images on the host to answers on
        the host, the part that the setting decides;
      * images_per_s, by latency_ms;
      * memory_bytes of parameters, images, results and intermediates, as the
        compiler reports it, or None.

    Raises:
      ValueError: a setting does not fit, or a number is out of its range.
    """
    self.check_batch_size(batch_size)
    checks.whole(repeats, "repeats")
    settings = self._known.known if settings is None else settings
    size = self._programs.bucket(batch_size)
    times = profile_lib.measure(self, settings, size, repeats)
    rows = [
      {
        **setting.row,
        "batch_size": size,
        **self.trained.metrics(setting),
        "gmacs": self._known.gmacs(setting),
        **measured,
        "images_per_s": 1e3 * size / measured["latency_ms"],
        "memory_bytes": self._programs.memory_bytes(setting, size),
      }
      for setting, measured in zip(settings, times, strict=True)
    ]
    self.remember(rows)
    return rows

  def check_batch_size(self, batch_size: int) -> None:
    """Raises ValueError unless a program can have so many images."""
    most = self._programs.max_batch
    checks.whole(batch_size, "batch_size")
    if batch_size > most:
      raise ValueError(
        f"batch_size={batch_size} must be 1 to max_batch={most}."
      )

  def remember(self, rows: Sequence[profile_lib.Row]) -> None:
    """Lets `choose` use rows of an earlier `profile`, from `profile.read`.

    Raises:
      ValueError: the rows are of another model.
    """
    for row in rows:
      setting = dials.Setting.from_row(row)
      if not np.isclose(row["gmacs"], self._known.gmacs(setting)):
        raise ValueError("The profile is of another model. Measure this one.")
      self._measured[row["batch_size"]][setting] = row
