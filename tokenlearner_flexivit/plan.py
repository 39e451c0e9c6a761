"""Plans a run before its chips are rented.

  python -m tokenlearner_flexivit.plan --config=CONFIG --topology=v5e:4x4

compiles the run's steps by the compilers of these chips, which need not be
there, and prints what they need: memory per chip, the largest batch that fits,
bytes and operations of a step, and hours of chips. Neither data nor weights are
needed.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from tokenlearner_flexivit import arguments, overrides, paths, terminal

_FILE = "plan.json"


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; errors are printed in a line, with exit status 1."""
  terminal.prepare()
  values, others = overrides.split(sys.argv[1:] if argv is None else argv)
  args = _parser().parse_args(others)
  import jax

  if args.topology != "here":  # Its compiler alone is used, whatever is here.
    jax.config.update("jax_platforms", "cpu")
  from tokenlearner_flexivit import planning
  from tokenlearner_flexivit.run import workdir
  from tokenlearner_flexivit.train import setup

  try:
    path = _output(args.out)
    config = overrides.load(args.config)
    for sentence in overrides.apply(config, values, setup.DEFAULTS):
      terminal.say(sentence)
    plan = planning.make(
      config,
      args.topology,
      settings=args.settings,
      patch_sizes=args.patch_sizes,
      dispatch=args.dispatch,
      largest=args.largest,
      utilisation=args.utilisation,
      num_examples=args.num_examples,
      num_classes=args.num_classes,
    )
    about = {"config": args.config, "values": values}
    with paths.whole(path) as partial:
      text = workdir.as_json({**about, **plan}, indent=2)
      partial.write_text(text + "\n", encoding="utf-8")
  except (ImportError, OSError, ValueError) as error:
    sys.exit(f"Error: {error}")
  print(f"\n{planning.as_text(plan)}\nSaved {path}.")


def _output(out: str) -> pathlib.Path:
  """Returns the file to write, checked before the minutes of compiling."""
  path = paths.local(out, "--out")
  if path.is_dir():
    path /= _FILE
  if not path.parent.is_dir():
    raise ValueError(f"--out={out}: there is no folder {path.parent}.")
  if not os.access(path if path.exists() else path.parent, os.W_OK):
    raise ValueError(f"--out={out}: you may not write {path}.")
  return path


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.plan",
    description="Compiles a run's steps for chips that need not be there, and "
    "prints what they need.",
    epilog="--config.KEY=VALUE sets a value of the config, as for main.",
  )
  add = parser.add_argument
  add("--config", required=True, help="the run, such as configs/quickstart.py")
  add(
    "--topology",
    required=True,
    help="chips, such as v5e:4x4, v5p:2x2x4 or h200:8; here for this machine's",
  )
  add(
    "--settings",
    default="ends",
    help="compile the cheapest and the dearest setting (ends, the default), or "
    "all",
  )
  add(
    "--patch_sizes",
    type=arguments.whole_numbers,
    help="compile the settings of these patch sizes instead, as 48,8",
  )
  add(
    "--dispatch",
    default="host",
    help="a program for each setting (host, the default), one for all "
    "(switch), or both",
  )
  add(
    "--largest",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="seek the largest batch that fits, by two more programs each",
  )
  add(
    "--utilisation",
    type=float,
    default=0.4,
    help="the share of the peak that the hours assume, by default 0.4",
  )
  add(
    "--num_examples",
    type=arguments.count,
    help="of the training data, if not here",
  )
  add(
    "--num_classes",
    type=arguments.count,
    help="of the training data, if not here",
  )
  add("--out", default=".", help=f"file or folder, by default ./{_FILE}")
  return parser


if __name__ == "__main__":
  main()
