"""Prepares the dataset.

python -m tokenlearner_flexivit.data.rendered_scenes 96
"""

import argparse

from tokenlearner_flexivit.data.rendered_scenes import builder


def main() -> None:
  """Reads the command line and prepares the dataset."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "configs", nargs="+", help="such as 64, 96, 512 or video_64"
  )
  parser.add_argument("--data_dir", help="TFDS's folder")
  parser.add_argument("--num_processes", type=int, help="default: all cores")
  arguments = parser.parse_args()
  for config in arguments.configs:
    builder.prepare(arguments.data_dir, config, arguments.num_processes)


if __name__ == "__main__":
  main()
