"""The quickstart with a seed; the study of several is `run.py`."""

import ml_collections

from configs import quickstart
from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `seed=1` is its seed."""
  args = configuration.parse_arg(
    arg, cell="quickstart", seed=0, scale="cpu", runlocal=False
  )
  c = quickstart.get_config("runlocal" if args["runlocal"] else "")
  c.seed = args["seed"]
  return c
