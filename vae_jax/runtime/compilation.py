"""How XLA compiles in this process, and where compiled programs are kept.

Both must be said before anything is computed.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

# What makes training faster on CPU, measured by `benchmarks/train_step.py`; other platforms
# ignore it. Matrix products by Eigen (the newer library is slower where the inner dimension
# is long), fewer passes over memory to update a parameter and its two moments, no copy of
# parameters that are updated in place.
_CPU_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type=",
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion",
    "--xla_cpu_copy_insertion_use_region_analysis=true",
)
_MIN_COMPILE_SECONDS = 0.1
# What decides which numbers are drawn, and in which precision: part of what a run is, so no
# matter of the environment.
_FIXED_OPTIONS = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
}
# What a user may set, and what changes results: recorded with a run.
_RECORDED_OPTIONS = ("jax_default_matmul_precision",)


def recorded_options() -> dict[str, Any]:
    """Returns the values of the options that are recorded with a run, and `XLA_FLAGS`."""
    options = {name: jax.config.values[name] for name in _RECORDED_OPTIONS}
    return options | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def fix_options() -> None:
    """Sets the JAX options on which results depend, whatever the environment says."""
    for name, value in _FIXED_OPTIONS.items():
        jax.config.update(name, value)


def set_cpu_flags() -> None:
    """Adds the flags that make training fast on CPU to `XLA_FLAGS`; the user's own win."""
    flags = (*_CPU_FLAGS, os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()


def _processor() -> str:
    """Reads the processor's instruction sets: a program compiled for others may not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))


def cache_folder() -> Path:
    """Returns where compiled programs are kept: the user's cache folder, by processor."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "vae_jax" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def use_cache() -> None:
    """Keeps compiled programs on disk for the next start.

    A folder the user has given JAX (`JAX_COMPILATION_CACHE_DIR`) is left as it is. Where none
    can be made, programs are compiled anew each time, and standard error says so.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = None
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # of a user without a home folder
        writable = False
    if not writable:
        problem = f"{folder}: cannot be written" if folder else "there is no home folder"
        print(
            f"{problem}, so programs are compiled anew; --nocompilation_cache says this is meant",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
