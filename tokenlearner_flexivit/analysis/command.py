"""The common parts of the commands that analyse a trained model."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit import arguments, dials, interop, terminal
from tokenlearner_flexivit.analysis import captions
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.run import workdir as workdir_lib

# Flags for --init, which are arguments of `runs.open_weights`.
_WEIGHT_FLAGS = ("num_heads", "posemb_grid", "input_mean", "input_std")


class Opened(NamedTuple):
  """An opened model, with settings and data to analyse it.

  Attributes:
    model: a `models.ViT`.
    params: for a run, those of its newest checkpoint.
    settings: those that the flags name.
    data: the data section of its evaluation, with the requested split; for
      weights of other libraries, the section that the flags describe.
    config: of the run; for other weights, as in `runs.Run`.
    class_names: of the run's data, if they are known.
  """

  model: Any
  params: Any
  settings: list[dials.Setting]
  data: dict[str, Any]
  config: dict[str, Any]
  class_names: list[str] | None = None

  def check(self, images: np.ndarray) -> None:
    """Raises ValueError for a setting that does not fit [B, H, W, C]."""
    for setting in self.settings:
      self.model.check(images.shape[1:3], **setting)


def parser(name: str, description: str) -> argparse.ArgumentParser:
  """Returns a parser of the flags for the model and its patch sizes.

  Args:
    name: of the module in `analysis`.
    description: of the command.
  """
  result = argparse.ArgumentParser(
    prog=f"python -m tokenlearner_flexivit.analysis.{name}",
    description=description,
  )
  add = result.add_argument
  which = result.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", help="of a trained run")
  which.add_argument(
    "--init",
    metavar="SOURCE",
    help="or weights of others: a file, an address or a released name, as in "
    "config.init; with --data",
  )
  for flag, type_, meaning in (
    ("num_heads", int, "attention heads"),
    ("posemb_grid", arguments.whole_numbers, "H,W, grid of the positions"),
    ("input_mean", arguments.numbers, "R,G,B, of the images in [0, 1]"),
    ("input_std", arguments.numbers, "R,G,B, of the images in [0, 1]"),
  ):
    add(
      f"--{flag}",
      type=type_,
      help=f"with --init: {meaning}, if no file beside the weights says it",
    )
  add("--data", metavar="NAME", help="with --init: the dataset, as digits")
  add(
    "--pp",
    help="with --init: the preprocessing; by default, images are resized to "
    "the size of the stored grid, with values in [-1, 1]",
  )
  add(
    "--output",
    required=True,
    type=arguments.picture,
    help=f"the picture, such as {name}.png",
  )
  add(
    "--patch_sizes",
    type=arguments.whole_numbers,
    help="such as 24,12,6; by default those of the run, or the stored one",
  )
  return result


def add_num_tokens(add: Any) -> None:
  """Adds the flag for the number of learned tokens."""
  add(
    "--num_tokens",
    type=arguments.num_tokens,
    help="learned tokens, or all; by default the model's own",
  )


def add_split(add: Any, number: int) -> None:
  """Adds the flags that select images of the data."""
  add(
    "--split",
    help="of the run's test data, by default the evaluated one; with --init "
    "of --data, by default test",
  )
  add(
    "--num_images",
    type=int,
    default=number,
    help=f"how many of the split, by default {number}",
  )


def add_images(add: Any, number: int) -> None:
  """Adds the flags that select images, of the data or of files."""
  add("--images", nargs="+", metavar="FILE", help="images of your own")
  add_split(add, number)


def open_run(args: argparse.Namespace) -> Opened:
  """Opens the model that the flags name, at the settings that they name.

  Raises:
    ValueError, OSError: an error of `runs.open_run` or `runs.open_weights`, no
      patch size or a repeated one, --data with a run, or no --data with other
      weights.
  """
  if args.init is None:
    for name in ("data", "pp", *_WEIGHT_FLAGS):
      if getattr(args, name) is not None:
        raise ValueError(
          f"--{name} goes with --init: a run has its own data. To see it on "
          f"others, give --init={args.workdir} instead of --workdir."
        )
    run = runs.open_run(args.workdir, "image")
    data = {**run.data, "split": args.split or run.data["split"]}
  else:
    if not (args.data or getattr(args, "images", None)):
      raise ValueError(
        f"--init={args.init} names no images. Give a dataset with --data, "
        "such as --data=digits or --data=folder:/path"
        + (", or files with --images." if hasattr(args, "images") else ".")
      )
    run = runs.open_weights(
      args.init, **{name: getattr(args, name) for name in _WEIGHT_FLAGS}
    )
    data = {"name": args.data, "split": args.split or "test", **run.data}
    if (
      args.pp
      and run.data
      and (
        differ := statistics.differ_from(
          statistics.mean_and_std(run.data["pp"]), args.pp
        )
      )
    ):
      terminal.say(
        f"WARNING: {args.init} expects images {differ[0]}, but those of --pp "
        f"are {differ[1]}."
      )
    data["pp"] = args.pp or data.get("pp")
    if data["pp"] is None:
      raise ValueError(
        f"{args.init} stores no position embedding, so the size of its images "
        "is not known. Give the preprocessing, such as "
        "--pp=\"decode|resize(224)|value_range(-1,1)|keep('image','label')\"."
      )
  settings = [
    dials.Setting(dials.as_patch_size(size, "--patch_sizes"), args.num_tokens)
    for size in args.patch_sizes or run.dials["patch_size"].values
  ]
  if len(set(settings)) < len(settings):
    shown = ",".join(map(str, args.patch_sizes))
    raise ValueError(f"--patch_sizes={shown} has a size twice.")
  return Opened(
    run.model, run.params, settings, data, run.config, run.class_names
  )


def open_other(source: str) -> runs.Run:
  """Opens a model to compare with, of a run or of other weights.

  Raises:
    ValueError, OSError: an error of `runs.open_run` or `runs.open_weights`.
  """
  if (interop.fetch(source) / workdir_lib.CONFIG_FILE).is_file():
    return runs.open_run(source, "image")
  return runs.open_weights(source)


def short_names(*sources: str) -> list[str]:
  """Returns names of models, the ends of their paths, numbered if equal."""
  ends = [pathlib.PurePath(source).name or source for source in sources]
  if len(set(ends)) == len(ends):
    return ends
  return [f"{end} ({i})" for i, end in enumerate(ends, start=1)]


def read_captioned(
  args: argparse.Namespace, opened: Opened
) -> tuple[np.ndarray, list[str]]:
  """Returns the images of `add_images`, and words for each.

  Returns:
    [B, H, W, C] that fit all settings; the names of files, or of the classes
    of the data's examples.

  Raises:
    ValueError: both files and a split are named, images cannot be read, or a
      setting does not fit.
  """
  if args.images and args.split:
    raise ValueError("Give --images or --split, not both.")
  if args.images:
    images = runs.read_files(args.images, opened.data["pp"])
    words = [captions.shortened(pathlib.Path(f).name) for f in args.images]
  else:
    images, words = captions.read_examples(opened.data, args.num_images)
  opened.check(images)
  return images, words


def read_images(args: argparse.Namespace, opened: Opened) -> np.ndarray:
  """Returns the images of `read_captioned` alone."""
  return read_captioned(args, opened)[0]


def write_numbers(picture: str | pathlib.Path, result: Any) -> pathlib.Path:
  """Writes a picture's numbers as JSON beside it, and returns the file.

  A picture in a workdir may be called as a file of the run, such as report.png;
  its numbers are then in report_numbers.json.
  """
  path = pathlib.Path(picture).with_suffix(".json")
  if path.name in workdir_lib.JSON_FILES:
    path = path.with_stem(f"{path.stem}_numbers")
  workdir_lib.write_json(path, result)
  return path


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
  """Ends the program with one line instead of a traceback on bad input."""
  terminal.prepare()
  try:
    yield
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"Error: {error}")
