"""Configurations by name: each file here is `default.py` with a few fields changed."""

import importlib
from pathlib import Path

import ml_collections

# Those that are compared with the reference project, in the order of the tables.
REFERENCE_CONFIGS = (
    "baseline",
    "deeper_decoder",
    "dropout",
    "deeper_dropout",
    "dense_encoder",
    "optimized",
    "reference",
)


def get_configs_by_name() -> dict[str, ml_collections.ConfigDict]:
    """Loads every configuration here but the default; the reference configurations come first."""
    stems = {path.stem for path in Path(__file__).parent.glob("*.py")}
    names = [*REFERENCE_CONFIGS, *sorted(stems - {*REFERENCE_CONFIGS, "default", "__init__"})]
    return {name: importlib.import_module(f"configs.{name}").get_config() for name in names}
