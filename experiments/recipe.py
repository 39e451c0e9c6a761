"""What the studies train with: the same for all models of one."""

import ml_collections


def config(
  *, seed: int, batch_size: int, steps: int, lr: float = 1e-3
) -> ml_collections.ConfigDict:
  """Returns a config that lacks data, model, dials and evaluations.

  The rate is one at which models of any patch size leave the plateau that
  training on textures begins with; at twice that not all of them do.
  """
  c = ml_collections.ConfigDict()
  c.seed = seed
  c.batch_size = batch_size
  c.total_steps = steps
  c.log_steps = min(50, steps)
  c.checkpoint_steps = 500
  c.task = dict(name="classification", loss="softmax_xent", label_smoothing=0.1)
  c.optimizer = dict(
    name="adamw",
    lr=lr,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_steps=min(100, steps // 2)),
    grad_clip_norm=1.0,
  )
  return c


def add_textures(
  c: ml_collections.ConfigDict, data: str, crop: int, num_threads: int = 2
) -> None:
  """Adds data and the evaluation "test": rendered_scenes by texture.

  Args:
    c: gets them.
    data: configuration of rendered_scenes.
    crop: side of the images in pixels, cut out of those of the data.
    num_threads: that decode them.
  """
  # No flips or turns: they would make other textures of slashes and stripes.
  last = "value_range(-1,1)|keep('image','label')"
  name = f"rendered_scenes/{data}"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|random_crop({crop})|{last}",
    features=("image", "label"),  # The other twelve take longer.
    num_threads=num_threads,
  )
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        name=name, split="test", pp=f"decode|central_crop({crop})|{last}"
      ),
      batch_size=100,
    )
  )


def model_section(width: int, patch_size: int, side: int) -> dict:
  """Returns config.model but for its depth: a small ViT with heads of 32.

  Args:
    width: of the tokens; the MLPs are four times as wide.
    patch_size: of the stored kernel.
    side: of the images in pixels; the position embedding is of their grid.
  """
  grid = side // patch_size
  return dict(
    width=width,
    mlp_dim=4 * width,
    num_heads=width // 32,
    patch_size=(patch_size, patch_size),
    posemb_grid=(grid, grid),
  )
