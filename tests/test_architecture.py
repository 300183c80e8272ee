"""The one-way law of imports, and names that stand in two places."""

import ast
import dataclasses
import subprocess
import sys

import pytest

from tests.support.common import ROOT
from vae_jax import configuration
from vae_jax.model import activations, decoders, encoders, initialization
from vae_jax.model.objective import Objective
from vae_jax.training import optimizer

# Each imports only from those before it; the verbs, which stand in the root, come last.
ROOMS = ("runtime", "datasets", "configuration", "model", "training", "evaluation", "reporting")
# What a room does not import although it stands before it.
UNKNOWN = {"datasets": set(), "model": {"datasets", "configuration"}}
# What Flax gives each module.
FLAX_FIELDS = ("name", "parent")
MODULES = sorted((ROOT / "vae_jax").rglob("*.py"))


def room_of(module):
    """The room of `vae_jax.x.y`; the root's files are "verbs", but for the configuration."""
    room = module.split(".")[1] if "." in module else "verbs"
    return room if room in ROOMS else "verbs"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "vae_jax":
            yield from (f"vae_jax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    if path == ROOT / "vae_jax" / "__init__.py":
        return  # the public API: everything there is imported on first use
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room, order = room_of(module), (*ROOMS, "verbs")
    allowed = {*order[: order.index(room) + 1]} - UNKNOWN.get(room, set())
    for name in imported(path):
        if name.split(".")[0] == "vae_jax":
            assert room_of(name) in allowed, f"{module} imports {name}"
        assert name.split(".")[0] not in ("configs", "main", "tests", "benchmarks"), name


def test_reading_runs_imports_no_checkpoints():
    code = "import sys, vae_jax.reporting.runs; print('orbax.checkpoint' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize("module", ["configuration", "command_line", "training.run_directory"])
def test_a_mistake_is_answered_without_jax(module):
    code = f"import sys, vae_jax.{module}; print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


def test_the_names_a_configuration_may_hold_are_those_there_are():
    assert (*encoders.ENCODERS,) == configuration.ENCODERS
    assert (*activations.ACTIVATIONS,) == configuration.ACTIVATIONS
    assert configuration.HEADS == decoders.HEADS
    assert configuration.INITIALIZATIONS == initialization.INITIALIZATIONS
    assert configuration.SCHEDULES == optimizer.SCHEDULES


def test_the_fields_of_a_configuration_are_those_of_what_they_build():
    from configs import default

    config = default.get_config()
    assert {*config.loss} == {field.name for field in dataclasses.fields(Objective)}
    decoder = {*decoders.ConvTransposeDecoder.__annotations__} - {"output_shape", *FLAX_FIELDS}
    assert {*config.decoder} == decoder
    attributes = {name for kind in encoders.ENCODERS.values() for name in kind.__annotations__}
    assert {*config.encoder} == {"kind", *attributes} - {"latent_size", *FLAX_FIELDS}
