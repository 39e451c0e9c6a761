"""Predictions of a trained model from the command line.

  python -m tokenlearner_flexivit.predict IMAGE... --workdir=W --budget_ms=5
  python -m tokenlearner_flexivit.predict FOLDER --workdir=W --csv > answers.csv
  python -m tokenlearner_flexivit.predict profile --workdir=W
  python -m tokenlearner_flexivit.predict export --workdir=W --output=FOLDER

W is the workdir of a run, a folder that `export` wrote, or its address, such as
hf://owner/name. Each has `--help`.
"""

import argparse
import csv
import io
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from tokenlearner_flexivit import arguments, terminal
from tokenlearner_flexivit.inference import (
  Prediction,
  Predictor,
  export,
  model_card,
)
from tokenlearner_flexivit.inference import images as images_lib
from tokenlearner_flexivit.inference import profile as profile_lib
from tokenlearner_flexivit.run import program_cache
from tokenlearner_flexivit.run import workdir as workdir_lib


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command; errors are printed in a line, with exit status 1."""
  terminal.escape_unknown_letters()
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


def _add_setting(add: Any) -> None:
  add("--patch_size", type=arguments.patch_size, help="in pixels, as 8 or 8,16")
  add(
    "--num_tokens",
    type=arguments.num_tokens,
    help="learned tokens, or all",
  )


def _predict(argv: Sequence[str]) -> bool:
  """Classifies images; returns whether any failed."""
  parser = _parser("", "Says what is on images, or in videos.")
  add = parser.add_argument
  add("images", nargs="+", metavar="IMAGE", help="a file, or a folder of them")
  _add_setting(add)
  add("--budget_ms", type=float, help="the most that a call may take")
  add(
    "--batch_size",
    type=int,
    help="images of a call, by default all that are given",
  )
  add("--profile", metavar="FILE", help="what `profile` wrote, for the budget")
  add("--top_k", type=int, default=5, help="classes to tell, by default 5")
  form = parser.add_mutually_exclusive_group()
  form.add_argument("--json", action="store_true", help="print JSON")
  form.add_argument(
    "--csv", action="store_true", help="print CSV, a line per image and class"
  )
  args = parser.parse_args(argv)
  if args.profile and args.budget_ms is None:
    parser.error("--profile is for --budget_ms.")
  if args.batch_size is not None and args.batch_size < 1:
    parser.error(f"--batch_size={args.batch_size} must be at least 1.")
  for word in COMMANDS:
    if word in args.images and not pathlib.Path(word).exists():
      parser.error(f"The word {word} comes before all flags.")
  predictor = Predictor.load(args.workdir)
  if args.csv:
    predictor.trained.check_classifies("--csv")
  images = _expanded(args.images, predictor.extensions)
  if args.profile:
    predictor.remember(profile_lib.read(args.profile))
  elif args.budget_ms is not None:
    print(
      "Measuring every setting first; a file of `profile` spares that.",
      file=sys.stderr,
    )
  predictions = _in_calls(predictor, images, args)
  show = _as_json if args.json else _as_csv if args.csv else _as_text
  print(show(images, predictions))
  failed = 0
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is not None:
      failed += 1
      print(f"Error: {image}: {prediction.error}", file=sys.stderr)
  return failed > 0


def _expanded(names: Sequence[str], extensions: tuple[str, ...]) -> list[str]:
  """Returns files, replacing each folder by the files in it."""
  images = []
  for name in names:
    path = os.path.expanduser(name)
    is_folder = os.path.isdir(path)
    images += images_lib.files(path, extensions) if is_folder else [name]
  return images


def _in_calls(
  predictor: Predictor, images: Sequence[str], args: argparse.Namespace
) -> list[Prediction]:
  """Returns the answers to images, in calls of the requested size."""
  number = min(args.batch_size or len(images), len(images))
  dial = dict(patch_size=args.patch_size, num_tokens=args.num_tokens)
  if args.budget_ms is None:
    setting = predictor.setting(**dial)
  elif set(dial.values()) == {None}:
    setting = predictor.choose(args.budget_ms, num_images=number)
  else:
    raise ValueError("Give a setting or budget_ms, not both.")
  predictions = []
  for start in range(0, len(images), number):
    part = images[start : start + number]
    predictions += predictor.answer(part, setting, args.top_k)
  return predictions


def _as_json(images: Sequence[str], predictions: Sequence[Prediction]) -> str:
  answers = []
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is None:
      labels = [label._asdict() for label in prediction.labels]
      answer = jax.tree.map(lambda x: x.tolist(), prediction.answer)
      known = {"labels": labels} if answer is None else {"answer": answer}
      answers.append({"image": image, **known})
    else:
      answers.append({"image": image, "error": prediction.error})
  setting = predictions[0].setting.row
  content = {**setting, "predictions": answers}
  return workdir_lib.as_json(content, indent=2)


def _as_csv(images: Sequence[str], predictions: Sequence[Prediction]) -> str:
  """Returns a CSV line per image and class, or per image with an error."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("image", "rank", "index", "name", "probability", "error"))
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is not None:
      writer.writerow((image, "", "", "", "", prediction.error))
    for rank, label in enumerate(prediction.labels, start=1):
      writer.writerow((image, rank, *label, ""))
  return text.getvalue().rstrip("\n")


def _as_text(images: Sequence[str], predictions: Sequence[Prediction]) -> str:
  lines = [f"Setting {predictions[0].setting.name}."]
  for image, prediction in zip(images, predictions, strict=True):
    if prediction.error is None:
      shown = ", ".join(
        f"{i if name is None else name} {100 * probability:.1f} %"
        for i, name, probability in prediction.labels
      )
      if prediction.answer is not None:
        shown = str(jax.tree.map(lambda x: x.tolist(), prediction.answer))
      lines.append(f"{image}: {shown}")
  return "\n".join(lines)


def _profile(argv: Sequence[str]) -> None:
  """Prints, and optionally writes, the cost of every setting."""
  parser = _parser(" profile", "Measures what every setting costs here.")
  add = parser.add_argument
  add(
    "--batch_sizes",
    type=arguments.whole_numbers,
    default=[1],
    help="images of a call, as 1,8; by default 1",
  )
  add("--repeats", type=int, default=20, help="calls measured, by default 20")
  add("--output", metavar="FILE", help="JSON, for --profile of predictions")
  add("--json", action="store_true", help="print JSON, as --output has it")
  args = parser.parse_args(argv)
  # Checked now rather than after minutes of measuring.
  output = profile_lib.check_writable(args.output) if args.output else None
  predictor = Predictor.load(args.workdir)
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
  add("--output", metavar="FOLDER", help="gets programs and a manifest")
  add("--hub_dir", metavar="FOLDER", help="gets what a model hub takes")
  add("--profile", metavar="FILE", help="times to tell there, of `profile`")
  _add_setting(add)
  args = parser.parse_args(argv)
  chosen = args.patch_size is not None or args.num_tokens is not None
  if not args.output and not args.hub_dir:
    parser.error("Give --output, --hub_dir, or both.")
  if args.profile and not args.hub_dir:
    parser.error("--profile is for --hub_dir.")
  if chosen and not args.output:
    parser.error("--patch_size and --num_tokens choose what --output gets.")
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
    if chosen:
      settings = [predictor.setting(args.patch_size, args.num_tokens)]
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
