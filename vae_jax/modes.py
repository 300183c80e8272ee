"""Modes of the command line: each is a module beside this file, which declares its flags.

A module `NAME.py` defines `MODE`; a line of `MODES` names its first arguments. Modes are imported
when they are called: they import JAX, and mistakes in a configuration are found without it.
"""

import dataclasses
import functools
import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from absl.flags import FlagValues

from vae_jax.runtime.errors import UserError
from vae_jax.training.run_directory import RunDirectory

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


@dataclasses.dataclass(frozen=True)
class Mode:
    """A mode, as its module declares it."""

    function: Callable[..., Any]  # of the first arguments that `MODES` names, and its flags
    flags: FlagValues = dataclasses.field(default_factory=FlagValues)
    changes: tuple[str, ...] = ()  # groups of fields that may differ from those of the run
    in_every_process: bool = False  # else the first process alone runs it

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Parses the mode's own flags; returns those that were given, by name.

        Raises:
          UserError: a flag is unknown, has a wrong value, or is missing.
        """
        self.flags.unparse_flags()  # of an earlier call
        self.flags.set_gnu_getopt(True)
        try:
            rest = self.flags(["mode", *arguments])[1:]
        except (flags.Error, ValueError) as error:
            raise UserError(" ".join(str(error).split())) from error
        if rest:
            raise UserError(f"{rest[0]!r} is not understood; flags begin with --")
        given = {name: self.flags[name].value for name in self.flags if self.flags[name].present}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.default is parameter.empty and name in self.flags and name not in given:
                raise UserError(f"--{name} is missing; give {self.flags[name].help}")
        return given


def get_mode(name: str) -> Mode:
    """Imports a mode."""
    return importlib.import_module(f"vae_jax.{name}").MODE


def run_mode(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a mode of a function of a `TrainedRun` and flags; `names` are the files it writes.

    The mode takes a `RunDirectory`, and the folder `output` beside the flags. It restores the
    best epoch, makes the folder and records the names there; the folder is the run directory if
    `output` is None.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def mode(
            source: RunDirectory, output: str | os.PathLike[str] | None = None, **given: Any
        ) -> None:
            from vae_jax.evaluation.trained_run import restore_to_write

            function(restore_to_write(source, output, names), **given)

        return mode

    return decorate


def run_flags(*, has_input: bool = False) -> FlagValues:
    """Returns the flags of a mode that uses a trained run: `--output`, and perhaps `--input`."""
    values = FlagValues()
    text = "Folder to write to, in place of the run directory."
    flags.DEFINE_string("output", None, text, flag_values=values)
    if has_input:
        text = "a folder of image files, an .npz or an .npy"
        flags.DEFINE_string("input", None, text, flag_values=values)
    return values


def train_flags() -> FlagValues:
    """Returns the flags of a mode that trains."""
    values = FlagValues()
    text = "Keep other processes from training in the run directory."
    flags.DEFINE_bool("lock_workdir", True, text, flag_values=values)
    return values
