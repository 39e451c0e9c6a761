"""Sets the sizes of the study, and what is learned at each."""

import dataclasses

from experiments import recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(recipe.Scale):
  """A size of the study; `data` is the name of a dataset.

  Attributes:
    train_pp: preprocessing for training, without labels.
    test_pp: for tests, also without them.
    sizes: patch sizes, from large to small; the first, middle and last are
      those of the fixed models that are tried at all of them.
    outside: sizes that no model is trained at.
    short_steps: of what starts from a trained model and is to be cheap.
    downstream: the split of other images that transfer learns from; None for
      a dataset that has none, where there is no transfer.
  """

  train_pp: str
  test_pp: str
  sizes: tuple[int, ...]
  outside: tuple[int, ...]
  short_steps: int
  downstream: str | None = None

  @property
  def middle(self) -> int:
    """Returns the patch size in the middle."""
    return self.sizes[len(self.sizes) // 2]


_DIGITS = "value_range(0,1)|standardize(0.305,0.376)"
SCALES = {
  # A seed takes about 75 minutes on two CPU cores.
  "cpu": Scale(
    data="rendered_scenes/64",
    train_pp="decode|random_crop(60)|value_range(-1,1)",
    test_pp="decode|central_crop(60)|value_range(-1,1)",
    side=60,
    sizes=(15, 12, 10, 6),
    outside=(30, 20, 5, 4),
    width=64,
    depth=4,
    batch_size=64,
    steps=2400,
    short_steps=600,
    downstream="validation",
  ),
  # The quick version.
  "digits": Scale(
    data="digits",
    train_pp="decode|resize(48)|random_affine(degrees=8,translate=0.05,"
    f"scale=(0.95,1.05))|{_DIGITS}",
    test_pp=f"decode|resize(48)|{_DIGITS}",
    side=48,
    sizes=(24, 16, 12, 8, 6),
    outside=(48, 4, 3),
    width=64,
    depth=4,
    batch_size=32,
    steps=1200,
    short_steps=300,
  ),
  # A ViT-S; about 20 minutes on one modern GPU. Not yet run.
  "gpu": Scale(
    data="rendered_scenes/120",
    train_pp="decode|value_range(-1,1)",
    test_pp="decode|value_range(-1,1)",
    side=120,
    sizes=(30, 24, 20, 15, 12, 10),
    outside=(40, 8),
    width=384,
    depth=12,
    batch_size=256,
    steps=3000,
    short_steps=600,
    downstream="validation",
  ),
}
