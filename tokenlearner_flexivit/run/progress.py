"""What a person sees of a run: its start, one line per log step, a bar."""

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
  terminal.say(
    f"JAX {jax.__version__} on {len(devices)} x {devices[0].device_kind} "
    f"({jax.default_backend()}), {jax.process_count()} host(s); batch "
    f"{batch_size} = {len(devices)} devices x {batch_size // len(devices)}"
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
    """Notes what is to come.

    Args:
      settings: what the metric "setting" is an index into.
      first_step: steps done before this program was started.
      total_steps: steps to do in all.
      batch_size: over all hosts.
      kind: of its examples, "image" or "video".
      seconds_before: what earlier programs spent on the steps done.
      pending: as an earlier program's `pending` was after `first_step`.
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
      # Logs stay free of it.
      disable=not terminal.is_watched(sys.stderr) or jax.process_index() > 0,
    )

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Notes the metrics of a step, 1 for the first."""
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
    """Leaves what happens inside, such as evaluation, out of the rates."""
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
    """Leaves the step that is done inside, and compiles, out of the rates."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    self._compiled.append(seconds)
    self._last += seconds
    if self._first_done is not None:
      self._first_done += seconds

  def first_not_finite(self) -> tuple[int, dials.Setting, str] | None:
    """The first noted step with a metric that is no finite number.

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
    """The steps since the last line with their metrics, for a checkpoint.

    With them a run that continues writes the same means as without a stop.
    """
    self._fetch()
    return list(self._pending)  # It is saved while more steps are added.

  @property
  def seconds(self) -> float:
    """Seconds spent on all steps so far, by earlier programs, too."""
    return self._seconds_before + time.perf_counter() - self._start

  def _fetch(self) -> None:
    # As JSON has them, so that those of a checkpoint are no others.
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
    here = steps - self._steps_before  # The others took their time elsewhere.
    here, seconds = here - len(self._compiled), now - self._last
    if not here:  # No other rate is known.
      here, seconds = len(self._compiled), seconds + sum(self._compiled)
    rate = here * self._batch_size / seconds
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
    if steps > 1:  # The first may compile.
      begin, steps = self._first_done, steps - 1
    seconds = time.perf_counter() - begin
    return terminal.duration((self._total_steps - step) * seconds / steps)

  def _drawn(self, times: Mapping[int, int]) -> str:
    """Tells how often which settings were drawn, if that is short."""
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
  """Returns a rate as "123", a small one, as of videos, as "1.23"."""
  return f"{rate:.{0 if rate >= 10 else 2}f}"
