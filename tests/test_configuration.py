"""Every field's type and allowed values, and the one-line errors."""

import pytest

from tests.support.common import ROOT, error_of
from vae_jax import configuration, shipped_configs

CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
ALLOWED = shipped_configs.allowed_values()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid_and_documented(path):
    namespace = {}
    exec(compile(path.read_text(), path, "exec"), namespace)
    config = namespace["get_config"]()
    overrides = {"data.path": "photos"} if config.data.name == "images" else {}
    configuration.from_dict(config.to_dict(), overrides)
    if path.stem != "default":
        assert f"--config=configs/{path.name}" in namespace["__doc__"]


def test_every_float_and_name_has_allowed_values():
    fields = configuration.default_fields()
    assert {path for path, value in fields.items() if isinstance(value, str | float)} <= {*ALLOWED}
    assert {*ALLOWED} <= {*fields}


def outside(allowed):
    """The nearest values that are not allowed."""
    if isinstance(allowed, range):
        return allowed[0] - 1, allowed[-1] + 1
    if isinstance(allowed[0], float):
        return -1e-9, allowed[1] * 1.001, float("nan"), float("inf"), 10**400
    return ("lastm",) if isinstance(allowed[0], str) else (2,)


def test_values_that_are_not_allowed_are_one_line():
    defaults = configuration.default_fields()
    sizes = {path: range(1, 2**31) for path in defaults if type(defaults[path]) in (int, tuple)}
    for path, allowed in (sizes | ALLOWED).items():
        for value in outside(allowed):
            value = (value,) if isinstance(defaults[path], tuple) else value
            error = error_of(configuration.from_dict, {path: value})
            assert error.startswith(f"{path} is ") and "must be" in error


SEVERAL = {"loss.num_importance_samples": 5}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.name": "minst"}, "closest match: mnist"),
        ({"data.data_dir": "a\0b"}, "the path of a file"),
        ({"data.manual_dir": "\ud800"}, "the path of a file"),
        ({"data.data_dir": "gs://bucket"}, "the path of a file"),
        ({"data.path": "photos"}, "'images', else None"),
        ({"data.name": "images"}, "data.path is None"),
        ({"data.image_size": (28,)}, "height, width"),
        ({"data.levels": 1}, "0 or at least 2"),
        ({"data.binarization": "dynamic", "likelihood.kind": "gaussian"}, "likelihood.kind is 'g"),
        ({"decoder.strides": (10**4_000, 2, 2)}, "from 1 to"),
        ({"decoder.strides": (1, 2)}, "3 numbers"),
        ({"decoder.residual_blocks": (1,)}, "3 numbers"),
        ({"encoder.residual_blocks": 1}, "0 unless encoder.map_channels"),
        ({"decoder.dropout_after": (3,)}, "below 3"),
        ({"decoder.dropout_after": (0,)}, "decoder.dropout_rate is 0.0"),
        ({"decoder.dropout_rate": 0.5}, "dropout_after"),
        ({"prior.kind": "coupling_flow", "latent_size": 1}, "latent_size is 1"),
        ({"prior.kind": "vamp", "condition.kind": "label"}, "prior.kind is 'vamp'"),
        ({"prior.kind": "mixture", "loss.free_bits": 1.0}, "loss.free_bits is 1.0"),
        ({"seed": 2**32 - 1, "train.num_replicas": 2}, "at most 4294967294"),
        (SEVERAL | {"loss.kl_weight": 0.5}, "loss.kl_weight is 0.5"),
        (SEVERAL | {"loss.free_bits": 0.5}, "loss.free_bits is 0.5"),
        ({"train.batch_size": "100"}, "must be int"),
        ({"train.batch_size": True}, "must be int"),
        ({"train.learning_rate": "x"}, "must be float"),
        ({"decoder.strides": 2}, "must be a tuple of int"),
        ({"decoder.strides": (1, 1, 2.5)}, "must be a tuple of int"),
        ({"data.data_dir": 3}, "must be str or None"),
        ({"train": 3}, "train is not a field"),
        ({"train.bach_size": 3}, "closest match: train.batch_size"),
    ],
    ids=str,
)
def test_fields_that_are_wrong_or_do_not_fit_together(changes, expected):
    assert expected in error_of(configuration.from_dict, changes)
