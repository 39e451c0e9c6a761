r"""Predictions of a trained model from the command line.

  python -m tokenlearner_flexivit.predict IMAGE... --workdir=W --budget_ms=5
  python -m tokenlearner_flexivit.predict FOLDER --workdir=W --csv > answers.csv
  python -m tokenlearner_flexivit.predict photo.jpg --workdir=W --output=MASKS
  python -m tokenlearner_flexivit.predict photo.jpg --workdir=W \
    --labels="a red circle;a blue square"
  python -m tokenlearner_flexivit.predict photo.jpg --workdir=W \
    --detect="a dog;a red ball" --output=BOXES
  python -m tokenlearner_flexivit.predict profile --workdir=W
  python -m tokenlearner_flexivit.predict export --workdir=W --output=FOLDER

W is the workdir of a run, a folder that `export` wrote, or its address, such as
hf://owner/name. Each has `--help`.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tokenlearner_flexivit import arguments, dials, terminal
from tokenlearner_flexivit.inference import (
  Prediction,
  Predictor,
  export,
  model_card,
  printed,
  written,
)
from tokenlearner_flexivit.inference import images as images_lib
from tokenlearner_flexivit.inference import profile as profile_lib
from tokenlearner_flexivit.run import program_cache

# Images whose answers to files are in memory together.
_MAX_UNWRITTEN = 64


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command; errors are printed in a line, with exit status 1."""
  terminal.prepare()
  argv = list(sys.argv[1:] if argv is None else argv)
  command = COMMANDS.get(argv[0]) if argv else None
  program_cache.use()
  try:
    failed = command(argv[1:]) if command else _predict(argv)
  except (ImportError, OSError, ValueError) as error:
    sys.exit(f"Error: {error}")
  sys.exit(int(bool(failed)))


def _parser(command: str, description: str) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f"python -m tokenlearner_flexivit.predict{command}",
    description=description,
    epilog=None
    if command
    else "With the word profile or export instead of images: what settings "
    "cost here, and files for use elsewhere (each with its own --help).",
  )
  parser.add_argument(
    "--workdir",
    required=True,
    help="of a trained run, or an exported model, or its address (hf://...)",
  )
  return parser


def _add_dials(add: Any) -> None:
  for name, kind in dials.KINDS.items():
    add(f"--{name}", type=arguments.dial, help=kind.hint)


def _dial_values(args: argparse.Namespace) -> dict[str, Any]:
  """Returns the values of the dials that the flags set."""
  values = {name: getattr(args, name) for name in dials.KINDS}
  return {k: value for k, value in values.items() if value is not None}


def _predict(argv: Sequence[str]) -> bool:
  """Answers to images; returns whether any failed."""
  parser = _parser("", "Answers to images or videos, such as by their class.")
  add = parser.add_argument
  add("images", nargs="+", metavar="IMAGE", help="a file, or a folder of them")
  _add_dials(add)
  add(
    "--budget_ms",
    type=arguments.above_zero,
    help="the most that a call may take",
  )
  add(
    "--batch_size",
    type=arguments.count,
    help="images of a call, by default all that are given",
  )
  add("--profile", metavar="FILE", help="a file of `profile`, for the budget")
  add(
    "--top_k",
    type=arguments.count,
    default=5,
    help="classes of an image to print, by default 5",
  )
  add(
    "--labels",
    metavar="TEXTS",
    help="texts to choose from, separated by ; for a model of images and texts",
  )
  add(
    "--detect",
    metavar="NAMES",
    help="names of things to find, separated by ; for a model of detection",
  )
  form = parser.add_mutually_exclusive_group()
  form.add_argument("--json", action="store_true", help="print JSON")
  form.add_argument(
    "--csv",
    action="store_true",
    help="print CSV, a line per image and class, "
    "or the numbers of other answers",
  )
  form.add_argument(
    "--output",
    metavar="FOLDER",
    help="write a file per image there, for answers that are no classes of "
    "images, such as a label map",
  )
  args = parser.parse_args(argv)
  if args.profile and args.budget_ms is None:
    parser.error("--profile is for --budget_ms.")
  if args.labels is not None and args.output:
    parser.error("--output writes answers that are no labels.")
  if args.labels is not None and args.detect is not None:
    parser.error("Give --labels or --detect, not both.")
  labels = _texts(args.labels, "labels", parser)
  names = _texts(args.detect, "detect", parser)
  for word in COMMANDS:
    if word in args.images and not pathlib.Path(word).exists():
      parser.error(f"The word {word} comes before all flags.")
  predictor = Predictor.load(args.workdir)
  if labels is not None and hasattr(predictor.trained.task, "renamed"):
    names, labels = labels, None  # A model of detection looks for them.
  if names is not None:
    predictor = predictor.looking_for(names)
  images = _expanded(args.images, predictor.extensions)
  files = None
  if args.output:
    if predictor.trained.classifies:
      raise ValueError(
        "--output writes answers that are no classes, but this model "
        "classifies. Give --csv or --json."
      )
    ends = predictor.trained.task.written_ends
    files = written.paths(export.check_new(args.output), images, ends)
  if args.profile:
    predictor.remember(profile_lib.read(args.profile))
  elif args.budget_ms is not None:
    print(
      "Measuring every setting first; a file of `profile` spares that.",
      file=sys.stderr,
    )
  predictions = _in_calls(predictor, images, args, labels)
  trained = predictor.trained
  if files:
    predictions = list(written.write(files, predictions, trained))
    if any(prediction.error is None for prediction in predictions):
      print(f"Saved the answers in {args.output}.")
  else:
    predictions = list(predictions)
    about = images, predictions, trained
    if args.csv:
      print(printed.as_csv(*about))
    elif args.json:
      print(printed.as_json(*about))
    else:
      print(printed.as_text(*about, args.top_k))
  failed = 0
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is not None:
      failed += 1
      print(f"Error: {image}: {prediction.error}", file=sys.stderr)
  return failed > 0


def _texts(
  value: str | None, flag: str, parser: argparse.ArgumentParser
) -> list[str] | None:
  """Returns the texts of a flag, which semicolons separate."""
  if value is None:
    return None
  texts = [text.strip() for text in value.split(";") if text.strip()]
  if not texts:
    parser.error(f'--{flag} names no text. Give some, as in "a cat;a dog".')
  return texts


def _expanded(
  names: Sequence[str], extensions: tuple[str, ...] | None
) -> list[str]:
  """Returns files, replacing each folder by the files in it."""
  images = []
  for name in names:
    path = os.path.expanduser(name)
    is_folder = os.path.isdir(path)
    images += images_lib.files(path, extensions) if is_folder else [name]
  return images


def _in_calls(
  predictor: Predictor,
  images: Sequence[str],
  args: argparse.Namespace,
  labels: Sequence[str] | None,
) -> Iterator[Prediction]:
  """Yields the answers to images, in calls of the requested size."""
  number = min(args.batch_size or len(images), len(images))
  values = _dial_values(args)
  if args.budget_ms is None:
    setting = predictor.setting(**values)
  elif not values:
    setting = predictor.choose(args.budget_ms, num_images=number)
  else:
    raise ValueError("Give a setting or budget_ms, not both.")
  if args.output:
    number = min(number, _MAX_UNWRITTEN)
  for start in range(0, len(images), number):
    part = images[start : start + number]
    yield from predictor.answer(part, setting, args.top_k, labels)


def _profile(argv: Sequence[str]) -> None:
  """Prints, and optionally writes, the cost of every setting."""
  parser = _parser(" profile", "Measures what every setting costs here.")
  add = parser.add_argument
  add(
    "--batch_sizes",
    type=arguments.counts,
    default=[1],
    help="images of a call, as 1,8; by default 1",
  )
  add(
    "--repeats",
    type=arguments.count,
    default=20,
    help="calls measured, by default 20",
  )
  add("--output", metavar="FILE", help="JSON, for --profile of predictions")
  add("--json", action="store_true", help="print JSON, as --output has it")
  args = parser.parse_args(argv)
  # Checked now rather than after minutes of measuring.
  output = profile_lib.check_writable(args.output) if args.output else None
  predictor = Predictor.load(args.workdir)
  for batch_size in args.batch_sizes:
    predictor.check_batch_size(batch_size)
  rows = []
  for batch_size in args.batch_sizes:
    measured = predictor.profile(batch_size=batch_size, repeats=args.repeats)
    if not args.json:
      trained = predictor.trained
      shown = profile_lib.markdown(
        measured, trained.headline, trained.headline_metric, trained.kind
      )
      print(f"{shown}\n", flush=True)
    rows += measured
  if args.json:
    print(profile_lib.as_json(rows))
  if output:
    profile_lib.write(rows, output)
    print(f"Saved {output}.", file=sys.stderr)


def _export(argv: Sequence[str]) -> None:
  """Writes files that work without the training parts."""
  parser = _parser(" export", "Writes a model for use elsewhere.")
  add = parser.add_argument
  add("--output", metavar="FOLDER", help="for programs and a manifest")
  add("--hub_dir", metavar="FOLDER", help="for a model hub: weights, a card")
  add("--profile", metavar="FILE", help="a file of `profile`, for the card")
  _add_dials(add)
  args = parser.parse_args(argv)
  values = _dial_values(args)
  if not args.output and not args.hub_dir:
    parser.error("Give --output, --hub_dir, or both.")
  if args.profile and not args.hub_dir:
    parser.error("--profile is for --hub_dir.")
  if values and not args.output:
    flags = " and ".join(f"--{name}" for name in dials.KINDS)
    parser.error(f"{flags} choose what --output gets.")
  folders = [
    export.check_new(name) for name in (args.output, args.hub_dir) if name
  ]
  if len(folders) > len(set(folders)):
    parser.error("--output and --hub_dir must be two folders.")
  predictor = Predictor.load(args.workdir)
  rows = profile_lib.read(args.profile) if args.profile else None
  predictor.remember(rows or ())  # Raises for rows of another model.
  if args.output:
    settings = None
    if values:
      settings = [predictor.setting(**values)]
    print(
      f"Saved {export.write(predictor.trained, args.output, settings).parent}."
    )
  if args.hub_dir:
    print(
      f"Saved {model_card.write(predictor.trained, args.hub_dir, rows).parent}."
    )


COMMANDS = {"profile": _profile, "export": _export}


if __name__ == "__main__":
  main()
