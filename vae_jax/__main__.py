"""The command line: `python -m vae_jax`, and `python main.py` in a source tree.

  python -m vae_jax --config=quickstart --workdir=runs/quickstart

trains; the same command again resumes, and --config.train.num_epochs=5 sets a field.

  python -m vae_jax --mode=reconstruct --workdir=runs/quickstart --input=photos/ --output=out

uses the trained model on your own images. --mode=NAME --help lists a mode's own flags.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from vae_jax import command_line, configuration, modes
from vae_jax.runtime import interrupts
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import local_path
from vae_jax.training.run_directory import RunDirectory

_MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(modes.MODES)}.")
_CONFIG = flags.DEFINE_string("config", None, "Configuration: a file or a name in configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; in two modes, a folder of run directories."
)
_COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache", True, "Store compiled programs in the user's cache folder."
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", True, "Compute repeatable results on GPU, perhaps more slowly."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of the run: SLURM, Kubernetes, MPI, TPU."
)
_HELP = ("--help", "-help", "--helpshort", "-helpshort", "-?")


def _run(name: str, workdir: Path, arguments: Sequence[str]) -> None:
    """Runs a mode: checks the configuration, then imports the mode and JAX."""
    takes = modes.MODES[name]
    run = RunDirectory.open(workdir) if takes == modes.RUN else None
    if _CONFIG.value is not None and takes == modes.FOLDER:
        raise UserError(f"--config has no meaning in --mode={name}, which takes several runs")
    if _CONFIG.value is not None:
        fields = configuration.flatten(command_line.load_config(_CONFIG.value))
    elif run:
        fields = configuration.flatten(run.config.to_dict())
    elif takes == modes.FOLDER:
        fields = configuration.default_fields()
    else:
        raise UserError("--config is missing; give a file, e.g. --config=configs/baseline.py")
    overrides, rest = command_line.read_overrides(arguments, fields)
    config = configuration.from_dict(fields, overrides)
    mode = modes.get_mode(name)
    given = mode.parse(rest)
    first_arguments: tuple[Any, ...] = (workdir, overrides)
    if run:
        first_arguments = (run.with_config(config, mode.changes),)
    elif takes == modes.CONFIG:
        first_arguments = (config, workdir)
    is_first_process = _start_jax()
    from vae_jax.runtime.system_errors import system_errors_as_user_errors

    batch_size = config.train.batch_size if takes == modes.CONFIG else 0
    if is_first_process or mode.in_every_process:
        with system_errors_as_user_errors(batch_size):
            mode.function(*first_arguments, **given)


def _start_jax() -> bool:
    """Initializes JAX; returns whether this is the first process of the run."""
    from vae_jax.runtime import compilation, devices, division

    compilation.fix_options()
    compilation.set_cpu_flags()
    if _DETERMINISTIC.value:
        compilation.set_gpu_flags()
    if _COMPILATION_CACHE.value:
        compilation.use_cache()
    devices.connect(_DISTRIBUTED.value)
    division.offer_cores()
    devices.check_platform()
    return devices.is_first_process()


def _main(arguments: Sequence[str]) -> None:
    """Runs the mode of the flags; `arguments` is the rest of the command line."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    interrupts.exit_on_signal()
    try:
        check_choice("--mode", _MODE.value, [*modes.MODES])
        if not _WORKDIR.value:
            raise UserError("--workdir is missing; give a run directory, e.g. runs/baseline")
        _run(_MODE.value, local_path("--workdir", _WORKDIR.value), arguments)
    except UserError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("vae_jax"):
            raise
        package = error.name.partition(".")[0]
        _fail(UserError(f"{package} is not installed; run pip install 'vae-jax[all]'"))
    except interrupts.Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupts.status(interrupted.signal_number))


def _fail(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags that all modes share; returns the other arguments."""
    # Absl obeys --help before it reads a later --mode.
    others = [argument for argument in argv if argument not in _HELP]
    try:
        rest = command_line.parse_known(others, flags.FLAGS)
    except UserError as error:
        _fail(error)
    if len(others) < len(argv):
        _print_help()
    return rest


def _print_help() -> NoReturn:
    """Prints the docstring, the flags of all modes and those of the given mode."""
    shown = [_MODE, _CONFIG, _WORKDIR, _COMPILATION_CACHE, _DETERMINISTIC, _DISTRIBUTED]
    names = [flag.name for flag in shown]
    if flags.FLAGS["mode"].present and _MODE.value in modes.MODES:
        of_mode = modes.get_mode(_MODE.value).flags
        flags.FLAGS.append_flag_values(of_mode)
        names += list(of_mode)
    for name in names:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.usage(shorthelp=True, writeto_stdout=True)
    sys.exit(1)  # as absl does


def escape_what_cannot_be_encoded() -> None:
    """Escapes characters that an output's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Runs the command line of this process."""
    escape_what_cannot_be_encoded()
    with interrupts.quiet_without_reader():
        app.run(_main, flags_parser=_parse_flags)


if __name__ == "__main__":
    main()
