"""The configurations in `configs/` by name, in a source tree or an installed package."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from vae_jax.runtime.errors import check_choice

# Configurations that are compared with the reference project, in the order of the tables.
REFERENCE_CONFIGS = (
    "baseline",
    "deeper_decoder",
    "dropout",
    "deeper_dropout",
    "dense_encoder",
    "optimized",
    "reference",
)
_DEFAULT = "default"


def _folder() -> Path:
    """Returns the folder `configs`: inside an installed package, beside it in a source tree."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def get_names() -> list[str]:
    """Lists the configurations except the default, the reference configurations first."""
    stems = {path.stem for path in _folder().glob("*.py")}
    return [*REFERENCE_CONFIGS, *sorted(stems - {*REFERENCE_CONFIGS, _DEFAULT, "__init__"})]


@functools.cache
def _load(name: str) -> ModuleType:
    path = _folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"vae_jax_configs_{name}", path)
    assert spec and spec.loader  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_config(name: str = _DEFAULT) -> ml_collections.ConfigDict:
    """Returns a configuration, whose fields can be set: `config.train.num_epochs = 5`.

    Args:
      name: of a file in `configs/`, such as "baseline".

    Raises:
      UserError: there is no such configuration.
    """
    check_choice("the name of the configuration", name, [_DEFAULT, *get_names()])
    return _load(name).get_config()


def allowed_values() -> dict[str, Any]:
    """Returns the allowed values of each field; see `configs/default.py`."""
    return _load(_DEFAULT).ALLOWED


def get_configs_by_name() -> dict[str, ml_collections.ConfigDict]:
    """Returns every configuration except the default, the reference configurations first."""
    return {name: get_config(name) for name in get_names()}
