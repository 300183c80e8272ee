"""The one-way law of imports, and names that stand in two places."""

import ast
import dataclasses

import pytest

from tests.support.common import ROOT
from tests.support.processes import run_python
from vae_jax import configuration, datasets, shipped_configs
from vae_jax.model import decoders, dense, encoders, likelihoods, priors
from vae_jax.model.objective import Objective

# Each imports only from those before it; the verbs, which stand in the root, come last.
ROOMS = (
    "runtime",
    "datasets",
    "shipped_configs",
    "configuration",
    "model",
    "training",
    "evaluation",
    "reporting",
)
# What a room does not import although it stands before it.
UNKNOWN = {
    "shipped_configs": {"datasets"},
    "model": {"datasets", "shipped_configs", "configuration"},
}
# Evaluation builds no optimizer.
FORBIDDEN = {"evaluation": {"optax", "vae_jax.training.optimizer", "vae_jax.training.trainer"}}
# What Flax gives each module.
FLAX_FIELDS = {"name", "parent"}
# What a part is built of and no group of a configuration holds.
KNOWN_FIELDS = {"latent_size", "output_shape", "image_shape", "encoder", "num_classes"}
MODULES = sorted((ROOT / "vae_jax").rglob("*.py"))


def room_of(module):
    """The room of `vae_jax.x.y`; the root's files are "verbs", but for two."""
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
        assert name not in FORBIDDEN.get(room, ()), f"{module} imports {name}"
        assert name.split(".")[0] not in ("configs", "main", "tests", "benchmarks"), name


def test_mistakes_are_answered_without_jax_and_runs_are_read_without_orbax():
    code = """
import sys, vae_jax.configuration, vae_jax.command_line, vae_jax.training.run_directory
assert "jax" not in sys.modules
import vae_jax.reporting.runs
assert "orbax.checkpoint" not in sys.modules
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_the_names_a_configuration_may_hold_are_those_there_are():
    allowed = shipped_configs.allowed_values()
    assert (*encoders.ENCODERS,) == allowed["encoder.kind"]
    assert (*decoders.DECODERS,) == allowed["decoder.kind"]
    assert (*priors.PRIORS,) == allowed["prior.kind"]
    assert (*likelihoods.LIKELIHOODS,) == allowed["likelihood.kind"]
    assert (*dense.ACTIVATIONS,) == allowed["encoder.activation"]
    assert (*dense.ACTIVATIONS,) == allowed["decoder.activation"]
    assert (*encoders.MEAN_ACTIVATIONS,) == allowed["encoder.mean_activation"]
    assert (*datasets.SOURCES,) == allowed["data.name"]
    is_binary = {name: kind().is_binary for name, kind in likelihoods.LIKELIHOODS.items()}
    assert [name for name in is_binary if is_binary[name]] == [*configuration.BINARY_LIKELIHOODS]


@pytest.mark.parametrize(
    ("group", "kinds"),
    [
        ("encoder", encoders.ENCODERS.values()),
        ("decoder", decoders.DECODERS.values()),
        ("prior", priors.PRIORS.values()),
        ("loss", [Objective]),
    ],
)
def test_the_fields_of_a_group_are_those_of_what_it_builds(group, kinds):
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    expected = fields - FLAX_FIELDS - KNOWN_FIELDS
    assert {*shipped_configs.get_config()[group]} - {"kind"} == expected
