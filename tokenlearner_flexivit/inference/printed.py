"""Answers to images as text, JSON or CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tokenlearner_flexivit import tasks
from tokenlearner_flexivit.inference import answers as answers_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.run import workdir as workdir_lib


def as_text(
  images: Sequence[str],
  predictions: Sequence[answers_lib.Prediction],
  trained: trained_lib.Trained,
  top_k: int,
) -> str:
  """Returns a line per image that could be read, below one of the setting.

  Args:
    images: their names.
    predictions: of each image, all at one setting; at least one.
    trained: the model that answered.
    top_k: how many parts of an answer to name.
  """
  lines = [f"Setting {predictions[0].setting.name}."]
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is None:
      shown = ", ".join(
        f"{i if name is None else name} {100 * probability:.1f} %"
        for i, name, probability in prediction.labels
      )
      if prediction.answer is not None:
        shown = trained.task.in_words(prediction.answer, top_k)
      lines.append(f"{image}: {shown}")
  return "\n".join(lines)


def as_json(
  images: Sequence[str],
  predictions: Sequence[answers_lib.Prediction],
  trained: trained_lib.Trained,
) -> str:
  """Returns JSON: the setting, and the answer or error of each image."""
  answers = []
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is None:
      known = {"labels": [label._asdict() for label in prediction.labels]}
      if prediction.answer is not None:
        known = {"answer": trained.task.in_json(prediction.answer)}
      answers.append({"image": image, **known})
    else:
      answers.append({"image": image, "error": prediction.error})
  setting = predictions[0].setting.row
  content = {**setting, "predictions": answers}
  return workdir_lib.as_json(content, indent=2)


def as_csv(
  images: Sequence[str],
  predictions: Sequence[answers_lib.Prediction],
  trained: trained_lib.Trained,
) -> str:
  """Returns CSV: lines of each answer, or one with the error of an image.

  Raises:
    ValueError: the answers do not suit a table.
  """
  lines, columns = [], {}
  if trained.classifies:  # Even if all images have errors.
    columns = dict.fromkeys(("rank", *answers_lib.Label._fields))
  for image, prediction in zip(images, predictions, strict=True):
    rows = [{"error": prediction.error}]
    if prediction.error is None:
      rows = _rows(prediction, trained.task)
      columns |= dict.fromkeys(key for row in rows for key in row)
    lines += [{"image": image, **row} for row in rows or [{}]]
  text = io.StringIO()
  names = ("image", *columns, "error")
  writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue().rstrip("\n")


def _rows(
  prediction: answers_lib.Prediction, task: tasks.Task
) -> list[dict[str, Any]]:
  """Returns the rows of an answer, for CSV."""
  if prediction.answer is None:
    return [
      {"rank": rank, **label._asdict()}
      for rank, label in enumerate(prediction.labels, start=1)
    ]
  try:
    rows = task.rows(prediction.answer)
  except ValueError as error:
    raise ValueError(
      f"--csv: {error} Give --output=FOLDER for a file per image, or --json."
    ) from None
  for name in ("image", "error"):
    if any(name in row for row in rows):
      raise ValueError(
        f"--csv: the answer has an entry {name!r}, as another column is "
        "called. Give --json."
      )
  return rows
