"""Configurations from the command line: the file of --config, and fields. Imports no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from vae_jax import configuration, shipped_configs
from vae_jax.runtime.errors import UserError, closest_match
from vae_jax.runtime.files import local_path


def parse_known(argv: Sequence[str], known: flags.FlagValues) -> list[str]:
    """Parses known flags; returns the program's name and the other arguments.

    Raises:
      UserError: a flag lacks its value, or has a wrong one; a file of flags cannot be read.
    """
    known.set_gnu_getopt(True)
    try:
        return known(argv, known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(" ".join(str(error).split()).removeprefix("ERROR:: ")) from error


def load_config(path: str) -> dict[str, Any]:
    """Loads a configuration, a file or a name in `configs/`, as nested dictionaries.

    Raises:
      UserError: the file's code fails, or it does not define a configuration.
    """
    if path in shipped_configs.get_names():
        return shipped_configs.get_config(path).to_dict()
    expanded = str(local_path("--config", path))
    try:
        return ConfigFileFlagParser("config").parse(expanded).to_dict()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]  # with a traceback
        reason = lines[-1].strip()
        if "/" not in path and not path.endswith(".py"):
            reason += f"; closest match: {closest_match(path, shipped_configs.get_names())}"
        raise UserError(f"cannot use the file that --config names: {reason}") from error


def read_overrides(
    arguments: Sequence[str], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Reads the arguments that set single fields of a configuration, the `fields` by dotted path.

    The arguments are the result of `parse_known`. Returns the values by dotted path, and the other
    arguments.

    Raises:
      UserError: an argument does not name a field, or has a wrong type.
    """
    for argument in arguments[1:]:
        name = argument.lstrip("-").partition("=")[0].removeprefix("no")
        if argument.startswith("-") and name.startswith("config."):
            configuration.check_field(name.removeprefix("config."))
    config = shipped_configs.get_config()
    configuration.check_types(fields)
    config.update_from_flattened_dict(fields)
    parsed = flags.FlagValues()
    parsed.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=parsed, sys_argv=list(arguments)
        )
        rest = parsed(arguments, known_only=True)[1:]
    except (flags.Error, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    except (RecursionError, MemoryError) as error:  # Python's parser, of "((((...
        raise UserError("a value on the command line is nested too deeply") from error
    return config_flags.get_override_values(parsed["config"]), rest
