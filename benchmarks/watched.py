"""A program as it is watched from outside: when each of its lines came, how much memory it took."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Watched:
    """What was seen of a program.

    Attributes:
      lines: of its standard output, each with the seconds since the program was started.
      seconds: until it ended.
      peak_bytes: of memory, of the program and all that it started, where the system tells.
      problem: the last line of its standard error where it failed.
    """

    lines: list[tuple[float, str]]
    seconds: float
    peak_bytes: int
    problem: str | None

    def when(self, beginning: str) -> float:
        """Returns the seconds until the first line that begins so."""
        return next(seconds for seconds, line in self.lines if line.startswith(beginning))


def _descendants(pid: int) -> list[int]:
    """Lists a process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def _resident_bytes(pid: int) -> int:
    """Reads a process's memory, of what it shares all."""
    try:
        return _PAGE_BYTES * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has ended
        return 0


def _proportional_bytes(pid: int) -> int:
    """Reads a process's memory, of what it shares its part."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:  # it has ended
        pass
    return 0


class _Memory(threading.Thread):
    """Looks at the memory of a process tree until it is stopped."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._pid, self._stopped, self.peak = pid, threading.Event(), 0

    def run(self) -> None:
        """Looks again and again."""
        highest = 0.0
        while not self._stopped.wait(_SAMPLE_SECONDS):
            pids = _descendants(self._pid)
            resident = sum(map(_resident_bytes, pids))
            # The other number takes the kernel milliseconds of a core, the program's own.
            if resident > 1.01 * highest:
                highest = resident
                self.peak = max(self.peak, sum(map(_proportional_bytes, pids)))

    def stop(self) -> int:
        """Ends; returns the peak."""
        self._stopped.set()
        self.join()
        return self.peak


def _read_lines(process: subprocess.Popen, start: float, last: str | None) -> list:
    lines = []
    for line in process.stdout:
        lines.append((time.perf_counter() - start, line.rstrip()))
        if last and line.startswith(last):
            process.kill()
    return lines


def watch(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    last: str | None = None,
) -> Watched:
    """Runs a program to its end.

    Args:
      command: program and arguments.
      environment: variables beside those of this process.
      last: the program is ended at the first line that begins so; what it started is left alone.
    """
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            env=os.environ | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            memory = _Memory(process.pid)
            memory.start()
            lines = _read_lines(process, start, last)
            status = process.wait()
            seconds = time.perf_counter() - start
            peak = memory.stop()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    was_ended = last and lines and lines[-1][1].startswith(last)
    problem = (said or [f"status {status}"])[-1] if status and not was_ended else None
    return Watched(lines, seconds, peak, problem)
