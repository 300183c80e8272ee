"""Configurations from the command line: the file that --config names, and single fields.

Imports no JAX, so that a mistake is answered at once.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from vae_jax import configuration, shipped_configs
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path


def parse_known(argv: Sequence[str], known: flags.FlagValues) -> list[str]:
    """Parses the flags that are known; returns the program's name and the other arguments.

    Raises:
      UserError: a flag lacks its value, or has a wrong one; a file of flags cannot be read.
    """
    known.set_gnu_getopt(True)
    try:
        arguments = known.read_flags_from_files(argv[1:])
        separate = (part for argument in arguments for part in _separate(argument))
        return known([argv[0], *separate], known_only=True)
    except UnicodeDecodeError as error:
        raise UserError(f"the file that --flagfile names is no text ({error})") from error
    except (flags.Error, ValueError) as error:
        raise UserError(" ".join(str(error).split()).removeprefix("ERROR:: ")) from error


def _separate(argument: str) -> list[str]:
    """Takes a flag and its value apart that are a line of a file, a space between them."""
    found = re.fullmatch(r"(--?[\w.]+)[ \t]+(.+)", argument)
    return [*found.groups()] if found else [argument]


def load_config(path: str) -> dict[str, Any]:
    """Loads a configuration, as nested dictionaries.

    Args:
      path: of a file, or the name of a file in `configs/`.

    Raises:
      UserError: whatever the file's code raises, or it describes something else.
    """
    if path in shipped_configs.get_names():
        return shipped_configs.get_config(path).to_dict()
    expanded = str(local_path("--config", path))
    try:
        return ConfigFileFlagParser("config").parse(expanded).to_dict()
    except Exception as error:
        # With a traceback in it: its last line says what is wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the file that --config names cannot be used: {lines[-1].strip()}"
        ) from error


def read_overrides(
    arguments: Sequence[str], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Reads the arguments that set single fields of a configuration.

    Args:
      arguments: the part of the command line that `parse_known` returns, the program's name first.
      fields: the configuration that is changed, by dotted path, valid or not.

    Returns:
      The values by dotted path; and the arguments that are about something else.

    Raises:
      UserError: an argument names no field, or has a wrong type.
    """
    for argument in arguments[1:]:
        name = argument.lstrip("-").partition("=")[0].removeprefix("no")
        if argument.startswith("-") and name.startswith("config."):
            configuration.check_field(name.removeprefix("config."))
    config = shipped_configs.get_config()
    # Values are checked when the overrides are in: a file may leave some of them to these.
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
        raise UserError(_explain(" ".join(str(error).split()))) from error
    except (RecursionError, MemoryError) as error:  # how Python's parser gives up on "((((...
        raise UserError(
            "a value on the command line is nested too deeply; values are numbers, names and "
            "tuples of numbers"
        ) from error
    return config_flags.get_override_values(parsed["config"]), rest


def _explain(message: str) -> str:
    """Adds to a flag parser's error what the field it is about allows."""
    named = re.search(r"--?(?:no)?config\.([^=\s]*)", message)
    if not named:
        return message
    default = configuration.default_fields().get(named[1])
    return f"{message}; {named[1]} must be {configuration.describe_type(default)}"
