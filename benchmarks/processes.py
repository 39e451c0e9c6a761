"""Processes that answer in JSON: once, or by turns, line by line.

What they measure of themselves, too: their seconds per call and their memory.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax

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


def serve(
  first: Any, programs: Mapping[str, Callable[[], Any]], repeats: int
) -> None:
  """Says something, then times the program that each line of the input names.

  Args:
    first: said once all programs have run, and so are compiled.
    programs: functions without arguments.
    repeats: calls whose mean in seconds is the answer.
  """
  for program in programs.values():
    jax.block_until_ready(program())
  print(json.dumps(first), flush=True)
  for line in sys.stdin:
    program = programs[line.strip()]
    start = time.perf_counter()
    for _ in range(repeats):
      jax.block_until_ready(program())
    seconds = (time.perf_counter() - start) / repeats
    print(json.dumps(seconds), flush=True)


def answer_once(measure: Callable[..., Any]) -> None:
  """Prints as JSON what a function returns for the arguments of the process.

  Args:
    measure: takes what the one argument of the command line holds as JSON.
  """
  parser = argparse.ArgumentParser()
  parser.add_argument("arguments", type=json.loads)
  print(json.dumps(measure(**parser.parse_args().arguments)))


def peak_bytes() -> int:
  """Returns the largest memory that this process ever had."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
