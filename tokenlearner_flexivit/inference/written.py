"""Files of answers, as the task writes them."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tokenlearner_flexivit import tasks
from tokenlearner_flexivit.inference import answers
from tokenlearner_flexivit.inference import trained as trained_lib


def paths(
  folder: pathlib.Path, images: Sequence[str], ends: Sequence[str]
) -> dict[pathlib.Path, str]:
  """Returns the files to write, without suffix, with the image of each.

  They lie in the folder as the images lie in the deepest folder of all. Images
  whose names differ in the suffix alone, such as 1.jpg and 1.png, keep it.

  Args:
    folder: gets the files.
    images: paths.
    ends: `Task.written_ends`.

  Raises:
    ValueError: two images would have a file of the same name.
  """
  absolute = [os.path.abspath(os.path.expanduser(name)) for name in images]
  root = os.path.commonpath([os.path.dirname(name) for name in absolute])
  stems = {name: os.path.splitext(name)[0] for name in absolute}
  counts = collections.Counter(stems.values())
  files, taken = {}, {}
  for image, name in zip(images, absolute, strict=True):
    kept = name if counts[stems[name]] > 1 else stems[name]
    file = folder / os.path.relpath(kept, root)
    for written in (file.with_name(f"{file.name}{end}") for end in ends):
      if (other := taken.setdefault(written, image)) != image or file in files:
        raise ValueError(
          f"--output: {other} and {image} would be written to the same file. "
          "Give them in two calls."
        )
    files[file] = image
  return files


def write(
  files: Mapping[pathlib.Path, str],
  predictions: Iterable[answers.Prediction],
  trained: trained_lib.Trained,
) -> Iterator[answers.Prediction]:
  """Writes a file for each answer, and its picture, as the task does.

  Args:
    files: from `paths`.
    predictions: of each file, in order.
    trained: the model that answered.

  Yields:
    The predictions without their answers, whose memory they would keep.
  """
  task, preparation = trained.task, trained.preparation()
  # Images are decoded again only for a task that draws into them.
  draws = type(task).draw is not tasks.Task.draw
  for (file, image), prediction in zip(files.items(), predictions, strict=True):
    if prediction.error is None:
      file.parent.mkdir(parents=True, exist_ok=True)
      task.write(prediction.answer, file)
      if draws and task.model.input == "image":
        picture = file.with_name(f"{file.name}.png")
        task.draw(prediction.answer, preparation.original(image), picture)
    yield dataclasses.replace(prediction, answer=None)
