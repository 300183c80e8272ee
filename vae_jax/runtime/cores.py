"""The number of usable processor cores; imports no JAX."""

import os


def available_cores() -> int:
    """Counts the cores that this process may use, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on some systems
    return len(affinity(0)) if affinity else os.cpu_count() or 1
