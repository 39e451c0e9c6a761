"""The quickstart cut down to seconds, with all that a restart could lose.

`:images=PATH` takes PATH/train and PATH/test instead of the digits.
"""

import ml_collections

from configs import quickstart
from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  images = configuration.parse_arg(arg, images="")["images"]
  c = quickstart.get_config("runlocal")
  # Neither logs nor evaluations come with checkpoints: whatever is in the
  # making when a run stops must be taken up again.
  c.total_steps = 120
  c.log_steps = 5
  c.checkpoint_steps = 24
  c.eval_steps = 50
  c.flexi = dict(patch_size=dict(values=(24, 8), weights=(3, 2)))
  c.model.dropout = 0.1
  c.task.mixup_alpha = 0.2
  c.ema_decay = 0.9
  c.optimizer.schedule.warmup_steps = 10
  c.data.max_corrupt = 0
  if images:
    for data in (c.data, c.evals.test.data):
      data.name = f"folder:{images}"
      data.pp = data.pp.replace("standardize(0.305,0.376)|", "")
  return c
