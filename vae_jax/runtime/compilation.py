"""How XLA compiles in this process, and where compiled programs are kept.

Both must be said before anything is computed.
"""

import contextlib
import hashlib
import importlib
import os
import platform
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
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
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how its files begin (RFC 8878)
# What decides which numbers are drawn, and in which precision: part of what a run is, so no
# matter of the environment.
_FIXED_OPTIONS = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
}
# Programs compiled with these flags that run side by side in two threads disturb each other's
# numbers on CPU (JAX 0.10.2: `--xla_cpu_experimental_ynn_fusion_type=` does it).
_one_at_a_time = threading.RLock()
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


@contextlib.contextmanager
def fixed_options() -> Iterator[None]:
    """Has the options on which results depend in this thread, and only until it is left.

    What is computed meanwhile must be done when it is left: other threads wait for that.
    """
    with (
        _one_at_a_time,
        jax.enable_x64(_FIXED_OPTIONS["jax_enable_x64"]),
        jax.threefry_partitionable(_FIXED_OPTIONS["jax_threefry_partitionable"]),
    ):
        yield


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


def _remove_damaged(folder: Path) -> None:
    """Removes the programs that a killed process or a full disk left half-written.

    JAX itself writes them in place, and never again where there is one. Those that were written
    since the last look are looked at. What another process is writing just then it writes anew.
    """
    with contextlib.suppress(OSError):
        marker = folder / "looked_at"
        last = marker.stat().st_mtime if marker.exists() else 0.0
        # Its time is the file system's, which may not be this machine's.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as beginning:
            pass
        for path in folder.glob("*-cache"):
            if path.stat().st_mtime >= last and not _is_whole(path):
                path.unlink()
        os.replace(beginning.name, marker)


def _is_whole(path: Path) -> bool:
    """Tells whether a compressed program ends where it should; its format has a checksum."""
    content = path.read_bytes()
    try:
        decompressor = _decompressor(content)
    except ImportError:  # of another installation, which can read it
        return True
    try:
        decompressor.decompress(content)
    except Exception:  # each library has an error of its own
        return False
    return decompressor.eof


def _decompressor(content: bytes) -> Any:
    """Returns what undoes the compression that JAX chose: the best that is installed."""
    if not content.startswith(_ZSTANDARD):
        return zlib.decompressobj()
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdDecompressor()
    return importlib.import_module("zstandard").ZstdDecompressor().decompressobj()


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
    if folder is None or not writable:
        problem = f"{folder}: cannot be written" if folder else "there is no home folder"
        print(
            f"{problem}, so programs are compiled anew; --nocompilation_cache says this is meant",
            file=sys.stderr,
        )
        return
    _remove_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
