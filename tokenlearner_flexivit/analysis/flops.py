r"""Prints parameters and operations of a model, for one image or clip.

  python -m tokenlearner_flexivit.analysis.flops --variant=B/16 \
    --image_size=384 --token_learner_layer=6 --num_tokens=8
  python -m tokenlearner_flexivit.analysis.flops --variant=L/16x2 \
    --num_frames=32 --token_learner_layer=12 --num_tokens=16

`models.cost` says what is counted.
"""

import argparse
import sys

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost


def main(argv: list[str] | None = None) -> None:
  """Prints the cost of a model; bad input gives an error of one line."""
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.analysis.flops",
    description="Parameters of a model, and operations for one image or clip.",
  )
  add = parser.add_argument
  add("--variant", required=True, help='as in "B/16", or "B" for FlexiViT')
  add("--image_size", type=int, default=224, help="in pixels")
  add("--num_frames", type=int, help="of a clip, for a model for videos")
  add("--patch_size", type=int, help="in pixels, if not the variant's")
  add("--depth", type=int, help="number of blocks, if not the variant's")
  add("--token_learner_layer", type=int, help="first block of learned tokens")
  add("--num_tokens", type=int, help="how many are learned")
  add("--fuser", action="store_true", help="TokenFuser after each of them")
  add("--num_classes", type=int, default=1000, help="0 for no head")
  add("--pool", default="gap", help="gap, tok or map")
  args = parser.parse_args(argv)
  learned = (args.token_learner_layer, args.num_tokens)
  if None in learned and (learned != (None, None) or args.fuser):
    parser.error("TokenLearner needs --token_learner_layer and --num_tokens.")
  for name, least in (("depth", 1), ("num_classes", 0), ("num_frames", 1)):
    value = getattr(args, name)
    if value is not None and value < least:
      parser.error(f"--{name} must be at least {least}, got {value}.")
  try:
    print(_describe(args))
  except ValueError as error:
    sys.exit(f"Error: {error}")


def _describe(args: argparse.Namespace) -> str:
  options = dict(num_classes=args.num_classes or None, pool=args.pool)
  if args.depth is not None:
    options["depth"] = args.depth
  cls = models.ViViT if args.num_frames else models.ViT
  model = plain = cls.from_variant(args.variant, **options)
  if args.num_tokens is not None:
    model = plain.clone(
      token_learner=dict(
        layer=args.token_learner_layer,
        num_tokens=args.num_tokens,
        fuser=args.fuser,
      )
    )
  size = (args.image_size, args.image_size)
  if args.num_frames:
    size = (args.num_frames, *size)
  call = ((*size, 3), args.patch_size)
  lens = model.seq_lens(size, args.patch_size)
  tokens = [f"{n} in {lens.count(n)} blocks" for n in dict.fromkeys(lens)]
  count = cost.operations(model, *call)
  gmacs = f"{cost.macs(model, *call) / 1e9:.4g} G"
  if model is not plain:
    gmacs += f", without TokenLearner {cost.macs(plain, *call) / 1e9:.4g} G"
  parts = [f"{name} {n / 1e9:.3g} G" for name, n in count.items()]
  return "\n".join(
    [
      f"parameters     {cost.num_params(model):,}",
      f"tokens         {', then '.join(tokens)}",
      f"multiply-adds  {gmacs}",
      f"operations     {sum(count.values()) / 1e9:.4g} G: {', '.join(parts)}",
    ]
  )


if __name__ == "__main__":
  main()
