"""Digits: one small FlexiViT with TokenLearner, six patch sizes, minutes.

    python -m tokenlearner_flexivit.main --workdir=/tmp/quickstart \
      --config=configs/quickstart.py

About three minutes on two CPU cores. Expected test accuracy, of three seeds:
experiments/quickstart/README.md. `:runlocal` is a two-step check.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  runlocal = configuration.parse_arg(arg, runlocal=False)["runlocal"]
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 32
  c.total_steps = 2 if runlocal else 3500
  c.log_steps = 1 if runlocal else 200
  c.checkpoint_steps = 500
  c.eval_steps = 1000

  # Mean and standard deviation of the digits at their own 8x8 pixels.
  last = "value_range(0,1)|standardize(0.305,0.376)|keep('image','label')"
  augment = "random_affine(degrees=8,translate=0.05,scale=(0.95,1.05))"
  c.data = dict(
    name="digits",
    split="train",
    pp=f"decode|resize(48)|{augment}|{last}",
    num_threads=1,  # Small images: more would only wait for one another.
  )
  c.model = dict(
    width=32 if runlocal else 96,
    depth=2 if runlocal else 4,
    mlp_dim=64 if runlocal else 384,
    num_heads=1 if runlocal else 3,
    patch_size=(8, 8),  # The stored kernel; resized to the size of each step.
    posemb_grid=(6, 6),
    token_learner=dict(layer=1 if runlocal else 2, num_tokens=8),
  )
  # Large patches need more steps to learn as much, and those are cheap.
  c.flexi = dict(
    patch_size=dict(values=(24, 16, 12, 8, 6, 4), weights=(3, 3, 3, 2, 2, 2))
  )
  c.task = dict(name="classification", loss="softmax_xent", label_smoothing=0.1)
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 100),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(name="digits", split="test", pp=f"decode|resize(48)|{last}"),
    )
  )
  return c
