"""Every field's type and allowed values, and the one-line errors."""

import json

import pytest

from tests.support.common import ROOT
from vae_jax import configuration, shipped_configs
from vae_jax.runtime.errors import UserError
from vae_jax.shipped_configs import get_config, get_configs_by_name

CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
ALLOWED = shipped_configs.allowed_values()


def check(**changes):
    return configuration.from_fields(configuration.default_fields() | changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid_and_documented(path):
    namespace = {}
    exec(compile(path.read_text(), path, "exec"), namespace)
    config = namespace["get_config"]()
    overrides = {"data.path": "photos"} if config.data.name == "images" else {}
    configuration.from_dict(config.to_dict(), overrides)
    if path.stem != "default":
        assert f"--config=configs/{path.name}" in namespace["__doc__"]


def test_every_number_and_name_has_allowed_values():
    """Only booleans and paths have none; every default is valid, and every condition is a field."""
    fields = configuration.default_fields()
    free = {path for path, value in fields.items() if value is None or isinstance(value, bool)}
    assert set(ALLOWED) == set(fields) - free
    for path, (other, values) in shipped_configs.effective_if().items():
        assert path in fields and {*values} <= {*ALLOWED[other]}


def test_a_configuration_survives_json():
    config = get_config()
    config.data.manual_dir = "somewhere"
    loaded = configuration.from_dict(json.loads(json.dumps(config.to_dict())))
    assert loaded.to_dict() == config.to_dict()
    assert loaded.decoder.strides == (1, 1, 2)


def outside(allowed):
    """The nearest values that are not allowed."""
    if isinstance(allowed, range):
        return allowed[0] - 1, allowed[-1] + 1
    if isinstance(allowed[0], float):
        return -1e-9, allowed[1] * 1.001, float("nan"), float("inf"), 10**400
    return ("lastm",) if isinstance(allowed[0], str) else (2,)


@pytest.mark.parametrize("path", ALLOWED)
def test_a_value_that_is_not_allowed(path):
    default = configuration.default_fields()[path]
    for value in outside(ALLOWED[path]):
        value = (value,) if isinstance(default, tuple) else value
        with pytest.raises(UserError, match="must be") as error:
            check(**{path: value})
        assert str(error.value).startswith(f"{path} is ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.name": "minst"}, "one of .* closest match: mnist"),
        ({"data.data_dir": "a\0b"}, "valid file or folder name"),
        ({"data.manual_dir": "\ud800"}, "valid file or folder name"),
        ({"data.data_dir": "gs://bucket"}, "not an address"),
        ({"data.path": "photos"}, "name=images is set"),
        ({"data.name": "images"}, "data.path is None"),
        ({"data.image_size": (28,)}, "height, width"),
        ({"data.levels": 1}, "0 or at least 2"),
        (
            {"data.binarization": "dynamic", "likelihood.kind": "gaussian"},
            "likelihood.kind .*berno",
        ),
        ({"encoder.dense_sizes": ()}, "one or more"),
        ({"decoder.filters": (), "decoder.strides": ()}, "decoder.filters .*one or more"),
        ({"decoder.filters": (8,) * 101, "decoder.strides": (1,) * 101}, "at most 100 numbers"),
        ({"decoder.strides": (10**4_000, 2, 2)}, "from 1 to"),
        ({"decoder.strides": (1, 2)}, "3 numbers"),
        ({"decoder.residual_blocks": (1,)}, "3 numbers"),
        ({"decoder.dropout_after": (3,)}, "from 0 to 2"),
        ({"decoder.dropout_after": (0, 0)}, "different"),
        ({"decoder.dropout_after": (0,)}, "decoder.dropout_rate is 0.0"),
        ({"decoder.dropout_rate": 0.5}, "dropout_after"),
        ({"prior.kind": "coupling_flow", "latent_size": 1}, "latent_size is 1"),
        ({"prior.kind": "vamp", "condition.kind": "label"}, "prior.kind is 'vamp'"),
        ({"prior.kind": "mixture", "loss.free_bits": 1.0}, "0 if prior.kind is mixture"),
        ({"seed": 2**32 - 1, "train.num_replicas": 2}, "at most 4294967294"),
        ({"loss.elbo_warmup_epochs": 1}, "num_importance_samples is 1"),
        ({"loss.num_importance_samples": 5, "loss.kl_weight": 0.5}, "1.0 if"),
        ({"loss.num_importance_samples": 5, "loss.free_bits": 0.5}, "0 if"),
        (
            {"loss.num_importance_samples": 5, "loss.elbo_warmup_epochs": 50},
            "below train.num_epochs",
        ),
    ],
    ids=str,
)
def test_fields_that_do_not_fit_together(changes, expected):
    with pytest.raises(UserError, match=expected):
        check(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder.dropout_rate": 0.5, "decoder.dropout_after": (0, 1)},
        {"prior.kind": "mixture", "condition.kind": "label"},
        {"loss.num_importance_samples": 5, "loss.elbo_warmup_epochs": 49},
        {"loss.kl_weight": 0.5, "loss.free_bits": 0.5},
    ],
    ids=str,
)
def test_fields_that_fit_together(changes):
    check(**changes)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("train.batch_size", "100", "must be int"),
        ("train.batch_size", 1.5, "must be int"),
        ("train.batch_size", True, "must be int"),
        ("train.learning_rate", "x", "must be float"),
        ("decoder.strides", 2, "must be a tuple of int"),
        ("decoder.strides", [1, 1, 2.5], "must be a tuple of int"),
        ("data.data_dir", 3, "must be str or None"),
        ("train", 3, "group of fields"),
        ("train.bach_size", 3, "closest match: train.batch_size"),
        ("trian", 3, "closest match: train"),
    ],
)
def test_a_stored_configuration_with_a_wrong_field(field, value, expected):
    stored = get_config().to_dict()
    *groups, name = field.split(".")
    group = stored
    for part in groups:
        group = group[part]
    group[name] = value
    with pytest.raises(UserError, match=f"^{field} is .*{expected}"):
        configuration.from_dict(stored)


def test_a_stored_configuration_that_lacks_a_field():
    stored = get_config().to_dict()
    del stored["train"]["batch_size"]
    with pytest.raises(UserError, match=r"^train.batch_size is missing .* default: 100"):
        configuration.from_dict(stored)
    # A record may be older than the field.
    assert configuration.from_record(stored).train.batch_size == 100


def test_flatten_joins_names_and_takes_lists_as_tuples():
    assert configuration.flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}) == {
        "a": 1,
        "b.c": (1, 2),
        "b.d.e": None,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"encoder.kind": "dense", "encoder.hidden_size": 8, "encoder.mlp_sizes": (4,)},
            ["encoder.hidden_size (encoder.kind is dense)", "encoder.mlp_sizes (encoder.kind is d"],
        ),
        ({"encoder.dense_sizes": (8,)}, ["encoder.dense_sizes (encoder.kind is lstm)"]),
        ({"data.name": "mnist_5k", "data.manual_dir": "x"}, ["data.manual_dir (data.name is mni"]),
        ({"prior.num_components": 7, "prior.kind": "vamp"}, []),
    ],
    ids=str,
)
def test_fields_without_effect_are_listed_in_one_line(capsys, changes, expected):
    config = check(**changes)
    configuration.warn_without_effect(config)
    warning = capsys.readouterr().err
    assert warning.count("\n") == bool(expected)
    assert all(part in warning for part in expected)
    configuration.warn_without_effect(config, among=())
    assert capsys.readouterr().err == ""


def test_no_shipped_configuration_has_a_field_without_effect(capsys):
    for config in get_configs_by_name().values():
        configuration.warn_without_effect(config)
    assert capsys.readouterr().err == ""
