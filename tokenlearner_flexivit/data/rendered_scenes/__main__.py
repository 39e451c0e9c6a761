"""Prepares the dataset.

python -m tokenlearner_flexivit.data.rendered_scenes 96
"""

import argparse
import sys

from tokenlearner_flexivit.data.rendered_scenes import builder


def main() -> None:
  """Prepares the dataset; errors are printed in a line, with exit status 1."""
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.data.rendered_scenes",
    description=__doc__.splitlines()[0],
  )
  parser.add_argument(
    "configs", nargs="+", help="such as 64, 96, 512 or video_64"
  )
  parser.add_argument("--data_dir", help="TFDS's folder")
  parser.add_argument("--num_processes", type=int, help="default: all cores")
  arguments = parser.parse_args()
  try:
    for config in arguments.configs:
      builder.prepare(arguments.data_dir, config, arguments.num_processes)
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  main()
