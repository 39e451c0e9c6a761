"""What the commands on a trained run have in common."""

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit import arguments, dials
from tokenlearner_flexivit.analysis import runs


class Opened(NamedTuple):
  """A run, and what is to be looked at in it.

  Attributes:
    model: a `models.ViT`.
    params: of its newest checkpoint.
    settings: those asked for.
    data: the data section of its evaluation, with the split asked for.
    config: of the run.
  """

  model: Any
  params: Any
  settings: list[dials.Setting]
  data: dict[str, Any]
  config: dict[str, Any]

  def check(self, images: np.ndarray) -> None:
    """Raises ValueError for a setting that does not fit [B, H, W, C]."""
    for setting in self.settings:
      self.model.check(images.shape[1:3], *setting)


def parser(name: str, description: str) -> argparse.ArgumentParser:
  """Returns a parser of the flags that say which run, and at which sizes.

  Args:
    name: of the module in `analysis`.
    description: of the command.
  """
  found = argparse.ArgumentParser(
    prog=f"python -m tokenlearner_flexivit.analysis.{name}",
    description=description,
  )
  add = found.add_argument
  add("--workdir", required=True, help="of a trained run")
  add("--output", required=True, help=f"the picture, such as {name}.png")
  add(
    "--patch_sizes",
    type=arguments.whole_numbers,
    help="as 24,12,6; else the run's",
  )
  return found


def add_num_tokens(add: Any) -> None:
  """Adds the flag of the other dial."""
  add(
    "--num_tokens",
    type=arguments.num_tokens,
    help="learned tokens, or all; else the model's own",
  )


def add_split(add: Any, number: int) -> None:
  """Adds the flags that say which images of the data."""
  add("--split", help="of the run's test data, if not the evaluated one")
  add(
    "--num_images",
    type=int,
    default=number,
    help=f"how many of the split, by default {number}",
  )


def add_images(add: Any, number: int) -> None:
  """Adds the flags that say which images, of the data or one's own."""
  add("--images", nargs="+", metavar="FILE", help="images of your own")
  add_split(add, number)


def open_run(args: argparse.Namespace) -> Opened:
  """Opens the run that the flags name, at the settings that they name.

  Raises:
    ValueError: see `runs.open_run`, or no patch size.
  """
  run = runs.open_run(args.workdir, "image")
  settings = [
    dials.Setting(dials.as_patch_size(size, "--patch_sizes"), args.num_tokens)
    for size in args.patch_sizes or run.dials.patch_size.values
  ]
  data = {**run.data, "split": args.split or run.data["split"]}
  return Opened(run.model, run.params, settings, data, run.config)


def read_images(args: argparse.Namespace, opened: Opened) -> np.ndarray:
  """Returns the images of `add_images`, [B, H, W, C], that fit all settings.

  Raises:
    ValueError: files and a split are given, one of them cannot be read, or a
      setting does not fit.
  """
  if args.images and args.split:
    raise ValueError("Give --images or --split, not both.")
  if args.images:
    images = runs.read_files(args.images, opened.data["pp"])
  else:
    images = runs.read_examples(opened.data, args.num_images)
  opened.check(images)
  return images


def write_numbers(picture: str, found: Any) -> pathlib.Path:
  """Writes as JSON what a picture shows; returns the file, beside it."""
  path = pathlib.Path(picture).with_suffix(".json")
  path.write_text(json.dumps(found, indent=2) + "\n")
  return path


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
  """Ends the program with a line, not a traceback, on bad input."""
  try:
    yield
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")
