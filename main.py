"""Variational autoencoders in JAX and Flax.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

trains; the same command again resumes. Any field of the configuration can be set:
--config.train.num_epochs=5. A mode other than train may leave --config out: it takes the
configuration that the run directory holds.

  python main.py --mode=experiments --workdir=runs

trains the reference configurations, or those that --configs names, and writes a report of all
runs in that folder; --mode=report writes the report alone.
"""

import functools
import sys
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from configs import REFERENCE_CONFIGS, default, get_configs_by_name
from vae_jax import command_line, configuration
from vae_jax.runtime import interrupts, output
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import local_path
from vae_jax.training import run_directory

_FOLDER_MODES = ("experiments", "report")
_MODES = ("train", "evaluate", "sample", "interpolate", "explore", *_FOLDER_MODES)

_CONFIG = flags.DEFINE_string("config", None, "Configuration file, see configs/.")
_CONFIGS = flags.DEFINE_list("configs", None, "Mode experiments: names of files in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a folder of them in two modes.")
_MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(_MODES)}.")
_COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache", True, "Keep compiled programs in the user's cache folder."
)
_DETECT_CLUSTER = flags.DEFINE_bool(
    "detect_cluster", True, "Look for other processes of the run: SLURM, Kubernetes, MPI, TPU."
)
_LOCK_WORKDIR = flags.DEFINE_bool(
    "lock_workdir", True, "Keep other processes from training in the run directory."
)


def _run_one(mode: str, workdir: Path, arguments: list[str]) -> None:
    """Runs a mode of one run."""
    if _CONFIGS.value is not None:
        raise UserError("--configs belongs to --mode=experiments; here it is --config=FILE")
    path, schema = _CONFIG.value, default.get_config()
    if path is None and mode == "train":
        raise UserError("--config is missing; give a file, e.g. --config=configs/baseline.py")
    fields = command_line.load_file(path) if path else run_directory.read_config(workdir)
    overrides = command_line.read_overrides(arguments, fields, schema)
    config = configuration.from_dict(fields, schema, overrides)
    is_first_process = _start_jax()
    if is_first_process:
        # Of what the run directory holds it was said when that was trained.
        configuration.warn_without_effect(config, schema, None if mode == "train" else overrides)
    from vae_jax import evaluate, explore, interpolate, sample, train
    from vae_jax.runtime.system_errors import system_errors_as_user_errors

    run = {
        "train": functools.partial(train.train_and_evaluate, lock=_LOCK_WORKDIR.value),
        "evaluate": evaluate.evaluate,
        "sample": sample.sample,
        "interpolate": interpolate.interpolate,
        "explore": explore.explore,
    }[mode]
    # What the other processes could do, the first does.
    if is_first_process or mode == "train":
        batch_size = config.train.batch_size if mode == "train" else 0
        with system_errors_as_user_errors(batch_size, config.train.num_replicas):
            run(config, workdir)


def _run_folder(mode: str, workdir: Path, arguments: list[str]) -> None:
    """Runs a mode of a folder of runs."""
    if _CONFIG.value is not None:
        raise UserError(f"--config has no meaning in --mode={mode}; --configs names configurations")
    if mode == "report" and _CONFIGS.value is not None:
        raise UserError("--configs belongs to --mode=experiments; a report is of all runs")
    schema, configs_by_name = default.get_config(), get_configs_by_name()
    overrides = command_line.read_overrides(arguments, schema.to_dict(), schema)
    is_first_process = _start_jax()
    from vae_jax import experiments, report
    from vae_jax.runtime.system_errors import system_errors_as_user_errors

    with system_errors_as_user_errors():
        if mode == "experiments":
            names = REFERENCE_CONFIGS if _CONFIGS.value is None else _CONFIGS.value
            lock = _LOCK_WORKDIR.value
            experiments.run_experiments(workdir, names, configs_by_name, schema, overrides, lock)
        elif is_first_process:
            report.write_report(workdir, configs_by_name, schema, overrides)


def _start_jax() -> bool:
    """Makes JAX ready; tells whether this is the first process of the run."""
    from vae_jax.runtime import compilation, devices

    compilation.fix_options()
    compilation.set_cpu_flags()
    if _COMPILATION_CACHE.value:
        compilation.use_cache()
    devices.connect(_DETECT_CLUSTER.value)
    devices.check_platform()
    return devices.is_first_process()


def main(arguments: list[str]) -> None:
    """Runs the mode that the flags name; the arguments are what is left of the command line."""
    logging.set_verbosity(logging.WARNING)  # the checkpoint library reports every save at INFO
    interrupts.exit_on_signal()
    try:
        check_choice("--mode", _MODE.value, _MODES)
        if not _WORKDIR.value:
            raise UserError("--workdir is missing; give a run directory, e.g. runs/baseline")
        run = _run_folder if _MODE.value in _FOLDER_MODES else _run_one
        run(_MODE.value, local_path("--workdir", _WORKDIR.value), arguments)
    except UserError as error:
        _fail(error)
    except interrupts.Interrupted as interrupted:
        number = interrupted.signal_number
        print(interrupts.last_line(number, str(interrupted)), file=sys.stderr)
        sys.exit(interrupts.status(number))


def _fail(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses all flags but those that set fields of a configuration, which it returns."""
    try:
        return command_line.parse_known(argv, flags.FLAGS)
    except UserError as error:
        _fail(error)


if __name__ == "__main__":
    output.escape_what_cannot_be_encoded()
    with output.quiet_without_reader():
        app.run(main, flags_parser=parse_flags)
