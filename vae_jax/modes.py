"""Modes of the command line: each is a module beside this file, which declares its flags.

A module `NAME.py` defines `MODE`; a line of `MODES` says what it works on. Nothing here imports a
mode before it is asked for: a mode imports JAX, and mistakes in a configuration are found without.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from absl.flags import FlagValues

from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import local_path

# The first arguments of a mode's function, by name of the mode:
CONFIG = "config"  # a configuration, and the path of a run directory
RUN = "run"  # a `RunDirectory`
FOLDER = "folder"  # the path of a folder of runs, and overrides of fields by dotted path
MODES = {
    "train": CONFIG,
    "evaluate": RUN,
    "sample": RUN,
    "interpolate": RUN,
    "encode": RUN,
    "reconstruct": RUN,
    "score": RUN,
    "explore": RUN,
    "export": RUN,
    "fit_prior": RUN,
    "experiments": FOLDER,
    "report": FOLDER,
}
# Flags that hold paths.
_PATHS = ("input", "output")


@dataclasses.dataclass(frozen=True)
class Mode:
    """What a mode's module declares.

    Attributes:
      function: the mode. Its first arguments are those that `MODES` says, the others are its flags.
      flags: the mode's own flags, named as the function's arguments.
      changes: groups of fields that may differ from the run's own, for a mode that takes a run.
      in_every_process: whether all processes of a run take part; else the first one alone does.
    """

    function: Callable[..., Any]
    flags: FlagValues = dataclasses.field(default_factory=FlagValues)
    changes: tuple[str, ...] = ()
    in_every_process: bool = False

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Parses the mode's own flags; returns those that were given, by name.

        Raises:
          UserError: a flag is unknown, has a wrong value, or is missing.
        """
        self.flags.unparse_flags()  # of an earlier call
        try:
            rest = self.flags(["mode", *arguments])[1:]
        except flags.UnrecognizedFlagError as error:
            raise UserError(_explain_unknown(error.flagname)) from error
        except (flags.Error, ValueError) as error:
            raise UserError(" ".join(str(error).split())) from error
        if rest:
            raise UserError(f"{rest[0]!r} is not understood; flags begin with --")
        given = {name: self.flags[name].value for name in self.flags if self.flags[name].present}
        for name in _PATHS:
            if path := given.get(name):
                local_path(f"--{name}", path)
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name in self.flags and name not in given and parameter.default is parameter.empty:
                raise UserError(f"--{name} is missing: {self.flags[name].help}")
        return given


def get_mode(name: str) -> Mode:
    """Imports a mode."""
    return importlib.import_module(f"vae_jax.{name}").MODE


def _explain_unknown(flag: str) -> str:
    """Says of a flag that the chosen mode does not have which modes have it."""
    modes = [name for name in MODES if flag in get_mode(name).flags]
    if modes:
        return f"--{flag} has no meaning in this mode, but in {', '.join(modes)}"
    return f"--{flag} is no flag; --help lists them, and with --mode=NAME those of a mode"


def run_flags(*, has_input: bool = False) -> FlagValues:
    """Returns the flags of a mode that uses a trained run: where files go, and perhaps images."""
    values = FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_string(
        "output",
        None,
        "Folder to write to, in place of the run directory.",
        flag_values=values,
    )
    if has_input:
        flags.DEFINE_string(
            "input",
            None,
            "Images: a folder, an .npz or an .npy.",
            flag_values=values,
        )
    return values


def train_flags() -> FlagValues:
    """Returns the flags of a mode that trains."""
    values = FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_bool(
        "lock_workdir",
        True,
        "Keep other processes from training in the run directory.",
        flag_values=values,
    )
    return values
