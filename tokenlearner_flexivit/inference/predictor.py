"""The predictor of a trained model, at any setting or within a budget."""

import collections
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import answers, budget, in_place
from tokenlearner_flexivit.inference import images as images_lib
from tokenlearner_flexivit.inference import profile as profile_lib
from tokenlearner_flexivit.inference import programs as programs_lib
from tokenlearner_flexivit.inference import settings as settings_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.inference import videos as videos_lib
from tokenlearner_flexivit.models import checks


class Predictor:
  """A trained model, ready for images of any kind and number.

  Every setting has a program for each batch size out of 1, 2, 4, ...,
  `max_batch`. Smaller batches are padded to the next of these, and larger ones
  are split at `max_batch`, so that few programs are compiled. One device is
  used.

  Images that cannot be read get an error instead of an answer, and do not
  affect the others. For a model for videos, all methods take videos instead:
  paths, or uint8 arrays [T, H, W, C], as `inference.videos` describes; their
  views are averaged.

  Attributes:
    trained: the model and its metadata.
  """

  def __init__(
    self, trained: trained_lib.Trained, max_batch: int | None = None
  ):
    """Puts the parameters on the device.

    Args:
      trained: the model and its metadata.
      max_batch: the largest batch of a program; None for
        `programs.largest_batch`.

    Raises:
      ValueError: `max_batch` is not positive.
    """
    self.trained = trained
    self._known = settings_lib.Settings(trained)
    self._prepare = trained.preparation()
    if max_batch is None:
      max_batch = programs_lib.largest_batch(trained)
    self._programs = programs_lib.Programs(
      trained, max_batch, self._prepare.shape
    )
    # The rows measured so far, by number of images and setting.
    self._measured: dict[int, Any] = collections.defaultdict(dict)

  # Compiled programs cannot be pickled, so unpickling creates new ones.
  def __getstate__(self) -> dict[str, Any]:
    """Returns the state that a copy in another process is built from."""
    return {
      "trained": self.trained,
      "max_batch": self._programs.max_batch,
      "measured": dict(self._measured),
    }

  def __setstate__(self, state: dict[str, Any]) -> None:
    """Puts the parameters on the device of this process."""
    self.__init__(state["trained"], state["max_batch"])
    self._measured.update(state["measured"])

  @classmethod
  def load(
    cls, source: str | os.PathLike, max_batch: int | None = None
  ) -> "Predictor":
    """Opens the workdir of a run, or an exported model, by `trained.load`.

    Args:
      source: a workdir, an exported folder, its model.safetensors, or an
        address of these, such as hf://owner/name.
      max_batch: as the constructor takes it.

    Raises:
      FileNotFoundError: the source does not exist.
      ValueError: the source cannot be used; says what is missing.
      OSError, ImportError: it cannot be downloaded.
    """
    return cls(trained_lib.load(source), max_batch)

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
    most = self._programs.max_batch
    checks.whole(batch_size, "batch_size")
    if batch_size > most:
      raise ValueError(
        f"batch_size={batch_size} must be 1 to max_batch={most}."
      )
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

  def predict(
    self,
    images: Any,
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    budget_ms: float | None = None,
    top_k: int = 5,
    **others: Any,
  ) -> list[answers.Prediction]:
    """Answers to images: classifies them, or does what its task is.

    Args:
      images: one or several, of any size: uint8 arrays [H, W] or [H, W, C],
        Pillow images, paths, files as bytes, or a batch [B, H, W, C].
        `inference.images` preprocesses them as in the run's evaluation.
      patch_size: as `setting` takes it.
      num_tokens: as `setting` takes it.
      budget_ms: makes `choose` select the setting, for so many images.
      top_k: how many classes to return, at most.
      **others: as `setting` takes them.

    Returns:
      A prediction for each image, in order.

    Raises:
      ValueError: no image, a setting that does not fit, both a setting and a
        budget, or a budget that no setting meets.
    """
    images = self._prepare.listed(images)
    values = dict(patch_size=patch_size, num_tokens=num_tokens, **others)
    if budget_ms is None:
      setting = self.setting(**values)
    elif all(value is None for value in values.values()):
      setting = self.choose(budget_ms, num_images=len(images))
    else:
      raise ValueError("Give a setting or budget_ms, not both.")
    return self.answer(images, setting, top_k)

  def answer(
    self, images: Any, setting: dials.Setting, top_k: int = 5
  ) -> list[answers.Prediction]:
    """Answers to images like `predict`, at a setting."""
    checks.whole(top_k, "top_k")
    if self.trained.task.has_places:
      return [
        answers.Prediction(setting, answer=answer, error=error)
        for answer, error in in_place.answers(
          self._prepare.listed(images),
          self._prepare.with_place,
          lambda batches: self._programs.stream(batches, setting),
          self.trained,
          self._programs.max_batch,
        )
      ]
    outputs, errors = self._run_on(images, setting)

    def prediction(i: int) -> answers.Prediction:
      if i in errors:
        return answers.Prediction(setting, error=errors[i])
      if isinstance(outputs, programs_lib.Outputs):
        names = self.trained.class_names
        labels = answers.best_labels(outputs.probabilities[i], names, top_k)
        return answers.Prediction(setting, labels)
      answer = jax.tree.map(lambda x: x[i], outputs)
      return answers.Prediction(setting, answer=answer)

    return [prediction(i) for i in range(len(jax.tree.leaves(outputs)[0]))]

  def embed(
    self,
    images: Any,
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    *,
    representation: str = "pre_logits",
    **others: Any,
  ) -> answers.Embeddings:
    """Returns vectors for images, by default those that the head reads.

    Args:
      images: as `predict` takes them.
      patch_size: as `setting` takes it.
      num_tokens: as `setting` takes it.
      representation: the entry of the model's `out`, such as "pre_logits" or
        "encoder/block05/+mlp"; tokens are averaged.
      **others: as `setting` takes them.

    Raises:
      ValueError: no image, a setting that does not fit, a model that sees
        windows of images, or one without this representation; the error lists
        those that it has.
    """
    if self.trained.stride is not None:
      raise ValueError(
        "The run's evaluation slides windows over images, so no vector stands "
        "for a whole one. Take an evaluation without window."
      )
    setting = self.setting(patch_size, num_tokens, **others)
    vectors, errors = self._run_on(images, setting, representation)
    vectors = vectors.copy()
    vectors[list(errors)] = np.nan
    return answers.Embeddings(setting, vectors, errors)

  def preprocess(self, images: Any) -> tuple[np.ndarray, dict[int, str]]:
    """Preprocesses images to inputs of the model.

    Args:
      images: as `predict` takes them.

    Returns:
      float32 [n, H, W, C], for videos [n, T, H, W, C] or [n, views, T, H, W,
      C], and the errors of images that could not be read, by their number.
      Zeros stand in place of these. Of a model that sees windows of images,
      the windows of all that could be read, one after another.

    Raises:
      ValueError: no image.
    """
    images = self._prepare.listed(images)
    slides = self.trained.stride is not None
    number = 0 if slides else len(images)
    prepared = np.zeros((number, *self._prepare.shape), np.float32)
    parts, errors = [prepared], {}
    for i, image in enumerate(images):
      try:
        if slides:
          seen = self._prepare.with_place(image)
          parts.append(in_place.windows(*seen, self.trained))
        else:
          prepared[i] = self._prepare(image)
      except Exception as error:  # Damaged files raise errors of every type.
        errors[i] = answers.error_in_words(error)
    return np.concatenate(parts) if slides else prepared, errors

  def forward(self, prepared: np.ndarray, setting: dials.Setting) -> Any:
    """Runs the model.

    Args:
      prepared: float32, from `preprocess`.
      setting: of the dials.

    Returns:
      `programs.Outputs` of a classifier, else the answer of the task; NumPy
      arrays.
    """
    size = self._programs.max_batch
    starts = range(0, len(prepared), size)
    return self._programs.run((prepared[i : i + size] for i in starts), setting)

  @property
  def extensions(self) -> tuple[str, ...]:
    """Returns the extensions of the files that it reads, in lower case."""
    is_image = self.trained.video is None
    return (images_lib if is_image else videos_lib).EXTENSIONS

  def apply(
    self, setting: dials.Setting
  ) -> Callable[[Any, jax.Array], tuple[Any, jax.Array | None]]:
    """Returns the jitted model at a setting, by `Programs.apply`."""
    return self._programs.apply(setting)

  def _run_on(
    self,
    images: Any,
    setting: dials.Setting,
    representation: str | None = None,
  ) -> tuple[Any, dict[int, str]]:
    """Returns the result of `Programs.run`, and errors by image number."""
    images = self._prepare.listed(images)
    errors = {}

    def prepared() -> Iterator[np.ndarray]:
      for start in range(0, len(images), self._programs.max_batch):
        part = images[start : start + self._programs.max_batch]
        array, wrong = self.preprocess(part)
        errors.update({start + i: why for i, why in wrong.items()})
        yield array

    return self._programs.run(prepared(), setting, representation), errors
