"""Descriptions of a trained model, as JSON values and in words."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.tasks import answers, classification

# Arguments of ops that say nothing of the image itself.
_OF_TRUTH = frozenset(("masks", "masks_exif", "ignore", "boxes", "min_visible"))


def about_input_and_output(trained: trained_lib.Trained) -> dict[str, Any]:
  """Returns input, preprocessing and output of the model, as JSON values."""
  output = {
    "values": trained.task.answer_text or "answer",
    "task": trained.task_section["name"],
  }
  if trained.classifies:
    output = {
      "shape": ["batch", trained.model_section["num_classes"]],
      "dtype": "float32",
      "values": "logits",
      "probabilities": link_name(trained),
      "loss": trained.loss,
    }
  return {
    "input": {
      "shape": ["batch", *trained.preparation().shape],
      "axes": input_axes(trained),
      "dtype": "float32",
      # The rate and size of the frames that the preprocessing begins with.
      **(trained.video or {}),
      **({"stride_of_windows": trained.stride} if trained.stride else {}),
      "preprocessing": trained.pp,
      "preprocessing_steps": steps_in_words(trained),
    },
    "output": output,
    "labels": trained.class_names,
  }


def about_setting(
  trained: trained_lib.Trained, setting: dials.Setting
) -> dict[str, Any]:
  """Returns a setting with its cost and recorded metrics, as JSON values.

  Raises:
    ValueError: the setting does not fit the images or the model.
  """
  size = trained.image_shape[:-1]
  trained.model.check(size, **setting)
  about = {
    **{name: setting.get(name) for name in dials.KINDS},
    "trained": setting in trained.settings,
    "evaluated": trained.row(setting) is not None,
    "seq_len": trained.model.seq_len(size, **setting),
    "multiply_adds": trained.model.cost(trained.image_shape, **setting),
    **trained.metrics(setting),
  }
  if not trained.classifies:
    about["answer"] = about_answer(trained, setting)
  return about


def about_answer(
  trained: trained_lib.Trained, setting: dials.Setting
) -> dict[str, Any]:
  """Returns the shape and dtype of each array of an answer, by name."""
  inputs = jax.ShapeDtypeStruct((1, *trained.preparation().shape), jnp.float32)
  arrays = jax.eval_shape(answering(trained, setting), trained.params, inputs)
  return {
    name: {"shape": ["batch", *array.shape[1:]], "dtype": str(array.dtype)}
    for name, array in arrays.items()
  }


def answer_in_words(about: Mapping[str, Any]) -> str:
  """Returns the arrays of `about_answer` as words."""
  arrays = [
    f"`{name}` {array['dtype']} [{', '.join(map(str, array['shape']))}]"
    for name, array in about.items()
  ]
  return ", ".join(arrays)


def noun(trained: trained_lib.Trained) -> str:
  """Returns a name for the kind of model, such as "classifier"."""
  if trained.classifies:
    return "classifier"
  name = trained.task_section["name"].replace("_", " ")
  return f"model for {trained.task.purpose or name}"


def link_name(trained: trained_lib.Trained) -> str:
  """Returns the name in `jax.nn` of the link from logits to probabilities."""
  return classification.LINKS[trained.loss].__name__


def input_axes(trained: trained_lib.Trained) -> list[str]:
  """Returns the names of the axes of the input."""
  axes = ["height", "width", "channels"]
  if trained.kind == "video":
    axes.insert(0, "frames")
  if len(trained.preparation().shape) > len(axes):
    axes.insert(0, "views")
  return ["batch", *axes]


def input_in_words(trained: trained_lib.Trained) -> str:
  """Describes frames that come before preprocessing, and windows after it."""
  if trained.stride is not None:
    height, width, _ = trained.image_shape
    down, across = trained.stride
    return (
      f" The model then sees windows of {height} x {width} pixels, {down} down "
      f"and {across} across from one to the next, the last ones at the border. "
      "Answers are averaged where windows overlap."
    )
  if trained.kind == "image":
    return ""
  return (
    " The steps begin with the frames that a file shows "
    f"{trained.video['fps']:g} times a second, reduced to a smaller side of "
    f"{trained.video['size']} pixels if it is larger."
  )


def preprocessing_table(trained: trained_lib.Trained) -> str:
  """Returns the steps of the preprocessing as a Markdown table."""
  rows = [
    {
      "step": f"`{step['op']}`",
      "what it does": step["does"],
      "with": ", ".join(f"{k} {v}" for k, v in step["arguments"].items()),
    }
    for step in steps_in_words(trained)
  ]
  if rows:
    return table.markdown(rows)
  return f"{trained.kind.capitalize()}s are taken as they are."


def answering(
  trained: trained_lib.Trained, setting: dials.Setting
) -> Callable[[Any, jax.Array], Any]:
  """Returns a function from parameters and inputs to logits or arrays."""

  def answer(params, inputs):
    batch = {trained.kind: inputs}
    answer = trained.task.predict(params, batch, setting)
    return answer if trained.classifies else answers.leaves(answer)

  return answer


def steps_in_words(trained: trained_lib.Trained) -> list[dict[str, Any]]:
  """Returns the ops on the input in words, which are their docstrings'."""
  steps = []
  for step in data_lib.parse(trained.pp).steps:
    signature = inspect.signature(step.op)
    # The op's first arguments: the example and, if it is random, the rng.
    first = (None, None) if step.is_random else (None,)
    bound = signature.bind(*first, *step.args, **step.kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[len(first) :])
    # Ops on labels, or only on names, mean nothing to users.
    if arguments.pop("key", None) == trained.kind:
      for name in _OF_TRUTH & arguments.keys():
        del arguments[name]
      does = inspect.getdoc(step.op).splitlines()[0]
      steps.append({"op": step.text, "does": does, "arguments": arguments})
  return steps
