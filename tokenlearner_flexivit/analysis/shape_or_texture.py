r"""The reliance of a model on shape or on texture, at each patch size.

FlexiViT (arXiv 2212.08013, Figure 25) shows images whose shape and texture are
of different classes and asks which one the answer is. The images of
rendered_scenes have both labels, drawn independently, but a model learns the
classes of one alone and cannot answer with the other. So two things are
measured, each the same for both labels, and neither decided by the number of
their classes:

* What the **answer** follows: the share of a label's entropy that the predicted
  class tells, I(answer; label) / H(label), in [0, 1]. As the labels are
  independent, an answer by texture alone has no information about the shape,
  whatever its classes are called. On few examples the estimate is too large, so
  its mean for labels in random order is taken as zero.
* What the **representation** holds, whether the answer uses it or not: accuracy
  of a linear map (ridge regression on frozen features, fitted on training
  images) from chance, always answering the most frequent class, to perfection,
  (accuracy - chance) / (1 - chance).

  python -m tokenlearner_flexivit.analysis.shape_or_texture \
    --workdir=WORKDIR --output=shape_or_texture.png [--labels=shape,texture]

For a run on any dataset whose examples have two such labels.

Letters: N examples, B batch, K settings, D features, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import arguments, dials, terminal
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.analysis import command, outputs
from tokenlearner_flexivit.data import shared_examples
from tokenlearner_flexivit.evaluators import ridge
from tokenlearner_flexivit.figures import drawing
from tokenlearner_flexivit.inference import runs

# Penalties to try, as powers of two; a quarter of the training examples
# decides.
_LOG2_L2 = np.arange(-4, 18, 2)
_SHUFFLES = 20
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MARKERS = "osD^"


def information(answers: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of the labels' entropy that the answers explain.

  Args:
    answers: int [N].
    labels: int [N], of two classes or more.

  Returns:
    At most 1, on average 0 for answers that tell nothing, which on few examples
    may come out below 0.

  Raises:
    ValueError: all labels are the same.
  """
  labels = np.unique(labels, return_inverse=True)[1]
  answers = np.unique(answers, return_inverse=True)[1]
  entropy = _entropy(np.bincount(labels))
  if not entropy:
    raise ValueError(
      "All examples have the same label: there is nothing to tell."
    )
  rng = np.random.default_rng(0)
  by_chance = np.mean(
    [_mutual(answers, rng.permutation(labels)) for _ in range(_SHUFFLES)]
  )
  mutual = _mutual(answers, labels)
  return float((mutual - by_chance) / (entropy - by_chance))


def _entropy(counts: np.ndarray) -> float:
  shares = counts[counts > 0] / counts.sum()
  return float(-(shares * np.log(shares)).sum())


def _mutual(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the mutual information of int [N] and [N] in nats."""
  both = np.zeros((a.max() + 1, b.max() + 1))
  np.add.at(both, (a, b), 1)
  sums = both.sum(axis=1), both.sum(axis=0)
  return sum(map(_entropy, sums)) - _entropy(both.ravel())


def probe(
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  name: str = "labels",
) -> dict[str, float]:
  """Returns the accuracy of a linear map from features to labels.

  Args:
    train: features [N, D] and labels, whole numbers [N] of any size or dtype;
      a random quarter chooses the penalty, then all are fitted.
    test: features [N, D] and labels to measure the accuracy on.
    name: of the labels, for errors.

  Returns:
    `accuracy`, `chance`, the share of the most frequent class of `test`, and
    `above_chance`, from 0 (chance) to 1 (perfect).

  Raises:
    ValueError: fewer than 8 training examples, a single class, labels that are
      no whole numbers, or more classes than half of the training examples.
  """
  (x, y), (test_x, test_y) = train, test
  y, test_y = _classes(y, test_y, name)
  if len(x) < 8 or len(np.unique(y)) < 2 or len(np.unique(test_y)) < 2:
    raise ValueError(
      f"{name}: {len(x)} training examples of {len(np.unique(y))} classes and "
      f"{len(test_y)} others of {len(np.unique(test_y))}: give 8 or more to "
      "train with, and two classes or more in each."
    )
  num_classes = 1 + max(y.max(), test_y.max())
  if num_classes > len(x) // 2:
    raise ValueError(
      f"{name} has {num_classes} different values, {len(x)} training examples "
      f"allow {len(x) // 2} classes: two examples or more of each, on average. "
      "Give a label with fewer, or more training examples."
    )
  # A folder lists its examples class by class: the last quarter would have
  # classes that the others lack.
  order = np.random.default_rng(0).permutation(len(x))
  x, y = x[order], y[order]
  targets = 2 * np.eye(num_classes)[y] - 1
  kept = 3 * len(x) // 4
  l2 = np.exp2(_LOG2_L2).astype(np.float32)
  held_out = _accuracies(x[:kept], targets[:kept], x[kept:], y[kept:], l2)
  best = l2[[np.argmax(held_out)]]
  accuracy = float(_accuracies(x, targets, test_x, test_y, best)[0])
  chance = float(np.bincount(test_y).max() / len(test_y))
  return {
    "accuracy": accuracy,
    "chance": chance,
    "above_chance": (accuracy - chance) / (1 - chance),
  }


def _classes(
  train: np.ndarray, test: np.ndarray, name: str
) -> list[np.ndarray]:
  """Returns labels as classes 0, 1, ... that mean the same in both.

  Raises:
    ValueError: labels that are no whole numbers.
  """
  both = np.concatenate([train, test])
  whole = both.dtype.kind in "biu"
  if both.dtype.kind == "f":
    whole = bool((both == np.floor(both)).all() and np.isfinite(both).all())
  if not whole or both.ndim != 1:
    shown = ", ".join(map(str, both[:3]))
    raise ValueError(
      f"{name} has {both.dtype} values such as {shown}, which are no classes. "
      "Give one whole number for each example: a feature that is a class, or a "
      "count of few values."
    )
  ids = np.unique(both, return_inverse=True)[1]
  return np.split(ids, [len(train)])


def _accuracies(x, targets, test_x, test_y, l2):
  solution = jax.tree.map(jnp.float32, ridge.solve(x, targets))
  answers = ridge.classify(solution, jnp.float32(test_x), jnp.float32(l2))
  return (np.asarray(answers) == test_y[None]).mean(axis=1)


def represent(
  model: Any,
  params: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  settings: Sequence[dials.Setting],
  name: str = "pre_logits",
) -> tuple[dict[dials.Setting, dict[str, np.ndarray]], dict[str, np.ndarray]]:
  """Runs a model at every setting.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    batches: with `image` [B, H, W, C] and labels [B].
    settings: of the dials.
    name: of the entry of `out` that is the representation; tokens of it are
      averaged.

  Returns:
    By setting `features` [N, D] and, for a classifier, `answers` int [N]; and
    the labels [N] by name.

  Raises:
    ValueError: an unknown name (the error lists the known ones), or no
      examples.
  """
  results, labels = {setting: [] for setting in settings}, []
  for batch, by_setting in outputs.outputs(
    model, params, batches, settings, (name, outputs.ANSWER)
  ):
    labels.append({k: v for k, v in batch.items() if k != "image"})
    for setting, output in by_setting.items():
      x = output[name]
      result = {"features": x.mean(axis=range(1, x.ndim - 1))}
      if outputs.classifies(model):
        result["answers"] = output[outputs.ANSWER].argmax(axis=-1)
      results[setting].append(jax.device_get(result))
  if not labels:
    raise ValueError("No examples.")
  return {s: _join(x) for s, x in results.items()}, _join(labels)


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def compare(
  model: Any,
  params: Any,
  train: Iterable[Mapping[str, np.ndarray]],
  test: Iterable[Mapping[str, np.ndarray]],
  settings: Sequence[dials.Setting],
  labels: Sequence[str],
  name: str = "pre_logits",
) -> list[dict[str, Any]]:
  """Measures the information about labels in answers and representations.

  Args:
    model: a `models.ViT`; unless it classifies, it has no answers.
    params: its parameters.
    train: batches for the linear map, with `image` and the labels.
    test: batches for all measurements.
    settings: of the dials.
    labels: names of labels, independent of one another. An example with a
      negative label is left out of the measurements of that label.
    name: as in `represent`.

  Returns:
    For each setting `name` and `labels`, by name `answer` (by `information`;
    None without classes) and the result of `probe`.

  Raises:
    ValueError: an error of `represent`, `information` or `probe`.
  """
  train_x, train_y = represent(model, params, train, settings, name)
  test_x, test_y = represent(model, params, test, settings, name)
  rows = []
  for setting in settings:
    fitted, tested = train_x[setting], test_x[setting]
    row = {}
    for label in labels:
      fit, test = train_y[label] >= 0, test_y[label] >= 0
      probed = probe(
        (fitted["features"][fit], train_y[label][fit]),
        (tested["features"][test], test_y[label][test]),
        label,
      )
      answer = None
      if "answers" in tested:
        answer = information(tested["answers"][test], test_y[label][test])
      row[label] = {"answer": answer, **probed}
    rows.append({"name": setting.name, "labels": row})
  return rows


def figure(rows: Sequence[Mapping[str, Any]]) -> drawing.Figure:
  """Draws both measures by setting, a line for each label.

  Args:
    rows: from `compare`.
  """
  drawn = drawing.Figure(figsize=(9, 3.8), layout="constrained")
  panels = (
    ("answer", "what the answer follows", "% of the label's entropy"),
    (
      "above_chance",
      "what the representation holds",
      "linear probe: % of the way\nfrom chance to perfect",
    ),
  )
  axes = drawn.subplots(1, 2)
  x = range(len(rows))
  for axis, (key, title, unit) in zip(axes, panels, strict=True):
    for i, label in enumerate(rows[0]["labels"]):
      values = [row["labels"][label][key] for row in rows]
      if None not in values:
        axis.plot(
          x,
          [100 * value for value in values],
          f"{_MARKERS[i % len(_MARKERS)]}-",
          color=_COLORS[i % len(_COLORS)],
          label=label,
        )
    axis.set_xticks(x, [row["name"] for row in rows])
    axis.set_xlabel("setting")
    axis.set_ylabel(unit)
    axis.set_title(title)
    axis.set_ylim(-5, 105)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_lines():
      axis.legend(frameon=False)
    else:
      axis.text(0.5, 0.5, "no classes", ha="center", transform=axis.transAxes)
  return drawn


def _trained_split(opened: command.Opened) -> str:
  """Returns the split of the data that the model was trained on, or "train"."""
  training = opened.config.get("data") or {}
  is_same = training.get("name") == opened.data["name"]
  return (is_same and training.get("split")) or "train"


def _check_apart(data: Mapping[str, Any], train_split: str) -> None:
  """Raises ValueError if linear maps would be tested on what they learned."""
  parts = [
    data_lib.open_source({**data, "split": split}).parts
    for split in (train_split, data["split"])
  ]
  if shared_examples.overlap(
    train_split, data["split"]
  ) or shared_examples.shared(*parts):
    raise ValueError(
      f"--train_split={train_split!r} and the test split {data['split']!r} "
      f"share examples of {data['name']}: linear maps would be tested on what "
      "they learned. Give two that share none, such as "
      "--train_split=train[:80%] and --split=train[80%:]."
    )


def main(argv: list[str] | None = None) -> None:
  """Compares labels for a run; bad input gives an error of one line."""
  parser = command.parser(
    "shape_or_texture", "Tells which label answers and representations follow."
  )
  add = parser.add_argument
  command.add_num_tokens(add)
  command.add_split(add, 2000)
  add(
    "--labels",
    type=arguments.names,
    default=["shape", "texture"],
    help="numbers of each example, by default shape,texture",
  )
  add(
    "--train_split",
    help="for the linear maps; by default that of the run's training, or train",
  )
  add("--num_train", type=int, default=2000, help="of that, by default 2000")
  add("--name", default="pre_logits", help="entry of the model's out")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    train_split = args.train_split or _trained_split(opened)
    _check_apart(opened.data, train_split)

    def batches(split, number):
      data = {**opened.data, "split": split}
      for batch in runs.read_batches(data, number, 100, args.labels):
        opened.check(batch["image"])
        yield batch
      terminal.say(f"The images of {split!r} are done.")

    rows = compare(
      opened.model,
      opened.params,
      batches(train_split, args.num_train),
      batches(opened.data["split"], args.num_images),
      opened.settings,
      args.labels,
      args.name,
    )
    drawing.save(figure(rows), args.output, dpi=150)
    numbers = command.write_numbers(args.output, rows)
  print(f"{terminal.counted(len(rows), 'setting')}: {args.output}, {numbers}")


if __name__ == "__main__":
  main()
