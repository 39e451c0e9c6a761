"""A few images and their captions, and a config that learns from them."""

import csv

from PIL import Image

from tests import conftest

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
LABELS = [f"a {colour} field" for colour in COLOURS]


def write_pairs(folder):
  """Writes a table of twelve images, with one or two captions each."""
  rows = [("file", "caption")]
  for i in range(12):
    colour = list(COLOURS)[i % 3]
    name = f"{i}.png"
    Image.new("RGB", (12, 12), COLOURS[colour]).save(folder / name)
    rows.append((name, f"A {colour} field."))
    rows += [(name, f"a field, all {colour}")] * (i % 2)
  with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
  return folder


def make_config(pairs):
  """A config of two tiny towers."""
  config = conftest.make_config()
  config.batch_size, config.total_steps = 8, 2
  image, last = "decode", "value_range(-1,1)|keep('image'"
  name = f"captions:{pairs}"
  config.data = dict(
    name=name,
    split="all",
    pp=f"{image}|choice|tokenize(6)|{last},'tokens')",
  )
  text = dict(width=16, depth=1, mlp_dim=16, num_heads=2)
  config.model.update(depth=1, text=text, num_classes=8)
  config.model.token_learner = None
  config.flexi = dict(patch_size=dict(values=(6,)))
  config.task = dict(name="contrastive")
  config.evals = dict(
    retrieval=dict(
      type="retrieval",
      data=dict(
        name=name,
        split="all",
        pp=f"{image}|tokenize_all(6,'words',2)|{last},'texts','text_mask')",
      ),
      patch_sizes=(6, 4),
    ),
    names=dict(
      type="zeroshot",
      data=dict(
        name="fake:12x12x3:3:8",
        split="train",
        pp=f"decode|{last},'label')",
      ),
      class_names=tuple(COLOURS),
      templates=("a {} field", "a field, all {}"),
      patch_sizes=(6, 4),
    ),
  )
  return config
