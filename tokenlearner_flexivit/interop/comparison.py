"""Compares a model with what is known of a file's own model."""

from typing import Any

from tokenlearner_flexivit import models
from tokenlearner_flexivit.interop import about as about_lib
from tokenlearner_flexivit.interop import formats, model_arguments


def guesses(known) -> list[str]:
  """Returns in words what nothing tells of a file's model, and most have."""
  if not known.guessed:
    return []
  values = " and ".join(f"{k}={v!r}" for k, v in known.guessed.items())
  return [
    f"{values}: no config.json beside the file tells these, which are usual:"
    " its library computes GELU with erf, unless a model says otherwise"
  ]


def warnings(known, model, leaves, format, path) -> list[str]:
  """Returns reasons why the answers may differ from those of the file's model.

  Args:
    known: an `about.About` of the file.
    model: that its weights are for.
    leaves: its arrays, by their names.
    format: of these names.
    path: of the file, for errors.

  Raises:
    ValueError: the file's model is known to have other heads.
  """
  reasons = [*known.differences, *known.unknown, *guesses(known)]
  heads = getattr(model, "num_heads", None)
  if known.num_heads not in (None, heads):
    raise ValueError(
      f"{path} has num_heads={known.num_heads}, as {known.where} says, but the"
      f" model has {heads}. Build the model with num_heads={known.num_heads}."
    )
  reasons += _told_differences(known, model, path)
  width = getattr(model, "width", None)
  published = model_arguments.PUBLISHED_HEADS.get(width)
  untold = known.num_heads is None and format in formats.TORCH
  if untold and published not in (None, heads):
    reasons.append(
      f"num_heads={heads} is the model's, and the file does not tell it;"
      f" published models of a width of {width} have {published}"
    )
  if format == "scenic":
    learns = any("TokenLearner" in name for name in leaves)
    fuses = any("TokenFuser" in name for name in leaves)
    settings = "pool" + (", token_learner.layer" if learns > fuses else "")
    reasons.append(
      f"{settings} and the like are your model's: Scenic's files do not tell"
      " the classifier nor where TokenLearner is"
    )
  if known.model:
    reasons += [
      _difference(name, ours, theirs, known.where)
      for name, ours, theirs in _changes(
        known.model, about_lib.arguments(model) or {}
      )
    ]
  return reasons


def _told_differences(known, model, path) -> list[str]:
  """Returns what differs of the arguments that a library's config tells.

  Raises:
    ValueError: the heads of the text tower do.
  """
  text = getattr(model, "text", None)
  reads_patches = isinstance(model, models.Segmenter | models.OwlViT)
  # A model for images lacks what the heads for boxes have.
  told = [
    (name, getattr(model, name), x)
    for name, x in known.computes.items()
    if hasattr(model, name) and not (name == "pool" and reads_patches)
  ]
  if text and known.text:
    if text["num_heads"] != known.text.get("num_heads", text["num_heads"]):
      raise ValueError(
        f"{path} has text.num_heads={known.text['num_heads']}, as {known.where}"
        f" says, but the model has {text['num_heads']}."
      )
    told += [(f"text.{k}", text[k], x) for k, x in known.text.items()]
  return [
    _difference(name, ours, theirs, known.where)
    for name, ours, theirs in told
    if ours != theirs
  ]


def _difference(name, ours, theirs, where) -> str:
  return (
    f"{name}={ours!r} of the model is {theirs!r} in {where}: answers are others"
  )


def _changes(theirs, ours) -> list[tuple[str, Any, Any]]:
  """Returns name, ours and theirs of arguments that only a config shows."""
  if not ours:
    return []
  names = ["pool"]
  if ours.get("text") and theirs.get("text"):
    ours, theirs = (
      {**section, **{f"text.{k}": x for k, x in section["text"].items()}}
      for section in (ours, theirs)
    )
    names += ["text.pool", "text.end_id", "text.causal"]
  names += ["size_bias", "box_gelu", "merge_eps"]  # Of boxes.
  names += ["quantizer", "levels", "code_grid", "coder"]  # Of codes.
  if ours["posemb"] == theirs["posemb"] == "sincos2d":
    names.append("posemb_grid")
  if ours.get("token_learner") and theirs.get("token_learner"):
    names.append("token_learner")
  return [
    (name, ours[name], theirs[name])
    for name in names
    if name in ours and name in theirs and ours[name] != theirs[name]
  ]
