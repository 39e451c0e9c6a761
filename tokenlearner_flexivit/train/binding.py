"""Binds a workdir to a run: to its config, and to data that do not change.

A workdir is bound when its first checkpoint is written, not before: a start
that fails leaves it free. From then on, keys that change the result are fixed.
Other keys may change, and so may the evaluations, as long as one name never
stands for two evaluations.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.parallel import hosts
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.run import workdir as workdir_lib
from tokenlearner_flexivit.train import setup, spelled_out, weight_digests

Change = tuple[str, Any, Any]  # A key, such as "config.seed"; before and now.

_PERIOD = r"_(steps|epochs|examples)"
_READING = r"data\.(max_corrupt|num_workers|num_threads|prefetch|data_dir)"
# Facts about the data that are not compared for equality, or that follow from
# the config.
_COMPARED_APART = {
  *("name", "image_shape", "class_names", "digest", "evals", "weights")
}
# Keys that change no number of the result.
_CHANGES_NOTHING = re.compile(
  rf"config\.((log|eval|checkpoint){_PERIOD}"
  r"|eval_first|keep_checkpoints|max_save_failures|profile_steps|parallel"
  rf"|flexi\.dispatch|model\.remat|{_READING}"
  rf"|evals\.[^.]+\.(batch_size|eval{_PERIOD}|{_READING}))"
)
# Keys that nothing reads after the first checkpoint.
_BEGINNING = tuple(key for key in setup.DEFAULTS if key.startswith("init"))
_READ_AT_BEGINNING = re.compile(
  rf"config\.({'|'.join(_BEGINNING)}|model\.(head_zeroinit|coder))"
)
_CHANGES_DROPOUT = ("config.accumulate", "config.model.scan")
_DATA_NAME = re.compile(r"config\.(?:evals\.([^.]+)\.)?data\.name")
# Stored frames of videos have names with a slash.
_PLACE = re.compile(r"(video_folder(?=/)|[^:/]+(?=:))")
_EVALUATION = re.compile(r"config\.evals\.([^.]+)")
_LEFT_OUT = "left out"  # A key, in words.


def claim_workdir(
  workdir: pathlib.Path, config: dict[str, Any], about_data: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Checks that a run may start or continue in `workdir`; all hosts call it.

  It prints the keys that have changed without changing results. A workdir
  without a checkpoint belongs to no run; `bind_workdir` binds it.

  Args:
    workdir: of the run, exists.
    config: of the run, complete.
    about_data: the `Experiment.about_data` of this start.

  Returns:
    Config and `about_data` to write: what a continued run began from is kept.

  Raises:
    ValueError: `workdir` holds a run of another config or of other data, or
      this host differs from process 0; names the difference.
    RuntimeError: another host raises this ValueError.
  """
  check_hosts_agree(config, about_data)
  with hosts.together():
    if jax.process_index() == 0 and _is_bound(workdir):
      before = _check_bound(workdir, config, about_data)
      if checkpoint_lib.steps(workdir):
        config, about_data = _with_beginning(*before, config, about_data)
      # A full disk is no reason to stop where nothing has changed.
      if before != (config, about_data):
        _write(workdir, config, about_data)
  return tuple(hosts.of_first_host((config, about_data)))


def _with_beginning(
  old: dict[str, Any],
  old_about: dict[str, Any],
  config: dict[str, Any],
  about_data: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns config and `about_data` with the weights that a run began from."""
  kept = {key: old[key] for key in _BEGINNING if key in old}
  weights = dict(about_data.get("weights", {}))
  if (
    digest := old_about.get("weights", {}).get(weight_digests.INIT)
  ) is not None:
    weights[weight_digests.INIT] = digest
  if weights:
    about_data = {**about_data, "weights": weights}
  return {**config, **kept}, about_data


def bind_workdir(
  workdir: pathlib.Path, config: dict[str, Any], about_data: dict[str, Any]
) -> None:
  """Binds `workdir` to this run, before its first checkpoint is written.

  Args:
    workdir: exists.
    config: of the run, complete.
    about_data: the `Experiment.about_data` of this start.

  Raises:
    OSError: it cannot be written.
  """
  _write(workdir, config, about_data)


def check_model(
  workdir: pathlib.Path,
  trained: dict[str, Any],
  config: dict[str, Any],
  weights: Mapping[str, str],
) -> None:
  """Raises ValueError unless a config has the model and task of a run.

  The teachers of the task are checked, too, if an evaluation needs them.

  Args:
    workdir: of the run.
    trained: the run's config.
    config: of an evaluation of it.
    weights: digests of the weights that the run has recorded, by their keys.
  """
  keys = ("model", "task")
  changes = configuration.changes(
    *({key: of.get(key) for key in keys} for of in (trained, config)),
    left_out=_LEFT_OUT,
  )
  differ = [
    c
    for c in changes
    if c[0] not in _CHANGES_DROPOUT
    and not _CHANGES_NOTHING.fullmatch(c[0])
    and not _READ_AT_BEGINNING.fullmatch(c[0])
    and not spelled_out.is_same(c[0], trained, config)
  ]
  asks = _asks_teachers_of_the_task(config)
  now = {}
  if differ or asks:
    now = weight_digests.of_config(config, begins=False)
  differ = [c for c in differ if not _is_same(c[0], weights, now)]
  if differ:
    raise ValueError(
      f"--workdir={workdir} holds a run of another model (there -> now):"
      f"{_lines(differ)}\nAn evaluation may differ in all but model and task."
    )
  both = {"weights": weights}, {"weights": now}
  if asks and (differ := list(_other_teachers("config.task.", *both))):
    raise ValueError(
      f"--workdir={workdir} holds a run that learned from other teachers than "
      f"are there now (there -> now):{_lines(differ)}\nBring them back, or "
      "name those to compare with in the teachers of the evaluation."
    )


def _asks_teachers_of_the_task(config: Mapping[str, Any]) -> bool:
  """Tells whether an evaluation compares with the teachers of the training."""
  return any(
    section.get("type") == "similarity"
    or (section.get("type") == "distance" and section.get("teachers") is None)
    for section in config["evals"].values()
  )


def check_hosts_agree(
  config: dict[str, Any], about_data: dict[str, Any]
) -> None:
  """Checks that all hosts have the same config and see the same data.

  Otherwise one would wait for another in the middle of the training, or batches
  would hold images with the labels of other images.

  Args:
    config: of this host, complete.
    about_data: as this host sees them.

  Raises:
    ValueError: this host differs from process 0; names how.
    RuntimeError: another host does.
  """
  mine = {"config": config, "about_data": about_data}
  first = hosts.of_first_host(mine)
  with hosts.together():
    differ = [
      change
      for key in mine
      for change in configuration.changes(first[key], mine[key], key)
      # A host may lack weights that are no longer needed.
      if not (change[0].startswith("about_data.weights") and None in change)
    ]
    if differ:
      raise ValueError(
        f"Process {jax.process_index()} differs from process 0 (there -> here):"
        f"{_lines(differ)}\nGive all hosts the same config and the same data."
      )


def _is_bound(workdir: pathlib.Path) -> bool:
  """Tells whether the workdir holds a run, which must not be overwritten."""
  return bool(
    checkpoint_lib.steps(workdir)
    or (workdir / workdir_lib.REPORT_FILE).exists()
  )


def _write(
  workdir: pathlib.Path, config: dict[str, Any], about_data: dict[str, Any]
) -> None:
  # The config is written last, since it binds the workdir.
  for name, values in (
    (workdir_lib.ABOUT_DATA_FILE, about_data),
    (workdir_lib.CONFIG_FILE, config),
  ):
    workdir_lib.write_json(workdir / name, values)


def _check_bound(
  workdir: pathlib.Path, config: dict[str, Any], about_data: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Compares with the workdir's run, and prints harmless changes.

  Returns:
    Config and `about_data` of that run, as stored in its files.
  """
  kept = workdir_lib.read_config(workdir)
  # An older run lacks keys that were added later.
  before = {**setup.DEFAULTS, **kept}
  about_before = {}
  if (workdir / workdir_lib.ABOUT_DATA_FILE).exists():
    about_before = workdir_lib.read_about_data(workdir)
  refused, renamed, with_results = [], [], _with_results(workdir)
  has_begun = bool(checkpoint_lib.steps(workdir))
  for change in configuration.changes(before, config, left_out=_LEFT_OUT):
    key = change[0]
    if spelled_out.is_same(key, before, config):
      continue
    name = _EVALUATION.match(key)
    if has_begun and _READ_AT_BEGINNING.fullmatch(key):
      terminal.say(
        f"Not read again after the first checkpoint: {_line(change)}. The run "
        "goes on as it began."
      )
    elif words := _harmless(change, about_before, about_data):
      terminal.say(f"Changed since the last start: {_line(change)}{words}")
    elif name is None:
      refused.append(change)
    else:
      old, new = (x["evals"].get(name[1]) for x in (before, config))
      if new is not None and name[1] in with_results:
        # Otherwise they would be taken for the run's own results.
        left_out = key, "an earlier one, left out since", new
        renamed.append(left_out if old is None else change)
      else:
        _say_evaluation_differs(change, old, new, name[1] in with_results)
  if refused:
    raise ValueError(
      f"--workdir={workdir} holds a run of a different config (there -> now):"
      f"{_lines(refused)}\nUse another workdir, or the old config to continue. "
      "To train on from the weights of this run, use another workdir with "
      f"config.init={str(workdir)!r}."
    )
  refused = list(_other_data(about_before, about_data))
  if refused:
    raise ValueError(
      f"--workdir={workdir} holds a run on other data (there -> now):"
      f"{_lines(refused)}\nBring the data back to continue. To train on these "
      "from the weights of this run, use another workdir with "
      f"config.init={str(workdir)!r}."
    )
  others = _other_evaluations(about_before, about_data, with_results)
  if renamed := [*renamed, *others]:
    raise ValueError(
      f"--workdir={workdir} holds a run with other evaluations of these names "
      f"(there -> now):{_lines(renamed)}\nGive a changed evaluation another "
      "name in config.evals, so that its results do not mix with the earlier "
      "ones."
    )
  if "digest" not in about_before:
    terminal.say(
      f"{workdir} does not say what its data were in detail, so they are not "
      "compared at this start. From now on they are."
    )
  return kept, about_before


def _say_evaluation_differs(
  change: Change, old: Any, new: Any, has_results: bool
) -> None:
  name = _EVALUATION.match(change[0])[1]
  if old is not None and new is not None:
    text = f"{_line(change)}. {name!r} has no results yet that this could mix."
    terminal.say(f"Changed since the last start: {text}")
    return
  text = (
    f"The evaluation {name!r} is {'new' if old is None else 'left out now'}."
  )
  if has_results:
    text += f" Results so far stay in {metric_log.METRICS_FILE}."
  terminal.say(text)


def _with_results(workdir: pathlib.Path) -> set[str]:
  """Returns the names of evaluations that have results."""
  return {
    key.partition("/")[0]
    for record in metric_log.read(workdir)
    for key in record
    if "/" in key
  }


def _harmless(
  change: Change, about_before: dict[str, Any], about_data: dict[str, Any]
) -> str:
  """Returns a message for a change that changes no result, "" for others."""
  key, old, new = change
  if _CHANGES_NOTHING.fullmatch(key):
    return ", which changes no result."
  if key in _CHANGES_DROPOUT:
    return (
      ". The gradients are the same but for rounding; dropout and stochastic "
      "depth, where there are any, draw others."
    )
  if match := _DATA_NAME.fullmatch(key):
    kinds = [_PLACE.match(str(name)) for name in (old, new)]
    digests = [
      _digests(about, match[1]) for about in (about_before, about_data)
    ]
    is_path = None not in kinds and kinds[0][1] == kinds[1][1]
    if is_path and digests[0] and digests[0] == digests[1]:
      return ". It is the same data in another place."
  weights = [about.get("weights", {}) for about in (about_before, about_data)]
  return ". It is the same file or run." if _is_same(key, *weights) else ""


def _is_same(
  key: str, before: Mapping[str, str], now: Mapping[str, str]
) -> bool:
  """Tells whether the weights that a key names are unchanged."""
  return key in before and before[key] == now.get(key)


def _digests(about: Mapping[str, Any], evaluation: str | None) -> Any:
  """Returns the digest of the training data, or those of an evaluation."""
  if evaluation is None:
    return about.get("digest")
  return about.get("evals", {}).get(evaluation)


def _other_data(
  before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Change]:
  """Yields differences between the training data and those of the run."""
  for key, value in before.items():
    # Facts that a task remembers, such as the number of classes or examples.
    if key in now and key not in _COMPARED_APART and value != now[key]:
      yield key, value, now[key]
  old, new = (about.get("class_names") or [] for about in (before, now))
  for number, names in enumerate(zip(old, new, strict=False)):
    if names[0] != names[1]:
      yield f"class {number}", *names
  if before.get("digest", now["digest"]) != now["digest"]:
    yield "digest of the listing", before["digest"], now["digest"]
  yield from _other_teachers("config.task.", before, now)


def _other_teachers(
  where: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Change]:
  """Yields the teachers of a section whose weights have changed."""
  old, new = (about.get("weights", {}) for about in (before, now))
  for key in sorted(old.keys() & new.keys()):
    if key.startswith(where) and old[key] != new[key]:
      yield f"digest of {key}", old[key], new[key]


def _other_evaluations(
  before: Mapping[str, Any], now: Mapping[str, Any], with_results: set[str]
) -> Iterator[Change]:
  """Yields evaluations with results whose data have changed."""
  old = before.get("evals", {})
  for name in sorted(old.keys() & now["evals"].keys() & with_results):
    yield from configuration.changes(
      {"data": old[name]}, {"data": now["evals"][name]}, f"config.evals.{name}"
    )
    yield from _other_teachers(f"config.evals.{name}.", before, now)


def _line(change: Change) -> str:
  key, old, new = change
  return f"{key}: {old!r} -> {new!r}"


def _lines(changes: list[Change]) -> str:
  """Returns up to eight changes, each on a line of its own."""
  lines = [*map(_line, changes[:8])]
  if len(changes) > 8:
    lines.append(f"and {len(changes) - 8} more")
  return "".join(f"\n  {line}" for line in lines)
