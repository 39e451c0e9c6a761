"""Fixed ViTs at patch sizes that they were not trained for.

Without further training the kernel is resized, by each of the four methods of
the paper's Figure 4; the position embedding in the forward pass, as ever.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments import recipe
from experiments.flexivit_curves import config, scales
from tokenlearner_flexivit import dials, evaluators, models, tasks
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.models import patch_embed
from tokenlearner_flexivit.run import checkpoint


@dataclasses.dataclass(frozen=True)
class Trial:
  """A model at another size.

  Attributes:
    trained: the patch size of its training.
    size: the patch size to try.
    scaled: whether images grow or shrink with the patches, so that there are
      as many tokens and a patch shows what it showed in training. Else the
      images stay, and the grid is another.
  """

  trained: int
  size: int
  scaled: bool


def trials(scale: scales.Scale) -> list[Trial]:
  """Returns what is tried: (a) then (e)."""
  sizes = scale.sizes
  tried = sorted({*sizes, *scale.outside}, reverse=True)
  return [
    Trial(trained, size, scaled=False)
    for trained in (sizes[0], scale.middle, sizes[-1])
    for size in sizes
  ] + [Trial(sizes[-1], size, scaled=True) for size in tried]


def evaluate(
  trial: Trial, scale: scales.Scale, runs: list[pathlib.Path]
) -> list[dict[str, Any]]:
  """Evaluates trained models at another size, by each method.

  Args:
    trial: what to try.
    scale: of the study.
    runs: the folders of the model's training, one for each seed.

  Returns:
    Rows of the trial, `method`, and `accuracies` of the runs.
  """
  data = config.test_data(scale)
  if trial.scaled:
    side = scale.side // trial.trained * trial.size
    # Interpolated as PI-resize takes it to be.
    data["pp"] = data["pp"].replace("|keep", f"|resize({side})|keep")
  params = [checkpoint.read_params(run) for run in runs]
  task = _create_task(params[0], scale, trial)
  settings = [dials.Setting((trial.size, trial.size))]
  context = evaluators.Context(task, settings, scale.batch_size)
  evaluator = classification.Evaluator(context, data)
  rows = []
  for method in patch_embed.METHODS:
    accuracies = [
      dict(
        evaluator.run(context.parallel.place(_resized(p, trial.size, method)))
      )
      for p in params
    ]
    rows.append(
      {
        **dataclasses.asdict(trial),
        "method": method,
        "accuracies": [a[f"patch{trial.size}/accuracy"] for a in accuracies],
      }
    )
  return rows


def _create_task(params: Any, scale: scales.Scale, trial: Trial) -> tasks.Task:
  """Returns the classification whose model stores kernels of the new size."""
  grid = scale.side // trial.trained
  num_classes = params["head"]["bias"].size
  model = models.ViT(
    **recipe.model_section(scale, trial.size, grid), num_classes=num_classes
  )
  return tasks.create(
    {"name": "classification"}, model=model, num_classes=num_classes
  )


def _resized(params: Any, size: int, method: str) -> Any:
  kernel = patch_embed.resize_kernel(
    params["embedding"]["kernel"], (size, size), method
  )
  embedding = {**params["embedding"], "kernel": np.asarray(kernel)}
  return {**params, "embedding": embedding}
