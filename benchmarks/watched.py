"""A program as it is watched from outside: when each of its lines came, how much memory it took."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import last_error

_SAMPLE_SECONDS = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """What was seen of a program.

    Attributes:
      lines: of its standard output, each with the seconds since the program was started.
      seconds: until it ended.
      peak_bytes: of memory, of the program and all that it started, where the system tells.
      problem: why it did not come to its end: what standard error says, or the time.
    """

    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    problem: str | None = None

    def when(self, beginning: str) -> float:
        """Returns the seconds until the first line that begins so."""
        return next(seconds for seconds, line in self.lines if line.startswith(beginning))


def _descendants(pid: int) -> list[int]:
    """Lists a process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has ended
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident_bytes(pid: int) -> int:
    """Reads a process's memory, of what it shares all."""
    with contextlib.suppress(OSError):
        return _PAGE_BYTES * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return 0


def _proportional_bytes(pid: int) -> int:
    """Reads a process's memory, of what it shares its part."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


@contextlib.contextmanager
def _watch_memory(pid: int, watched: Watched) -> Iterator[None]:
    """Notes the peak of a process tree's memory meanwhile."""
    ended = threading.Event()

    def look() -> None:
        highest = 0.0
        while not ended.wait(_SAMPLE_SECONDS):
            pids = _descendants(pid)
            resident = sum(map(_resident_bytes, pids))
            # The other number takes the kernel milliseconds of a core, the program's own.
            if resident > 1.01 * highest:
                highest = resident
                peak = sum(map(_proportional_bytes, pids))
                watched.peak_bytes = max(watched.peak_bytes, peak)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def watch(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    last: str | None = None,
    limit: float | None = None,
    echo: bool = False,
) -> Watched:
    """Runs a program to its end.

    Args:
      command: program and arguments.
      environment: variables beside those of this process.
      last: the program is ended at the first line that begins so, with all that it started.
      limit: the seconds after which it is ended likewise, which is a problem.
      echo: whether its lines are printed as they come.
    """
    watched = Watched()
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            env=os.environ | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that it and all that it starts can be ended
        ) as process,
    ):

        def end(problem: str | None = None) -> None:
            watched.problem = problem
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit or 0.0, end, [f"its {limit or 0:.0f} s are over"])
        try:
            if limit:
                timer.start()
            with _watch_memory(process.pid, watched):
                was_ended = _follow(process, watched, start, last, echo)
                if was_ended:
                    end()
                status = process.wait()
                watched.seconds = time.perf_counter() - start
        finally:
            timer.cancel()
            end(watched.problem)
        if status and not was_ended and not watched.problem:
            errors.seek(0)
            watched.problem = last_error(errors.read()) or f"status {status}"
    return watched


def _follow(
    process: subprocess.Popen, watched: Watched, start: float, last: str | None, echo: bool
) -> bool:
    """Notes its lines to the end, or to the one that begins as `last`; tells whether that came."""
    for line in process.stdout:
        watched.lines.append((time.perf_counter() - start, line.rstrip()))
        if echo:
            print(line, end="", flush=True)
        if last and line.startswith(last):
            return True
    return False
