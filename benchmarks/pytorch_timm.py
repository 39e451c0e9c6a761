"""timm's FlexiViT in PyTorch, to compare with.

PyTorch stays out of the project, so this program runs in an environment of
its own. benchmarks/pytorch.py starts it by turns with our model.

  python -m venv /tmp/torch
  /tmp/torch/bin/pip install torch timm
  /tmp/torch/bin/python benchmarks/pytorch_timm.py --patch_size=16

It prints one line of JSON: the seconds of each round.
"""

import argparse
import json
import time


def main():
  """Times the forward pass and the training step of one patch size."""
  import timm
  import torch

  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--model", default="flexivit_small")
  parser.add_argument("--patch_size", type=int, required=True)
  parser.add_argument("--image_size", type=int, default=240)
  parser.add_argument("--batch_size", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  model = timm.create_model(
    args.model, img_size=args.image_size, patch_size=args.patch_size
  )
  shape = (args.batch_size, 3, args.image_size, args.image_size)
  images = torch.randn(shape)
  labels = torch.zeros(args.batch_size, dtype=torch.long)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

  def forward():
    model.eval()
    with torch.inference_mode():
      model(images)

  def train():
    model.train()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()

  seconds = {}
  for program in (forward, train):
    program()
    times = seconds[program.__name__] = []
    for _ in range(args.rounds):
      start = time.perf_counter()
      program()
      times.append(time.perf_counter() - start)
  print(json.dumps(seconds))


if __name__ == "__main__":
  main()
