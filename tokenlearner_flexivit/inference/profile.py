"""The cost of each setting of a model on this machine, beside its accuracy."""

import functools
import json
import os
import pathlib
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import dials, paths, terminal
from tokenlearner_flexivit.figures import plane, table
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.models import timing
from tokenlearner_flexivit.run import workdir as workdir_lib

Row = dict[str, Any]
_ACCURACY = Metric("accuracy", "%", is_share=True)


def measure(
  predictor: Any,
  settings: Sequence[dials.Setting],
  batch_size: int,
  repeats: int,
) -> list[dict[str, float]]:
  """Times settings in turns, so that a slow moment of the machine affects all.

  Args:
    predictor: a `Predictor`.
    settings: the settings to time.
    batch_size: images of a call.
    repeats: the number of timed calls of each, after one that compiles.

  Returns:
    For each setting latency_ms, latency_ms_p10, latency_ms_p90 and forward_ms,
    as `Predictor.profile` defines them.
  """
  shape = batch_size, *predictor.trained.image_shape
  pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  prepared, errors = predictor.preprocess(pixels)
  if errors:
    raise ValueError(f"Nothing can be measured: {errors[0]}")
  calls = [
    call
    for setting in settings
    for call in (
      functools.partial(predictor.answer, pixels, setting),
      functools.partial(predictor.forward, prepared, setting),
    )
  ]
  seconds = timing.by_turns(dict(enumerate(calls)), repeats)
  ms = 1e3 * np.transpose([*seconds.values()]).reshape(repeats, -1, 2)
  p10, median, p90 = np.percentile(ms, (10, 50, 90), axis=0)
  return [
    {
      "latency_ms": float(median[i, 0]),
      "latency_ms_p10": float(p10[i, 0]),
      "latency_ms_p90": float(p90[i, 0]),
      "forward_ms": float(median[i, 1]),
    }
    for i in range(len(settings))
  ]


def latencies(
  measured: Mapping[int, Mapping[dials.Setting, Row]],
  sizes: Mapping[int, int],
  settings: Sequence[dials.Setting],
) -> dict[dials.Setting, tuple[float, float]]:
  """Returns the 90th and the 10th percentile of the time of a call.

  Args:
    measured: rows by number of images and setting.
    sizes: how many batches of each number of images the call has.
    settings: of the dials.

  Returns:
    Milliseconds by setting.
  """
  total = {setting: np.zeros(2) for setting in settings}
  for size, number in sizes.items():
    for setting in settings:
      row = measured[size][setting]
      slow = row["latency_ms_p90"]
      quick = min(slow, row.get("latency_ms_p10", slow))
      total[setting] += number * np.array([slow, quick])
  return {setting: tuple(pair.tolist()) for setting, pair in total.items()}


def markdown(
  rows: Sequence[Row],
  headline: str = "accuracy",
  metric: Metric = _ACCURACY,
  kind: str = "image",
) -> str:
  """Returns the rows as a table; stars mark the front of metric against time.

  Args:
    rows: of `Predictor.profile`.
    headline: the metric that settings are compared by (`Trained.headline`).
    metric: the display of that metric.
    kind: the model's input, "image" or "video".
  """
  known = [row for row in rows if row[headline] is not None]
  best = plane.front(
    [row["latency_ms_p90"] for row in known], [row[headline] for row in known]
  )
  best = [id(known[i]) for i in best]
  return table.markdown(
    [_shown(row, headline, metric, kind, id(row) in best) for row in rows]
  )


def _shown(
  row: Row, headline: str, metric: Metric, kind: str, on_front: bool
) -> Row:
  value, memory, rate = row[headline], row["memory_bytes"], row["images_per_s"]
  setting = dials.Setting.from_row(row)
  return {
    **setting.columns,
    f"{kind}s": row["batch_size"],
    metric.column: "" if value is None else metric.text(value),
    "GMACs" if kind == "image" else "GMACs/view": terminal.number(row["gmacs"]),
    "ms": f"{row['latency_ms']:.2f}",
    "10 to 90 %": f"{row['latency_ms_p10']:.2f}-{row['latency_ms_p90']:.2f}",
    "model ms": f"{row['forward_ms']:.2f}",
    # The rate of videos with all their views may be small.
    f"{kind}s/s": f"{rate:.{0 if rate >= 10 else 2}f}",
    "MB": "" if memory is None else f"{memory / 1e6:.1f}",
    "front": "*" if on_front else "",
  }


def hardware() -> str:
  """Returns the name of the device that predictors use."""
  kind = jax.devices()[0].device_kind
  if kind == "cpu":
    kind = f"{os.cpu_count()} cores of an {platform.machine()} CPU{_cpu()}"
  return kind


def _cpu() -> str:
  """Returns the name of the CPU in brackets, or "" if it is unknown."""
  # On Linux, Python's `platform` does not know the name.
  info = pathlib.Path("/proc/cpuinfo")
  match = info.exists() and re.search(
    r"model name\s*: (.+)", info.read_text(encoding="utf-8", errors="replace")
  )
  name = match[1] if match else platform.processor()
  return f" ({name})" if name else ""


def as_json(rows: Sequence[Row]) -> str:
  """Returns rows as JSON, with the hardware that they were measured on."""
  content = {
    "hardware": hardware(),
    "jax": jax.__version__,
    "date": time.strftime("%Y-%m-%d"),
    "rows": list(rows),
  }
  return workdir_lib.as_json(content, indent=2)


def check_writable(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path that `write` would write to, after creating its folder.

  Args:
    path: may begin with "~", which is expanded.

  Raises:
    OSError: it cannot be written: it is a folder, or permission is missing.
    ValueError: it is no path of a file system.
  """
  path = paths.local(path, "output")
  if path.is_dir():
    raise IsADirectoryError(f"{path} is a folder. Give the name of a file.")
  if paths.is_stream(path):
    if not os.access(path, os.W_OK):
      raise PermissionError(f"{path}: you may not write there.")
    return path
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=path.resolve().parent):
    pass
  if path.exists():
    with path.open("r+", encoding="utf-8"):
      pass
  return path


def write(rows: Sequence[Row], path: str | os.PathLike) -> None:
  """Writes rows to a file for `read`."""
  path = check_writable(path)
  workdir_lib.write_whole(path, f"{as_json(rows)}\n".encode())


def read(path: str | os.PathLike) -> list[Row]:
  """Reads the rows that `write` wrote on the same hardware.

  Raises:
    OSError: the file does not exist.
    ValueError: the file is damaged, or of other hardware.
  """
  path = paths.local(path, "profile")
  try:
    content = json.loads(path.read_bytes())
    where, rows = content["hardware"], content["rows"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is no profile: {error!r}.") from None
  if where != hardware():
    raise ValueError(
      f"{path} was measured on {where!r}, this is {hardware()!r}. Measure anew."
    )
  return rows
