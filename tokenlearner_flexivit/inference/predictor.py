"""The predictor of a trained model, at any setting or within a budget."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import answers, chooser, in_place
from tokenlearner_flexivit.inference import programs as programs_lib
from tokenlearner_flexivit.inference import texts as texts_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.inference import videos as videos_lib
from tokenlearner_flexivit.models import checks


class Predictor(chooser.Chooser):
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
    self._prepare = trained.preparation()
    if max_batch is None:
      max_batch = programs_lib.largest_batch(trained)
    shape = self._prepare.shape
    super().__init__(trained, programs_lib.Programs(trained, max_batch, shape))
    # The last predictor of other names.
    self._others: dict[tuple[str, ...], Predictor] = {}
    self._texts = texts_lib.Texts(trained.task, self._programs.params)

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
      source: a workdir, an exported folder, its model.safetensors, a folder of
        timm's or Hugging Face's with a classifier, or an address of these, such
        as hf://owner/name.
      max_batch: as the constructor takes it.

    Raises:
      FileNotFoundError: the source does not exist.
      ValueError: the source cannot be used; says what is missing.
      OSError, ImportError: it cannot be downloaded.
    """
    return cls(trained_lib.load(source), max_batch)

  def predict(
    self,
    images: Any,
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    budget_ms: float | None = None,
    top_k: int = 5,
    labels: Sequence[str] | None = None,
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
      labels: texts that take the place of classes, such as "a photo of a cat":
        those to choose from, for a model of images and texts, or the names of
        what to find, for one of detection.
      **others: as `setting` takes them.

    Returns:
      A prediction for each image, in order.

    Raises:
      ValueError: no image, a setting that does not fit, both a setting and a
        budget, or a budget that no setting meets.
    """
    checks.whole(top_k, "top_k")  # Before minutes of measuring.
    images = self._prepare.listed(images)
    values = dict(patch_size=patch_size, num_tokens=num_tokens, **others)
    setting = self.setting_within(budget_ms, len(images), **values)
    return self.answer(images, setting, top_k, labels)

  def answer(
    self,
    images: Any,
    setting: dials.Setting,
    top_k: int = 5,
    labels: Sequence[str] | None = None,
  ) -> list[answers.Prediction]:
    """Answers to images like `predict`, at a setting."""
    checks.whole(top_k, "top_k")
    if labels is not None and hasattr(self.trained.task, "renamed"):
      return self.looking_for(labels).answer(images, setting, top_k)
    if labels is not None:
      return self._labelled(images, setting, top_k, labels)
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

  def looking_for(
    self,
    names: Sequence[str],
    examples: Sequence[tuple[Any, Sequence[float]]] | None = None,
    **values: Any,
  ) -> "Predictor":
    """Returns a predictor that finds other things.

    Args:
      names: of the things, in any words, for a model of detection.
      examples: for each name an image and the box of such a thing in it, (xmin,
        ymin, xmax, ymax) in pixels: then things are found that look like it,
        whatever the name.
      **values: of the dials, at which examples are looked at, as `setting`
        takes them.

    Raises:
      ValueError: the model finds nothing by names, there is no name, or not one
        example for each; or an example cannot be read.
    """
    trained = self.trained
    if not hasattr(trained.task, "renamed"):
      raise ValueError(
        f"The task of this model is {type(trained.task).__name__}, which finds "
        "nothing by names. Take a model of the task 'detection'."
      )
    texts_lib.check_distinct(names, "names")
    queries, key = None, tuple(names)
    if examples is not None:
      if len(examples) != len(names):
        raise ValueError(
          f"There are {len(examples)} examples for {len(names)} names. Give "
          "one for each."
        )
      queries = self._embedded(examples, self.setting(**values))
    elif key in self._others:
      return self._others[key]
    section, about = trained.task.renamed(
      trained.other_task["section"], trained.other_task["about"], key, queries
    )
    other = {"section": section, "about": about}
    # The parameters on the device serve both.
    renamed = dataclasses.replace(
      trained, params=self._programs.params, other_task=other
    )
    predictor = Predictor(renamed, self._programs.max_batch)
    if queries is None:
      self._others = {key: predictor}
    return predictor

  def _embedded(
    self,
    examples: Sequence[tuple[Any, Sequence[float]]],
    setting: dials.Setting,
  ) -> Float32[np.ndarray, "K E"]:
    """Returns the embeddings of things in images."""
    task, key = self.trained.task, ("embedding", setting)
    if key not in task.programs:
      task.programs[key] = jax.jit(
        functools.partial(task.embedding_in, setting=setting)
      )
    embed, vectors = task.programs[key], []
    for image, box in examples:
      prepared, place = self._prepare.with_place(image)
      corners = np.reshape(np.asarray(box, np.float64), (2, 2))
      shown = corners @ place.matrix[:, :2].T + place.matrix[:, 2]
      shares = (shown / np.array(place.prepared[::-1])).reshape(4)
      vectors.append(
        embed(self._programs.params, prepared, shares.astype(np.float32))
      )
    return np.stack(vectors)

  def _labelled(
    self,
    images: Any,
    setting: dials.Setting,
    top_k: int,
    labels: Sequence[str],
  ) -> list[answers.Prediction]:
    """Returns the most probable of the texts `labels` for each image."""
    texts_lib.check_distinct(labels, "labels")
    texts = self._texts.embed(labels)
    self._texts.warn_of_equal(labels)
    compared = self._compared(images, setting, texts)
    return [
      answers.Prediction(setting, error=compared.errors[i])
      if i in compared.errors
      else answers.Prediction(
        setting, answers.best_labels(probabilities, labels, top_k)
      )
      for i, probabilities in enumerate(compared.probabilities)
    ]

  def _compared(
    self, images: Any, setting: dials.Setting, texts: np.ndarray
  ) -> answers.Similarity:
    """Returns how well embedded texts describe images."""
    vectors, errors = self._run_on(images, setting)
    vectors = vectors.copy()
    vectors[list(errors)] = np.nan
    return self._texts.similarity(setting, vectors, texts, errors)

  def similarity(
    self,
    images: Any,
    texts: Sequence[str],
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    budget_ms: float | None = None,
    **others: Any,
  ) -> answers.Similarity:
    """Returns how well texts describe images, by a model of images and texts.

    The embeddings of texts are kept, so that texts cost time only once, and do
    not count for `budget_ms`.

    Args:
      images: as `predict` takes them.
      texts: any number of texts.
      patch_size: as `setting` takes it.
      num_tokens: as `setting` takes it.
      budget_ms: as `predict` takes it.
      **others: as `setting` takes them.

    Raises:
      ValueError: `predict` raises it, the model has no text tower, or a text
        has no word.
    """
    embedded = self._texts.embed(texts)
    images = self._prepare.listed(images)
    values = dict(patch_size=patch_size, num_tokens=num_tokens, **others)
    setting = self.setting_within(budget_ms, len(images), **values)
    return self._compared(images, setting, embedded)

  def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "M E"]:
    """Returns the embeddings of texts, of length 1.

    Raises:
      ValueError: the model has no text tower, or a text has no word.
    """
    return self._texts.embed(texts)

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
  def extensions(self) -> tuple[str, ...] | None:
    """Returns the extensions of the videos that it reads, in lower case.

    None for a model for images, which are told by their content.
    """
    return None if self.trained.video is None else videos_lib.EXTENSIONS

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
