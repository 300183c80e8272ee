"""Variational autoencoders of MNIST digits.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

trains; the same command again resumes. Any field of the configuration can be set:
--config.train.num_epochs=5. A mode other than train may leave --config out: it takes the
configuration the run directory holds.

  python main.py --mode=experiments --workdir=runs

trains the seven configurations, or those that --configs names, and writes a report of all runs in
that folder; --mode=report writes the report alone.
"""

import importlib
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from vae_jax import configuration
from vae_jax.runtime import interrupts
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.training import run_directory

# Each mode's module and function; imported when called, so that --help need not wait for JAX.
# Of one run, with its configuration and run directory:
_RUN_MODES = {
    "train": ("vae_jax.train", "train_and_evaluate"),
    "evaluate": ("vae_jax.evaluate", "evaluate"),
    "sample": ("vae_jax.sample", "sample"),
    "interpolate": ("vae_jax.interpolate", "interpolate"),
}
# Of a folder of runs:
_FOLDER_MODES = ("experiments", "report")
_MODES = (*_RUN_MODES, *_FOLDER_MODES)
_SEVEN = (
    "baseline",
    "deeper_decoder",
    "dropout",
    "deeper_dropout",
    "dense_encoder",
    "optimized",
    "published",
)

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_CONFIGS = flags.DEFINE_list("configs", None, "Mode experiments: names of files in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a folder of them in two modes.")
_MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(_MODES)}.")
_COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache", True, "Keep compiled programs in the user's cache folder."
)

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
_MODE_FLAGS = ("--mode", "-mode")
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
    overridden = _overridden(argv)
    for path in overridden:
        configuration.check_field(path, default.get_config())
    has_file = _names_file(argv)
    if overridden and not has_file and _names_folder_mode(argv):
        # What is set there is set in every configuration: it is read as a change of the default.
        argv = [argv[0], f"--config={default.__file__}", *argv[1:]]
    elif overridden and not has_file:
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


def _overridden(argv: list[str]) -> list[str]:
    """The fields that --config.FIELD arguments set, by dotted path."""
    return [match[1] for argument in argv[1:] if (match := _OVERRIDE.match(argument))]


def _names_file(argv: list[str]) -> bool:
    return any(re.match(r"--?config(=|$)", argument) for argument in argv)


def _names_folder_mode(argv: list[str]) -> bool:
    """Whether arguments not yet parsed name a mode for a folder of runs."""
    values = [value for flag, value in itertools.pairwise(argv) if flag in _MODE_FLAGS]
    values += [match[1] for argument in argv if (match := re.match(r"--?mode=(.*)", argument))]
    return bool(values) and values[-1] in _FOLDER_MODES


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


def _workdir() -> Path:
    if not _WORKDIR.value:
        raise UserError(
            "--workdir is missing; give the run directory, e.g. --workdir=runs/baseline"
        )
    return Path(_WORKDIR.value).expanduser()


def _start() -> tuple[ModuleType, ModuleType]:
    """Makes JAX ready; returns the modules that know of devices and of faults."""
    compilation = importlib.import_module("vae_jax.runtime.compilation")
    compilation.set_cpu_flags()
    if _COMPILATION_CACHE.value:
        compilation.use_cache()
    devices, faults = (
        importlib.import_module(f"vae_jax.runtime.{name}") for name in ("devices", "system_errors")
    )
    devices.connect()
    return devices, faults


def _run_one(mode: str, workdir: Path) -> None:
    """A mode of one run."""
    if _CONFIGS.value is not None:
        raise UserError("--configs belongs to --mode=experiments; here it is --config=FILE")
    config = _config(mode, workdir)
    devices, faults = _start()
    if mode != "train" and not devices.is_first_process():
        return  # what the others could do, the first does
    module, function = _RUN_MODES[mode]
    with faults.told_in_one_line(config):
        getattr(importlib.import_module(module), function)(config, workdir)


def _named_configs() -> dict[str, ml_collections.ConfigDict]:
    """Every configuration in configs/ but the default under two names; the seven first."""
    stems = {path.stem for path in Path(default.__file__).parent.glob("*.py")}
    names = [*_SEVEN, *sorted(stems - {*_SEVEN, "default", "__init__"})]
    return {name: importlib.import_module(f"configs.{name}").get_config() for name in names}


def _overrides() -> dict[str, Any]:
    """The fields set on the command line, by dotted path."""
    if not flags.FLAGS["config"].present:
        return {}
    fields = run_directory.flatten(_CONFIG.value.to_dict())
    return {path: fields[path] for path in _overridden(sys.argv)}


def _run_folder(mode: str, workdir: Path) -> None:
    """A mode of a folder of runs."""
    overrides, named, schema = _overrides(), _named_configs(), default.get_config()
    if _names_file(sys.argv):
        raise UserError(f"--config has no meaning in --mode={mode}; --configs names configurations")
    if mode == "report":
        if _CONFIGS.value is not None:
            raise UserError("--configs belongs to --mode=experiments; a report is of all runs")
        if strange := [path for path in overrides if path not in run_directory.LOCATION_FIELDS]:
            raise UserError(
                f"--config.{strange[0]} has no meaning in --mode=report, where only "
                f"{' and '.join(run_directory.LOCATION_FIELDS)} can be set"
            )
        devices, faults = _start()
        if not devices.is_first_process():
            return
        with faults.told_in_one_line(schema):
            importlib.import_module("vae_jax.report").write(workdir, named, schema, overrides)
        return
    names = _SEVEN if _CONFIGS.value is None else _CONFIGS.value
    for name in names:
        check_choice("--configs", name, [*named])
    _, faults = _start()
    with faults.told_in_one_line(schema):
        importlib.import_module("vae_jax.experiments").run(workdir, names, named, schema, overrides)


def _run(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"{arguments[1]!r} is not understood; flags begin with --")
    mode = _MODE.value
    check_choice("--mode", mode, _MODES)
    run = _run_folder if mode in _FOLDER_MODES else _run_one
    run(mode, _workdir())


def main(arguments: list[str]) -> None:
    """Runs the mode the flags name."""
    logging.set_verbosity(logging.WARNING)  # the checkpoint library reports every save at INFO
    interrupts.end_at_once()
    try:
        _run(arguments)
    except UserError as error:
        _fail(error)
    except interrupts.Interrupted as interrupted:
        number = interrupted.signal_number
        print(interrupts.last_line(number, str(interrupted)), file=sys.stderr)
        sys.exit(interrupts.status(number))


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
