"""Describes and converts files of weights.

  python -m tokenlearner_flexivit.interop describe FILE
  python -m tokenlearner_flexivit.interop convert IN OUT --format=timm

FILE and IN may be anything that `load_params` takes.
"""

import argparse
import dataclasses
import functools
import os
import sys
from typing import Any

from flax import linen as nn

from tokenlearner_flexivit import arguments, models, terminal
from tokenlearner_flexivit.interop import (
  FORMATS,
  about,
  config_files,
  describe,
  download,
  load_params_and_report,
  save,
  weights,
)
from tokenlearner_flexivit.interop.formats import LIBRARIES
from tokenlearner_flexivit.interop.leaves import shorten
from tokenlearner_flexivit.interop.resize import POSEMB_METHODS
from tokenlearner_flexivit.models import blocks, uvim

_HEAD = "head/"


def main(argv: list[str] | None = None) -> None:
  """Runs a command; errors are printed in a line, with exit status 1."""
  terminal.prepare()
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.interop",
    description=__doc__.split("\n", 1)[0],
  )
  commands = parser.add_subparsers(dest="command", required=True)
  look = commands.add_parser("describe", help="what a file holds")
  look.add_argument("file")
  turn = commands.add_parser("convert", help="save under other names")
  turn.add_argument("input", metavar="IN")
  turn.add_argument("output", metavar="OUT")
  turn.add_argument("--format", required=True, choices=FORMATS)
  for command in (look, turn):
    command.add_argument(
      "--num_heads",
      type=arguments.count,
      help="attention heads, for timm's and Hugging Face's files without a "
      "config.json",
    )
    command.add_argument(
      "--posemb_grid",
      type=arguments.whole_numbers,
      metavar="H,W",
      help="grid of the positions, where no config tells it",
    )
    command.add_argument(
      "--gelu",
      choices=tuple(blocks.GELUS),
      help="activation, where no config tells it",
    )
  for name, meaning in (("mean", "subtracted from"), ("std", "dividing")):
    turn.add_argument(
      f"--input_{name}",
      type=arguments.numbers,
      metavar="R,G,B",
      help=f"{meaning} the images in [0, 1] that the weights expect; absorbed, "
      "so that images in [-1, 1] can be given; of a run known",
    )
  turn.add_argument(
    "--unused",
    nargs="+",
    default=(),
    metavar="NAME",
    help="beginnings of names of arrays to leave out",
  )
  turn.add_argument(
    "--patch_size",
    type=arguments.count,
    help="of the result: the kernel (PI-resize) and the positions are resized",
  )
  turn.add_argument(
    "--posemb_method",
    choices=POSEMB_METHODS,
    default="linear",
    help="how the positions are resized",
  )
  turn.add_argument(
    "--no_embed_class",
    action="store_true",
    help="for timm's flexivit: no position of the cls token",
  )
  args = parser.parse_args(argv)
  try:
    if args.command == "describe":
      print(
        describe(
          args.file,
          num_heads=args.num_heads,
          posemb_grid=args.posemb_grid,
          gelu=args.gelu,
        )
      )
    else:
      _convert(args)
    sys.stdout.flush()
  except BrokenPipeError:
    # `... describe FILE | head` closed the pipe. Python must not complain when
    # it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (ImportError, OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


def _at_patch_size(
  model: models.ViT, patch_size: int, seen: tuple[int, int] | None
) -> models.ViT:
  """Returns a model for images of the same size, with other patches.

  Args:
    model: the model.
    patch_size: of the result.
    seen: height and width of the images that a run was evaluated on, which the
      sizes of its kernel and of its positions do not tell; None for others.

  Raises:
    ValueError: the patches do not divide the images.
  """
  sizes = seen or [
    p * side
    for p, side in zip(model.patch_size, model.posemb_grid, strict=True)
  ]
  if any(size % patch_size for size in sizes):
    raise ValueError(
      f"--patch_size={patch_size} must divide the images of the model,"
      f" {sizes[0]} x {sizes[1]} px."
    )
  grid = tuple(size // patch_size for size in sizes)
  return model.clone(patch_size=(patch_size,) * 2, posemb_grid=grid)


def _convert(args: argparse.Namespace) -> None:
  save.check_path(args.output, args.format)  # Before all weights are read.
  with weights.open_weights(download.fetch(args.input)) as opened:
    params, model, images = _load(args, opened)
    names = about.class_names(opened.path, opened.metadata)
    loss = about.loss(opened.path, opened.metadata)
  save.save_with_images(
    params,
    args.output,
    args.format,
    model=model,
    images=images,
    no_embed_class=args.no_embed_class,
    class_names=opened.known.class_names if names is None else names,
    loss=loss,
  )
  print(f"Saved {args.output} ({args.format}).")


def _load(
  args: argparse.Namespace, opened: weights.Weights
) -> tuple[dict[str, Any], nn.Module, config_files.Images]:
  """Returns the parameters to save, their model and the images they expect.

  Raises:
    ValueError: the model cannot be described or loaded, or lacks more than its
      head without `args.unused`.
  """
  description = describe(
    args.input,
    num_heads=args.num_heads,
    posemb_grid=args.posemb_grid,
    gelu=args.gelu,
    opened=opened,
  )
  model = models.create(**description.model)
  if isinstance(model, models.UViM) and uvim.CODER in args.unused:
    model = model.clone(coder=None)
  if args.patch_size:
    seen = description.images.size if description.format == "native" else None
    model = _at_patch_size(model, args.patch_size, seen)
  mean, std = args.input_mean, args.input_std
  expected = description.images
  as_stored = mean is None and std is None and args.format in LIBRARIES
  if as_stored:
    # Their configs tell mean and std of the images, if they are known.
    mean = std = 0.5
    if expected.mean is None and description.format == "big_vision":
      print(
        "Images are taken to be in [-1, 1], as big_vision's models expect them;"
        " --input_mean and --input_std say otherwise."
      )
      expected = dataclasses.replace(expected, mean=(0.5,), std=(0.5,))
  elif description.format == "native" and mean is None and std is None:
    # The file that is written does not record the preprocessing of a run.
    mean, std = expected.mean, expected.std
  load = functools.partial(
    load_params_and_report,
    args.input,
    dtype=None,
    posemb_method=args.posemb_method,
    posemb_grid=args.posemb_grid,
    input_mean=mean,
    input_std=std,
    unused=args.unused,
    opened=opened,
  )
  params, report = load(model)
  # A file holds no new parameters as if they were trained.
  fresh = [row.name for row in report.rows if row.fate == "fresh"]
  if fresh and all(name.startswith(_HEAD) for name in fresh):
    model = model.clone(num_classes=None)
    params, report = load(model)
  elif fresh:
    raise ValueError(
      f"Without {', '.join(args.unused)} the model lacks {shorten(fresh)}. "
      "Only the head, the coder of a UViM and what the model does not have can "
      "be left out."
    )
  print(report)
  if not as_stored and (mean, std) != (None, None):
    # Other statistics are absorbed.
    expected = dataclasses.replace(expected, mean=(0.5,), std=(0.5,))
  return params, model, expected


if __name__ == "__main__":
  main()
