"""Prompts: sentences about the name of a class, and their embeddings.

Follows big_vision's `evaluators/proj/image_text/prompt_engineering.py` and
CLIP's notebook of prompts.
"""

import re
import string
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tokenlearner_flexivit import config as configuration

# The seven of CLIP's eighty sentences that serve ImageNet best.
CLIP_BEST = (
  "itap of a {}.",
  "a bad photo of the {}.",
  "a origami {}.",
  "a photo of the large {}.",
  "a {} in a video game.",
  "art of the {}.",
  "a photo of the small {}.",
)
NAMED = {"clip_best": CLIP_BEST, "name": ("{}",), "photo": ("a photo of a {}",)}


def canonical(text: str, keep: str = "") -> str:
  """Returns a text in lower case without punctuation.

  Underscores become spaces, and runs of spaces one.

  Args:
    text: a class name or a template.
    keep: punctuation that stays, such as "{}" of templates.
  """
  remove = str.maketrans("", "", string.punctuation)
  text = text.replace("_", " ")
  parts = text.split(keep) if keep else [text]
  text = keep.join(part.translate(remove) for part in parts)
  return re.sub(r"\s+", " ", text.lower()).strip()


def read_templates(value: str | Sequence[str], where: str) -> tuple[str, ...]:
  """Returns templates, each with one {} for the name of a class.

  Args:
    value: a name of `NAMED`, or templates.
    where: name of the key for errors.

  Raises:
    ValueError: an unknown name, no templates, or one without {}.
  """
  if isinstance(value, str) and "{}" not in value:
    return configuration.choose(value, NAMED, where)
  value = (value,) if isinstance(value, str) else value
  configuration.check_list(value, where)
  templates = tuple(value)
  for template in templates or (None,):
    if not isinstance(template, str) or template.count("{}") != 1:
      raise ValueError(
        f"{where}={value!r}: a template is a text with one {{}} for the name "
        f"of a class, such as 'a photo of a {{}}'; or one of {', '.join(NAMED)}"
        " for all."
      )
  return templates


def check_different(
  class_names: Sequence[str], where: str, *, plain: bool
) -> None:
  """Raises ValueError for names of classes that make the same prompts.

  Args:
    class_names: of the classes.
    where: name of the key for errors.
    plain: whether names lose punctuation and capitals, as in `fill`.
  """
  first = {}
  for number, name in enumerate(class_names):
    text = canonical(name, ",") if plain else name
    other = class_names[first.setdefault(text, number)]
    if first[text] != number:
      hint = " canonicalize=False keeps capitals and punctuation."
      raise ValueError(
        f"{where}: the texts of the classes {other!r} and {name!r} are the "
        "same, so nothing tells them apart. Give names that differ."
        f"{hint if other != name else ''}"
      )


def fill(
  class_names: Sequence[str], templates: Sequence[str], *, plain: bool
) -> list[str]:
  """Returns the prompts of all classes, those of a class one after another.

  Args:
    class_names: of the classes.
    templates: with one {} each.
    plain: whether names and templates lose punctuation and capitals; commas of
      names stay.
  """
  if plain:
    class_names = [canonical(name, ",") for name in class_names]
    templates = [canonical(template, "{}") for template in templates]
  return [t.replace("{}", name) for name in class_names for t in templates]


def class_embeddings(
  embedded: Float[np.ndarray, "M E"], classes: Int[np.ndarray, " M"]
) -> Float[np.ndarray, "C E"]:
  """Returns the mean embedding of each class, of length 1.

  Args:
    embedded: embeddings of prompts, of length 1.
    classes: the number of each prompt's class, from 0 on, without gaps.
  """
  sums = np.zeros((classes.max() + 1, embedded.shape[1]), np.float32)
  np.add.at(sums, classes, embedded)
  means = sums / np.bincount(classes)[:, None]
  return means / (1e-8 + np.linalg.norm(means, axis=1, keepdims=True))
