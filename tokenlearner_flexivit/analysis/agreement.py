r"""The agreement of one model's settings, and the accuracy of their ensembles.

For a run and a split of its data: accuracy of each setting; how often two give
the same answer; ensembles of settings (mean probabilities) against the best
single setting that costs no more (FlexiViT, arXiv 2212.08013, finds that they
are almost always worse); and the examples that only fine settings get right,
by an attribute of the examples:

  python -m tokenlearner_flexivit.analysis.agreement --workdir=WORKDIR \
    --output=agreement.png [--attribute=scale]

`only fine` are the examples that every setting of the dearer half gets right
and none of the cheaper half; with an odd number, the middle setting belongs to
neither. The attribute is any number that the dataset has for each example, such
as `scale` of rendered_scenes, the size of the textures, 0 for the finest.

`evaluators.ensemble` computes the accuracies alone, within a training and on
many devices.

Letters: N examples, B batch, K settings, G ensembles, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import dials, tasks, terminal
from tokenlearner_flexivit.analysis import agreement_figure, command
from tokenlearner_flexivit.analysis import outputs as outputs_lib
from tokenlearner_flexivit.evaluators import ensemble, mixture
from tokenlearner_flexivit.figures import drawing
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.tasks import classification
from tokenlearner_flexivit.tasks import labels as labels_lib

_MAX_VALUES = 8


class Answers(NamedTuple):
  """The answers to a split.

  Attributes:
    settings: K, from the cheapest to the dearest.
    groups: G ensembles of these settings.
    macs: [K], multiply-adds of an image.
    single: int [N, K], the class that each setting answers; -1 for an answer
      that is not a number.
    together: int [N, G], the class that each ensemble answers.
    labels: int [N].
    attributes: [N] of each name.
  """

  settings: tuple[dials.Setting, ...]
  groups: tuple[ensemble.Group, ...]
  macs: np.ndarray
  single: np.ndarray
  together: np.ndarray
  labels: np.ndarray
  attributes: dict[str, np.ndarray]

  @property
  def right(self) -> np.ndarray:
    """Returns whether each setting's answer is right, bool [N, K]."""
    return self.single == self.labels[:, None]


def answer(
  model: Any,
  params: Any,
  batches: Iterable[Mapping[str, np.ndarray]],
  settings: Sequence[dials.Setting],
  link: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> Answers:
  """Returns the answers to every example at every setting, and of ensembles.

  Each batch goes once through every setting; only the classes of the answers
  are kept. Examples with a negative label, which means none, are left out.

  Args:
    model: a `models.ViT` with a head.
    params: its parameters.
    batches: with `image` [B, H, W, C], `label` [B] and attributes [B].
    settings: two or more patch sizes, with one number of learned tokens.
    link: from logits to probabilities.

  Returns:
    The answers, with the ensembles of every pair and of all settings.

  Raises:
    ValueError: too few settings, several numbers of learned tokens, a model
      that answers no classes, no examples with a label, or labels that are no
      classes of the model.
  """
  outputs_lib.check_classifies(
    model, "Agreement compares the classes that a classifier answers."
  )
  groups = ensemble.read_groups(None, settings, "settings")
  kept, macs = [], None
  batches = _labelled(batches, model.num_classes)
  for batch, outputs in outputs_lib.outputs(
    model, params, batches, settings, [outputs_lib.ANSWER]
  ):
    batch, known = dict(batch), batch["label"] >= 0
    shape = batch.pop("image").shape[1:]
    if macs is None:
      macs = {s: model.cost(shape, **s) for s in settings}
      settings = tuple(sorted(settings, key=macs.get))
      # Sorted in each group too, so its members are in the order of logits.
      groups = tuple(tuple(sorted(g, key=macs.get)) for g in groups)
      classes = _classes(settings, groups, link)
    logits = [outputs[setting][outputs_lib.ANSWER] for setting in settings]
    single, together = jax.device_get(classes(logits))
    batch |= {"single": single, "together": together}
    kept.append({key: value[known] for key, value in batch.items()})
  if not sum(len(batch["label"]) for batch in kept):
    raise ValueError("No examples that have a label, so no answer is right.")
  joined = {key: np.concatenate([b[key] for b in kept]) for key in kept[0]}
  return Answers(
    settings,
    groups,
    np.array([macs[s] for s in settings]),
    joined.pop("single"),
    joined.pop("together"),
    joined.pop("label"),
    joined,
  )


def _labelled(batches, num_classes):
  """Yields batches; raises ValueError for labels that are no classes."""
  for batch in batches:
    labels = batch.get("label")
    if labels is None or not labels_lib.are_numbers(labels):
      raise ValueError(
        "The examples have no label that is a class; the preprocessing has to "
        "leave one, as in keep('image','label')."
      )
    labels_lib.check(labels, num_classes, "The split", may_lack=True)
    yield batch


def _classes(settings, groups, link):
  """Returns a program from K logits [B, C] to classes [B, K] and [B, G]."""

  def best(logits):
    # NaN is no answer.
    return jnp.where(jnp.isnan(logits).any(-1), -1, logits.argmax(-1))

  @jax.jit
  def classes(logits):
    logits = jnp.stack(logits, axis=1)
    together = [
      mixture.mean_logits(logits, link, jnp.array([s in g for s in settings]))
      for g in groups
    ]
    return best(logits), best(jnp.stack(together, axis=1))

  return classes


def same_answers(answers: Answers) -> np.ndarray:
  """Returns the share of examples with the same answer, [K, K] in [0, 1]."""
  single = answers.single
  return (single[:, :, None] == single[:, None]).mean(axis=0)


def ensembles(answers: Answers) -> list[dict[str, Any]]:
  """Compares each ensemble with single settings that cost no more.

  Returns:
    For each its name, `accuracy`, `gmacs` of all members together, and of the
    single setting that is most accurate on these examples among those that
    cost no more `single`, `single_accuracy` and `single_gmacs`.
  """
  accuracies = answers.right.mean(axis=0)
  rows = []
  for group, classes in zip(answers.groups, answers.together.T, strict=True):
    macs = sum(answers.macs[answers.settings.index(s)] for s in group)
    best = max(
      np.flatnonzero(answers.macs <= macs), key=lambda i: accuracies[i]
    )
    rows.append(
      {
        "name": ensemble.group_name(group),
        "accuracy": float((classes == answers.labels).mean()),
        "gmacs": macs / 1e9,
        "single": answers.settings[best].name,
        "single_accuracy": float(accuracies[best]),
        "single_gmacs": answers.macs[best] / 1e9,
      }
    )
  return rows


def kinds(right: np.ndarray) -> dict[str, np.ndarray]:
  """Divides examples by the settings that get them right.

  Args:
    right: bool [N, K], settings from the cheapest to the dearest.

  Returns:
    bool [N] each; every example is in one: "all" settings, "none", "only fine"
    and "only coarse" (the dearer or the cheaper half), and "others".
  """
  half = right.shape[1] // 2
  coarse, fine = right[:, :half], right[:, -half:]
  divided = {
    "all": right.all(axis=1),
    "none": ~right.any(axis=1),
    "only fine": fine.all(axis=1) & ~coarse.any(axis=1),
    "only coarse": coarse.all(axis=1) & ~fine.any(axis=1),
  }
  # With an odd number the middle setting is ignored for the last two.
  return {**divided, "others": ~np.any(list(divided.values()), axis=0)}


def parts_by_value(values: np.ndarray) -> dict[str, np.ndarray]:
  """Divides examples by an attribute [N].

  Returns:
    bool [N] by name, every example in one: for each value, or if there are more
    than eight, for each quarter of the examples in the order of the values,
    named by its smallest and its largest one.

  Raises:
    ValueError: values that are not finite, which have no place in the order.
  """
  if not np.isfinite(values).all():
    raise ValueError(
      f"{(~np.isfinite(values)).sum()} of {len(values)} examples have no "
      "finite value of the attribute. Leave these examples or the attribute "
      "out."
    )
  distinct = np.unique(values)
  if len(distinct) <= _MAX_VALUES:
    names = _names(distinct, exactly=True)
    parts = [values == value for value in distinct]
    return dict(zip(names, parts, strict=True))
  edges = np.quantile(values, (0.25, 0.5, 0.75))
  quarter = np.searchsorted(edges, values, side="left")
  # With many equal values there may be fewer quarters.
  parts = [quarter == i for i in range(4) if (quarter == i).any()]
  ends = [(values[part].min(), values[part].max()) for part in parts]
  bounds = np.unique(ends)
  bound_names = dict(zip(bounds.tolist(), _names(bounds), strict=True))
  return {
    " to ".join(dict.fromkeys(bound_names[end.item()] for end in pair)): part
    for pair, part in zip(ends, parts, strict=True)
  }


def _names(distinct: np.ndarray, exactly: bool = False) -> list[str]:
  """Returns a different text for each of some distinct numbers.

  Args:
    distinct: [n].
    exactly: whether with all digits, or else with as few as distinguish them.
  """
  if distinct.dtype.kind == "f" and not exactly:
    for digits in range(3, 17):
      names = [f"{value:.{digits}g}" for value in distinct]
      if len(set(names)) == len(names):
        return names
  # NumPy's text of a number is the shortest that reproduces it.
  return [str(value).removesuffix(".0") for value in distinct]


def by_attribute(
  answers: Answers, name: str, value_names: Sequence[str] | None = None
) -> dict[str, Any]:
  """Relates an attribute to the examples that only fine settings get right.

  Args:
    answers: to a split.
    name: of the attribute.
    value_names: names of its values 0, 1, ..., if they are known.

  Returns:
    `names`: of the values among `parts` that have one; `parts`: for each value,
    or quarter of the values, the number of examples, the share of `only fine`
    ones and the accuracy of each setting; `kinds`: for each of `kinds` the
    number of examples, and the mean of the attribute with its standard error
    (None for less than two examples); `correlation` of the attribute with being
    an `only fine` example (Pearson's; None where either does not vary).
  """
  parts = parts_by_value(answers.attributes[name])
  values = answers.attributes[name].astype(np.float64)
  groups = kinds(answers.right)
  fine = groups["only fine"]
  vary = np.ptp(values) > 0 and 0 < fine.sum() < len(fine)
  return {
    "attribute": name,
    "names": {
      str(i): text
      for i, text in enumerate(value_names or ())
      if str(i) in parts
    },
    "correlation": float(np.corrcoef(values, fine)[0, 1]) if vary else None,
    "parts": {
      part: {
        "examples": int(members.sum()),
        "only_fine": float(fine[members].mean()),
        "accuracy": answers.right[members].mean(axis=0).tolist(),
      }
      for part, members in parts.items()
    },
    "kinds": {
      kind: {"examples": int(members.sum()), **_mean(values[members])}
      for kind, members in groups.items()
    },
  }


def _mean(values: np.ndarray) -> dict[str, float | None]:
  if len(values) < 2:
    return {"mean": None, "error": None}
  error = values.std(ddof=1) / len(values) ** 0.5
  return {"mean": float(values.mean()), "error": float(error)}


def summary(
  answers: Answers, value_names: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
  """Returns all results as JSON values.

  Args:
    answers: to a split.
    value_names: names of the values 0, 1, ... by attribute, from
      `runs.value_names`.
  """
  value_names = value_names or {}
  accuracies = answers.right.mean(axis=0)
  return {
    "examples": len(answers.labels),
    "settings": [
      {"name": s.name, "accuracy": float(a), "gmacs": float(m) / 1e9}
      for s, a, m in zip(
        answers.settings, accuracies, answers.macs, strict=True
      )
    ],
    "same_answer": same_answers(answers).tolist(),
    "ensembles": ensembles(answers),
    "kinds": {k: int(v.sum()) for k, v in kinds(answers.right).items()},
    "attributes": [
      by_attribute(answers, name, value_names.get(name))
      for name in answers.attributes
    ],
  }


def read_link(config: Mapping[str, Any]) -> Callable[[jax.Array], jax.Array]:
  """Returns the link from logits to probabilities for a run's config.

  Raises:
    ValueError: the run's task is no classification.
  """
  section = config["task"]
  if not issubclass(tasks.named(section), classification.Classification):
    raise ValueError(
      f"The run's task is {section['name']!r}, but agreement compares the "
      "answers of classifications."
    )
  return classification.LINKS[section.get("loss") or "softmax_xent"]


def main(argv: list[str] | None = None) -> None:
  """Compares the settings of a run; bad input gives an error of one line."""
  parser = command.parser(
    "agreement", "Compares the answers of settings, alone and together."
  )
  add = parser.add_argument
  command.add_num_tokens(add)
  command.add_split(add, 2000)
  add("--attribute", help="a number of each example, such as scale")
  add("--batch_size", type=int, default=100, help="by default 100")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    attributes = [args.attribute] if args.attribute else []
    # Batches have the label for the answers anyway; the dataset's own label may
    # be another.
    others = [name for name in attributes if name != "label"]

    def batches():
      number = 0
      for batch in runs.read_batches(
        opened.data, args.num_images, args.batch_size, others
      ):
        opened.check(batch["image"])
        yield batch
        number += len(batch["image"])
        terminal.say(terminal.counted(number, "image"))

    answers = answer(
      opened.model,
      opened.params,
      batches(),
      opened.settings,
      read_link(opened.config),
    )
    if attributes != others:
      answers = answers._replace(attributes={"label": answers.labels})
    results = summary(answers, runs.value_names(opened.data, attributes))
    drawing.save(agreement_figure.draw(results), args.output, dpi=150)
    numbers = command.write_numbers(args.output, results)
  number = terminal.counted(results["examples"], "image")
  print(f"Answers to {number}: {args.output}, {numbers}")


if __name__ == "__main__":
  main()
