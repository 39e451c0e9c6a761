"""Processes that answer in JSON: once, or by turns, line by line."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

Ask = Callable[[Hashable, str], Any]


def result_of(arguments: Sequence[str], python: str = sys.executable) -> Any:
  """Runs a program in a process of its own.

  Args:
    arguments: of Python, such as ("-m", "benchmarks.cka").
    python: the interpreter.

  Returns:
    The JSON value on the last line that it prints.

  Raises:
    subprocess.CalledProcessError: the program failed.
  """
  return json.loads(
    subprocess.check_output([python, *arguments]).splitlines()[-1]
  )


@contextlib.contextmanager
def started(
  workers: Mapping[Hashable, tuple[Sequence[str], Mapping[str, str]]],
) -> Iterator[Ask]:
  """Starts processes, which end with the context.

  Args:
    workers: by name the arguments of Python, and environment variables beside
      those of this process.

  Yields:
    A function that gives a worker a line and returns its answer, and with an
    empty line only waits for what it says of itself.
  """
  with contextlib.ExitStack() as stack:
    processes = {}
    for name, (arguments, environment) in workers.items():
      processes[name] = stack.enter_context(
        subprocess.Popen(
          [sys.executable, *arguments],
          env={**os.environ, **environment},
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          text=True,
        )
      )
      # Its end of input, also where another worker has failed.
      stack.callback(processes[name].stdin.close)

    def ask(name: Hashable, line: str = "") -> Any:
      process = processes[name]
      print(line, end="\n" if line else "", file=process.stdin, flush=True)
      answer = process.stdout.readline()
      if not answer:
        raise RuntimeError(f"The process {name} failed.")
      return json.loads(answer)

    yield ask


def serve(first: Any, answer: Callable[[str], Any]) -> None:
  """Says something, then answers each line of the input.

  Args:
    first: said at once; the worker is ready then.
    answer: from a line to the answer.
  """
  print(json.dumps(first), flush=True)
  for line in sys.stdin:
    print(json.dumps(answer(line.strip())), flush=True)
