"""What is compared: the baseline and its TokenLearners, a cell for each."""

import dataclasses
from typing import Any

TOKENS = 16  # Where the number of tokens is not what is compared.
PLACEMENTS = {"at0": 0.0, "at1/4": 0.25, "at1/2": 0.5, "at3/4": 0.75}
NUMBERS = (4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A model to train.

  Attributes:
    name: in tables and folders.
    text: what it is, for people.
    placement: share of the baseline's blocks before TokenLearner; None for
      the baseline itself.
    num_tokens: S.
    version: see `models.TokenLearner`.
    fuser: whether with TokenFuser.
    deeper: whether blocks are added after TokenLearner until the model costs
      as much as the baseline.
  """

  name: str
  text: str
  placement: float | None = None
  num_tokens: int = TOKENS
  version: str = "1.1"
  fuser: bool = False
  deeper: bool = False

  def model(self, depth: int) -> dict[str, Any]:
    """The keys of config.model that make it, at the baseline's depth.

    Without the blocks that `deeper` adds.
    """
    if self.placement is None:
      return dict(depth=depth)
    return dict(
      depth=depth,
      token_learner=dict(
        layer=round(self.placement * depth),
        num_tokens=self.num_tokens,
        version=self.version,
        fuser=self.fuser,
      ),
    )


def _all() -> list[Cell]:
  half = dict(placement=0.5)
  cells = [Cell("baseline", "ViT, all tokens to the end")]
  cells += [
    Cell(
      name.replace("/", "_"), f"{TOKENS} tokens {name[:2]} {name[2:]}", share
    )
    for name, share in PLACEMENTS.items()
  ]
  cells += [
    Cell(f"tokens{n}", f"{n} tokens at 1/2", num_tokens=n, **half)
    for n in NUMBERS
    if n != TOKENS
  ]
  cells += [
    Cell("v1_0", f"{TOKENS} tokens at 1/2, v1.0", version="1.0", **half),
    Cell("fuser", f"{TOKENS} tokens at 1/2, TokenFuser", fuser=True, **half),
  ]
  cells += [
    Cell(
      f"average{n}",
      f"{n} averages at 1/2",
      num_tokens=n,
      version="average",
      **half,
    )
    for n in (8, TOKENS)
  ]
  cells += [
    Cell(
      "deeper",
      f"{TOKENS} tokens before the last block, then as many blocks as cost "
      "the same as the baseline",
      placement=5 / 6,  # The paper's, of B/16.
      deeper=True,
    )
  ]
  return cells


CELLS = {cell.name: cell for cell in _all()}
