"""Several processes that draw examples, and their results in order.

The processes are new Python programs that load this package alone. A fork
would copy JAX's threads and locks, and `multiprocessing` would run the user's
own program again in each process, which fails in a notebook or in a script
without a `__main__` guard.
"""

import contextlib
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

PROGRAM = f"""
import sys
sys.path.append({str(pathlib.Path(__file__).parent.parent)!r})
from {pathlib.Path(__file__).parent.name} import workers
workers.serve()
"""


def generate(
  kind: str, arguments: dict[str, Any], count: int, num_processes: int
) -> Iterator[dict[str, Any]]:
  """Yields the examples 0 to count - 1.

  Args:
    kind: "image" or "video".
    arguments: the arguments of `examples.image_example` or
      `video.video_example`, without the index.
    count: number of examples.
    num_processes: number of processes, at least 1; the examples do not depend
      on it.

  Raises:
    RuntimeError: a process ended early; its own error is on stderr.
  """
  num_processes = max(1, min(num_processes, count))
  with contextlib.ExitStack() as stack:
    pipes = []
    for first in range(num_processes):
      process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
      )
      stack.callback(_end, process)
      task = (kind, arguments, range(first, count, num_processes))
      pickle.dump(task, process.stdin)
      process.stdin.flush()
      pipes.append(process.stdout)
    for index in range(count):
      try:
        example = pickle.load(pipes[index % num_processes])
      except (EOFError, pickle.UnpicklingError):
        raise RuntimeError(
          f"A process that draws scenes ended before example {index}; its own "
          "message is above."
        ) from None
      yield example


def _end(process: subprocess.Popen) -> None:
  process.kill()  # The process waits for its pipe, or is done.
  process.communicate()


def serve() -> None:
  """Reads a task from stdin and writes examples to stdout, in a process."""
  kind, arguments, indices = pickle.load(sys.stdin.buffer)
  if kind == "video":
    from .video import video_example as make
  else:
    from .examples import image_example as make
  for index in indices:
    pickle.dump(make(**arguments, index=index), sys.stdout.buffer)
    sys.stdout.buffer.flush()
