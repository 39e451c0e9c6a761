"""The terminal output of a run: its start, one line per log step, a bar."""

import collections
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from clu import parameter_overview

from tokenlearner_flexivit import dials, parallel, terminal

# A line of the log fits in about 120 columns.
_WIDTH_OF_SETTINGS = 48


def describe_devices(batch_size: int) -> None:
  """Prints backend, devices, hosts and the share of each in a batch."""
  devices = jax.devices()
  hosts = terminal.counted(jax.process_count(), "host")
  terminal.say(
    f"JAX {jax.__version__} on {len(devices)} x {devices[0].device_kind} "
    f"({jax.default_backend()}), {hosts}; batch {batch_size} = "
    f"{terminal.counted(len(devices), 'device')} x "
    f"{batch_size // len(devices)}"
  )
  accelerator = parallel.unused_accelerator()
  if accelerator:
    terminal.say(
      f"WARNING: training on the CPU although there is {accelerator}. Install "
      "JAX for it: pip install -U 'tokenlearner_flexivit[cuda]' or '[tpu]'; "
      "JAX_PLATFORMS=cpu silences this."
    )


def describe_model(params: Any) -> None:
  """Prints the number of parameters, of the whole and of its parts."""
  sizes = {
    name: parameter_overview.count_parameters({name: part})
    for name, part in params.items()
  }
  parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
  terminal.say(f"{sum(sizes.values()):,} parameters: {parts}")


class Progress:
  """Gathers the metrics of steps and turns them into one record per log step.

  The metrics stay on the device until they are asked for, so that the host
  never makes the device wait.
  """

  def __init__(
    self,
    settings: Sequence[dials.Setting],
    *,
    first_step: int,
    total_steps: int,
    batch_size: int,
    kind: str = "image",
    seconds_before: float = 0.0,
    pending: Sequence[tuple[int, dict[str, float]]] = (),
  ):
    """Notes how many steps of what kind the run has.

    Args:
      settings: the list that the metric "setting" is an index into.
      first_step: steps done before this program was started.
      total_steps: steps to do in all.
      batch_size: over all hosts.
      kind: of its examples, "image" or "video".
      seconds_before: what earlier programs spent on the steps done.
      pending: the value of an earlier program's `pending` after `first_step`.
    """
    self._seconds_before = seconds_before
    self._settings = settings
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._unit = {"image": "img", "video": "vid"}[kind]
    self._first_step = first_step
    self._pending = [(step, dict(metrics)) for step, metrics in pending]
    self._steps_before = len(self._pending)
    self._bar = None
    self._has_said = False
    self._first_done = None
    self._compiled = []  # Seconds of steps since the last line that compiled.

  def start(self) -> None:
    """Starts the clock and the bar."""
    self._start = self._last = time.perf_counter()
    self._bar = tqdm.tqdm(
      total=self._total_steps,
      initial=self._first_step,
      unit="step",
      # A bar would clutter a log file.
      disable=not terminal.is_watched(sys.stderr) or jax.process_index() > 0,
    )

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Notes the metrics of a step; the first step is 1."""
    if self._first_done is None:
      self._first_done = time.perf_counter()
    self._pending.append((step, metrics))
    self._bar.update()

  def glance(self) -> None:
    """Prints a first short line, once, after ten steps or ten seconds.

    The first line of the log may be far away. The first step does not count: it
    may compile.
    """
    step = self._pending[-1][0] if self._pending else self._first_step
    steps = step - self._first_step - 1
    if self._has_said or steps < 1:
      return
    if steps < 10 and time.perf_counter() - self._first_done < 10:
      return
    self._has_said = True
    self._fetch()
    left = self._time_left(step)
    terminal.say(
      f"step {step:{len(str(self._total_steps))}}/{self._total_steps}  "
      f"loss {self._pending[-1][1]['loss']:.4f}  ETA {left}"
    )

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time spent inside, such as an evaluation, from the rates."""
    start = time.perf_counter()
    try:
      yield
    finally:
      seconds = time.perf_counter() - start
      self._start += seconds
      self._last += seconds
      if self._first_done is not None:
        self._first_done += seconds

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Excludes the step that is done inside, which compiles, from the rates."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    self._compiled.append(seconds)
    self._last += seconds
    if self._first_done is not None:
      self._first_done += seconds

  def first_not_finite(self) -> tuple[int, dials.Setting, str] | None:
    """Returns the first noted step with a metric that is no finite number.

    Returns:
      The step, its setting and the metric's name ("loss" rather than another;
      the parameters can overflow at a step whose loss is still finite), or
      None.
    """
    self._fetch()
    for step, metrics in self._pending:
      for name in sorted(metrics, key=lambda name: name != "loss"):
        if not np.isfinite(metrics[name]):
          return step, self._settings[int(metrics["setting"])], name
    return None

  @property
  def pending(self) -> list[tuple[int, dict[str, float]]]:
    """Returns the steps since the last line, with metrics, for a checkpoint.

    With them a run that continues writes the same means as without a stop.
    """
    self._fetch()
    return list(self._pending)  # A copy: steps are added while it is saved.

  @property
  def seconds(self) -> float:
    """Returns the seconds spent on all steps, those of earlier programs too."""
    return self._seconds_before + time.perf_counter() - self._start

  def _fetch(self) -> None:
    # As JSON values, so that those restored from a checkpoint are equal.
    self._pending = [
      (step, {name: float(value) for name, value in metrics.items()})
      for step, metrics in jax.device_get(self._pending)
    ]

  def log(self, lr: float) -> dict[str, float]:
    """Prints the line of a log step.

    Args:
      lr: the learning rate of the last step.

    Returns:
      Means of the metrics over the steps since the last line; img_per_s,
      img_per_s_per_core (a core is a device), of videos the same names; lr;
      train_seconds in all.
    """
    self._fetch()
    now = time.perf_counter()
    steps = len(self._pending)
    step = self._pending[-1][0]
    drawn = collections.Counter(int(m["setting"]) for _, m in self._pending)
    record = {
      name: float(np.mean([m[name] for _, m in self._pending]))
      for name in self._pending[0][1]
      if name != "setting"
    }
    # The seconds measured here exclude steps of earlier programs.
    timed = steps - self._steps_before - len(self._compiled)
    seconds = now - self._last
    if not timed:  # Only the rate of the steps that compiled is known.
      timed, seconds = len(self._compiled), seconds + sum(self._compiled)
    rate = timed * self._batch_size / seconds
    record |= {
      "img_per_s": rate,
      "img_per_s_per_core": rate / jax.device_count(),
      "lr": float(lr),
      "train_seconds": self.seconds,
    }
    left = self._time_left(step)
    devices = jax.device_count()
    per_device = f" ({_rounded(rate / devices)} per device)"
    per_device = per_device if devices > 1 else ""
    width = len(str(self._total_steps))
    terminal.say(
      f"step {step:{width}}/{self._total_steps}  loss {record['loss']:.4f}  "
      f"{_rounded(rate)} {self._unit}/s{per_device}  ETA {left}  "
      f"grad {record['grad_norm']:.3g}  {self._drawn(drawn)}"
    )
    self._pending, self._steps_before, self._compiled = [], 0, []
    self._last, self._has_said = now, True
    return record

  def _time_left(self, step: int) -> str:
    """Tells how long the steps after `step` will take."""
    begin, steps = self._start, step - self._first_step
    if steps > 1:  # The first step may compile.
      begin, steps = self._first_done, steps - 1
    seconds = time.perf_counter() - begin
    return terminal.duration((self._total_steps - step) * seconds / steps)

  def _drawn(self, times: Mapping[int, int]) -> str:
    """Returns how often each setting was drawn, if the text is short."""
    parts = [
      f"{self._settings[i].name.removeprefix('patch')}:{times[i]}"
      for i in sorted(times)
    ]
    text = " ".join(parts)
    if len(text) <= _WIDTH_OF_SETTINGS:
      return f"setting:times {text}"
    known = terminal.counted(len(self._settings), "setting")
    return f"{len(parts)} of {known}"

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()


def _rounded(rate: float) -> str:
  """Returns a rate as "123", or as "1.23" if it is small, as for videos."""
  return f"{rate:.{0 if rate >= 10 else 2}f}"
