"""Variational autoencoders of MNIST digits.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

trains; the same command again resumes. Any field of the configuration can be set:
--config.train.num_epochs=5. A mode other than train may leave --config out: it takes the
configuration the run directory holds.
"""

import importlib
import re
import signal
import sys
from pathlib import Path

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from vae_jax import configuration, interrupts, run_directory
from vae_jax.errors import UserError, check_choice

# Each mode's module and function; imported when called, so that --help need not wait for JAX.
_MODES = {
    "train": ("vae_jax.train", "train_and_evaluate"),
    "evaluate": ("vae_jax.evaluate", "evaluate"),
    "sample": ("vae_jax.evaluate", "sample"),
    "interpolate": ("vae_jax.evaluate", "interpolate"),
}

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory.")
_MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(_MODES)}.")
_COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache", True, "Keep compiled programs in the user's cache folder."
)

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_NEGATION_WITH_VALUE = re.compile(r"--?noconfig\.[^=]*=")


def _explain(error: flags.Error) -> str:
    """A flag parser's error, with what the field it is about allows."""
    message = " ".join(str(error).split())
    if named := _OVERRIDE.search(message):
        path = named[1].split()[0]
        default_value = run_directory.flatten(default.get_config().to_dict()).get(path)
        message += f"; {path} must be {configuration.describe_type(default_value)}"
    return message


def _config_file_error(error: Exception) -> UserError:
    # An error in the file comes with a traceback: its last line says what is wrong.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    last_line = lines[-1].strip()
    return UserError(f"the file that --config names cannot be used: {last_line}")


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; any mistake in it is a UserError."""
    overridden = [match[1] for argument in argv[1:] if (match := _OVERRIDE.match(argument))]
    for path in overridden:
        configuration.check_field(path, default.get_config())
    if overridden and not any(re.match(r"--?config(=|$)", argument) for argument in argv):
        raise UserError(f"--config.{overridden[0]} needs --config=FILE too, the file it changes")
    if negated := [argument for argument in argv[1:] if _NEGATION_WITH_VALUE.match(argument)]:
        raise UserError(f"{negated[0]}: what begins with --no takes no value")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        in_file = "Traceback" in str(error)
        raise _config_file_error(error) if in_file else UserError(_explain(error)) from error
    except (RecursionError, MemoryError) as error:  # how Python's parser gives up on "((((...
        raise UserError(
            "a value on the command line or the configuration file is nested too deeply; "
            "values are numbers, names and tuples of numbers"
        ) from error
    except Exception as error:  # whatever the configuration file's own code raises
        raise _config_file_error(error) from error


def _config(mode: str, workdir: Path) -> ml_collections.ConfigDict:
    """The configuration to use, checked."""
    if flags.FLAGS["config"].present:
        try:
            fields = _CONFIG.value.to_dict()
        except Exception as error:  # get_config returned something else, or there is no file
            raise _config_file_error(error) from error
    elif mode != "train":
        fields = run_directory.held_config(workdir)
    else:
        raise UserError("--config is missing; give a file, e.g. --config=configs/baseline.py")
    return configuration.from_dict(fields, default.get_config())


def _run(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"{arguments[1]!r} is not understood; flags begin with --")
    mode = _MODE.value
    check_choice("--mode", mode, [*_MODES])
    if not _WORKDIR.value:
        raise UserError(
            "--workdir is missing; give the run directory, e.g. --workdir=runs/baseline"
        )
    workdir = Path(_WORKDIR.value).expanduser()
    config = _config(mode, workdir)
    compilation = importlib.import_module("vae_jax.compilation")
    compilation.set_cpu_flags()
    if _COMPILATION_CACHE.value:
        compilation.use_cache()
    devices, faults = (importlib.import_module(f"vae_jax.{name}") for name in ("devices", "faults"))
    devices.connect()
    if mode != "train" and not devices.is_first_process():
        return  # what the others could do, the first does
    module, function = _MODES[mode]
    with faults.told_in_one_line(config):
        getattr(importlib.import_module(module), function)(config, workdir)


def main(arguments: list[str]) -> None:
    """Runs the mode the flags name."""
    logging.set_verbosity(logging.WARNING)  # the checkpoint library reports every save at INFO
    interrupts.raise_on_sigterm()
    try:
        _run(arguments)
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        _interrupted(signal.SIGINT, "")
    except interrupts.Interrupted as interrupted:
        _interrupted(interrupted.signal_number, str(interrupted))


def _interrupted(signal_number: int, message: str) -> None:
    name = signal.Signals(signal_number).name
    line = "; ".join(filter(None, (f"ended by {name}", message, "the same command goes on")))
    print(line, file=sys.stderr)
    sys.exit(128 + signal_number)


def _fail(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def _parse_or_fail(argv: list[str]) -> list[str]:
    try:
        return _parse_flags(argv)
    except UserError as error:
        _fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_or_fail)
