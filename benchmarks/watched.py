"""Runs a program and records when each of its lines came and how much memory it took."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common import last_error


@dataclass
class Watched:
    """A program that was run.

    Attributes:
      lines: of its standard output, each with the seconds since the program was started.
      seconds: until it ended.
      peak_bytes: of the memory of the largest of its processes.
      problem: why it did not finish: the last error, or the time limit.
    """

    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    problem: str | None = None

    def when(self, beginning: str) -> float:
        """Returns the seconds until the first line with this beginning."""
        return next(seconds for seconds, line in self.lines if line.startswith(beginning))


def watch(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    last: str | None = None,
    limit: float | None = None,
    echo: bool = False,
) -> Watched:
    """Runs a program.

    Args:
      command: program and arguments.
      environment: variables beside those of this process.
      last: the program is ended, with its children, at the first line with this beginning.
      limit: the seconds after which it is ended too, which is a problem.
      echo: whether its lines are printed as they come.
    """
    watched, start = Watched(), time.perf_counter()
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,  # so that it can be ended with its children
    )

    def end(problem: str | None) -> None:
        watched.problem = problem
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit or 1e6, end, [f"it took more than {limit or 0:.0f} s"])
    timer.daemon = True
    timer.start()
    was_ended = False
    for line in process.stdout:
        watched.lines.append((time.perf_counter() - start, line.rstrip()))
        if echo:
            print(line, end="", flush=True)
        if last and line.startswith(last):
            was_ended = True
            end(None)
            break
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = status
    watched.seconds, watched.peak_bytes = time.perf_counter() - start, 1024 * usage.ru_maxrss
    if status and not was_ended and not watched.problem:
        errors.seek(0)
        watched.problem = last_error(errors.read()) or f"status {status}"
    return watched
