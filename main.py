"""Variational autoencoders in JAX and Flax.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

trains; the same command again resumes. Any field of the configuration can be set:
--config.train.num_epochs=5. A mode other than train may leave --config out: it takes the
configuration that the run directory holds.

  python main.py --mode=reconstruct --workdir=runs/quickstart --input=photos/ --output=out

uses a trained model on images of your own; nothing but --output is written to.

  python main.py --mode=experiments --workdir=runs

trains the reference configurations, or those that --configs names, and writes a report of all
runs in that folder; --mode=report writes the report alone.
"""

import functools
import importlib
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from configs import REFERENCE_CONFIGS, default, get_configs_by_name
from vae_jax import command_line, configuration
from vae_jax.runtime import interrupts, output
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import local_path
from vae_jax.training import run_directory

_FOLDER_MODES = ("experiments", "report")
_RUN_MODES = (
    *("train", "evaluate", "sample", "interpolate"),
    *("encode", "reconstruct", "explore", "export", "fit_prior"),
)
_MODES = (*_RUN_MODES, *_FOLDER_MODES)

_CONFIG = flags.DEFINE_string("config", None, "Configuration file, see configs/.")
_CONFIGS = flags.DEFINE_list("configs", None, "Mode experiments: names of files in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a folder of them in two modes.")
_INPUT = flags.DEFINE_string("input", None, "Images: a folder, an .npz or an .npy.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to, in place of the run directory.")
_NUM = flags.DEFINE_integer("num", None, "Mode sample: how many images.", 1)
_SEED = flags.DEFINE_integer("seed", None, "Mode sample: decides the images.", 0, 2**32 - 1)
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


# Which modes of one run take a flag, and the argument it is.
_ARGUMENTS = (
    (_INPUT, "input", ("interpolate", "encode", "reconstruct")),
    (_OUTPUT, "output", tuple(mode for mode in _RUN_MODES if mode != "train")),
    (_NUM, "num_images", ("sample",)),
    (_SEED, "seed", ("sample",)),
)


def _read_arguments(mode: str) -> dict[str, Any]:
    """Returns what the flags of single modes say."""
    given = {}
    for flag, name, modes in _ARGUMENTS:
        if flag.value is not None:
            if mode not in modes:
                raise UserError(
                    f"--{flag.name} has no meaning in --mode={mode}, but in {', '.join(modes)}"
                )
            given[name] = flag.value
    for name in ("input", "output"):
        if name in given:
            local_path(f"--{name}", given[name])
    if mode == "reconstruct" and "input" not in given:
        raise UserError("--input is missing; give a folder of images, an .npz or an .npy file")
    return given


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
    given = _read_arguments(mode)
    is_first_process = _start_jax()
    if is_first_process:
        # Of what the run directory holds it was said when that was trained.
        configuration.warn_without_effect(config, schema, None if mode == "train" else overrides)
    from vae_jax.runtime.system_errors import system_errors_as_user_errors

    module = importlib.import_module(f"vae_jax.{mode}")
    if mode == "train":
        run = functools.partial(module.train_and_evaluate, lock=_LOCK_WORKDIR.value)
    else:
        run = getattr(module, mode)
    # What the other processes could do, the first does.
    if is_first_process or mode == "train":
        batch_size = config.train.batch_size if mode == "train" else 0
        with system_errors_as_user_errors(batch_size, config.train.num_replicas):
            run(config, workdir, **given)


def _run_folder(mode: str, workdir: Path, arguments: list[str]) -> None:
    """Runs a mode of a folder of runs."""
    if _CONFIG.value is not None:
        raise UserError(f"--config has no meaning in --mode={mode}; --configs names configurations")
    if mode == "report" and _CONFIGS.value is not None:
        raise UserError("--configs belongs to --mode=experiments; a report is of all runs")
    schema, configs_by_name = default.get_config(), get_configs_by_name()
    overrides = command_line.read_overrides(arguments, schema.to_dict(), schema)
    _read_arguments(mode)  # none is of these modes
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
