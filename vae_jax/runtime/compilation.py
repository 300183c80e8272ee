"""XLA's options and the cache of compiled programs, both set before anything is computed."""

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vae_jax.runtime.errors import describe

# Flags that make training faster on CPU, measured by `benchmarks/train_step.py`: matrix products
# by Eigen (the newer library is slower if the inner dimension is long), fewer passes over memory
# to update a parameter and its two moments, no copy of parameters that are updated in place.
_CPU_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type=",
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion",
    "--xla_cpu_copy_insertion_use_region_analysis=true",
)
# Flags that make programs repeat bit for bit on GPU: no atomic additions in any order, and no
# kernels chosen by their measured time, which another compilation would choose differently.
_GPU_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
_MIN_COMPILE_SECONDS = 0.1
# Options that decide which numbers are drawn and in which precision, whatever the environment.
_FIXED_OPTIONS = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    # The cores of a CPU take their parts of arrays that lie on the first.
    "jax_transfer_guard_device_to_device": "allow",
}
# Programs compiled with these flags that run side by side in two threads disturb each other's
# numbers on CPU (JAX 0.10.2: `--xla_cpu_experimental_ynn_fusion_type=` does it).
_one_at_a_time = threading.RLock()


def recorded_options() -> dict[str, Any]:
    """Returns the options that a user may set and that change results; a run records them."""
    precision = jax.config.values["jax_default_matmul_precision"]
    flags = os.environ.get("XLA_FLAGS", "")
    return {"jax_default_matmul_precision": precision, "XLA_FLAGS": flags}


def fix_options() -> None:
    """Sets the JAX options on which results depend, whatever the environment says."""
    for name, value in _FIXED_OPTIONS.items():
        jax.config.update(name, value)


@contextlib.contextmanager
def fixed_options() -> Iterator[None]:
    """Sets the options on which results depend, in this thread, while the context is open.

    Other threads wait; computations must be finished when the context closes.
    """
    with (
        _one_at_a_time,
        jax.enable_x64(_FIXED_OPTIONS["jax_enable_x64"]),
        jax.threefry_partitionable(_FIXED_OPTIONS["jax_threefry_partitionable"]),
        jax.transfer_guard_device_to_device(_FIXED_OPTIONS["jax_transfer_guard_device_to_device"]),
    ):
        yield


def set_cpu_flags() -> None:
    """Adds the flags that make training fast on CPU to `XLA_FLAGS`; the user's flags override."""
    _set_flags(_CPU_FLAGS)


def set_gpu_flags() -> None:
    """Adds the flags of repeatable results on GPU to `XLA_FLAGS`; the user's flags override.

    Does nothing if JAX cannot use a GPU: no plugin is installed, or the platform is the CPU.
    """
    plugins = " ".join(plugin.name for plugin in metadata.entry_points(group="jax_plugins"))
    has_plugin = any(name in plugins for name in ("cuda", "rocm"))
    if has_plugin and jax.config.values["jax_platforms"] != "cpu":
        _set_flags(_GPU_FLAGS)


def _set_flags(flags: Sequence[str]) -> None:
    # XLA takes the last of several values.
    os.environ["XLA_FLAGS"] = " ".join((*flags, os.environ.get("XLA_FLAGS", ""))).strip()


def cache_folder() -> Path:
    """Returns the folder of compiled programs: the user's cache folder, by instruction sets."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [f"flags: {platform.machine()}"]
    flags = "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return Path(caches) / "vae_jax" / hashlib.sha256(flags.encode()).hexdigest()[:12]


def _empty_if_damaged(folder: Path) -> None:
    """Empties the cache, with a line, when JAX warns that it cannot read a program.

    A killed process or a full disk leaves truncated programs, which JAX never writes again.
    """
    show = warnings.showwarning

    def show_or_empty(message: Warning | str, *arguments: Any, **named: Any) -> None:
        if "Error reading persistent compilation cache" in str(message):
            for path in folder.glob("*-cache"):
                path.unlink(missing_ok=True)
            print(f"{folder}: a program is damaged; the cache was emptied", file=sys.stderr)
        else:
            show(message, *arguments, **named)

    warnings.showwarning = show_or_empty


def use_cache() -> None:
    """Stores compiled programs on disk for the next start.

    A folder that the user gives JAX (`JAX_COMPILATION_CACHE_DIR`) is used unchanged. If the
    cache cannot be written, programs are compiled each time, and standard error says so.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        print(
            f"{describe(error)}, so programs are compiled each time; pass --nocompilation_cache "
            "to silence this",
            file=sys.stderr,
        )
        return
    _empty_if_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
