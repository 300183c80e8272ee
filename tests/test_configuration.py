"""Every field's check, by the message a user sees."""

import json

import pytest

from tests.support.common import ROOT
from vae_jax import configuration
from vae_jax.runtime.errors import UserError
from vae_jax.shipped_configs import get_config, get_configs_by_name

CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))


def check(**changes):
    config = get_config()
    config.update_from_flattened_dict(changes)
    configuration.from_dict(config.to_dict())


def message_of(**changes):
    with pytest.raises(UserError) as error:
        check(**changes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid_and_documented(path):
    namespace = {}
    exec(compile(path.read_text(), path, "exec"), namespace)
    config = namespace["get_config"]()
    # The place of one's own images is given on the command line.
    overrides = {"data.path": "photos"} if config.data.name == "images" else {}
    configuration.from_dict(config.to_dict(), overrides)
    if path.stem != "default":
        assert f"--config=configs/{path.name}" in namespace["__doc__"]


def test_a_configuration_survives_json():
    config = get_config()
    config.data.manual_dir = "somewhere"
    stored = json.loads(json.dumps(config.to_dict()))
    loaded = configuration.from_dict(stored)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.decoder.strides == (1, 1, 2)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", -1, "seed is -1, must be between 0 and 4294967295"),
        ("train.num_replicas", 0, "train.num_replicas is 0, must be at least 1"),
        ("latent_size", 0, "latent_size is 0, must be at least 1"),
        ("evaluate.num_importance_samples", 0, "evaluate.num_importance_samples is 0, must be at"),
        ("initialization", "keras", "initialization is 'keras', must be one of flax, tensorflow"),
        ("output_bias_init", "mean", "output_bias_init is 'mean', must be one of zeros, data_mean"),
        ("encoder.num_layers", 0, "encoder.num_layers is 0, must be at least 1 and at most 100"),
        ("data.name", "minst", "data.name is 'minst', must be one of .* closest match: mnist"),
        ("data.data_dir", "a\0b", "data.data_dir is 'a.x00b', must be a name that a file or"),
        ("data.manual_dir", "\ud800", "data.manual_dir is '.ud800', must be a name that a file"),
        ("data.binarization", "static", "data.binarization is 'static', must be one of none, dyn"),
        ("data.validation_size", 0, "data.validation_size is 0, must be at least 1"),
        ("encoder.kind", "gru", "encoder.kind is 'gru', must be one of lstm, dense"),
        ("decoder.kind", "pixel", "decoder.kind is 'pixel', must be one of conv_transpose"),
        ("encoder.hidden_size", 0, "encoder.hidden_size is 0, must be at least 1"),
        ("encoder.activation", "elu", "encoder.activation is 'elu', must be one of relu, swish"),
        ("decoder.activation", "none", "decoder.activation is 'none', must be one of relu, swish"),
        ("encoder.mean_activation", "elu", "encoder.mean_activation is 'elu', must be one of no"),
        ("encoder.mlp_sizes", (0,), r"encoder.mlp_sizes is \(0,\), must be empty or sizes of"),
        ("encoder.dense_sizes", (), r"encoder.dense_sizes is \(\), must be one or more sizes"),
        ("decoder.grid_channels", 0, "decoder.grid_channels is 0, must be at least 1"),
        ("decoder.filters", (32, 0, 16), r"decoder.filters is \(32, 0, 16\), must be one or more"),
        ("decoder.strides", (1, 2), r"decoder.strides is \(1, 2\), must be 3 strides"),
        ("data.path", "photos", "data.path is 'photos', must be None unless .*name=images"),
        ("data.name", "images", "data.path is None, must be set where data.name is 'images'"),
        ("data.image_size", (28,), r"data.image_size is \(28,\), must be empty, .* or \"\(height"),
        ("data.image_size", (1, 5000), r"data.image_size is \(1, 5000\), .* 4096 at most"),
        ("data.channels", 2, r"data.channels is 2, must be 0 \(as the images are\), 1 or 3"),
        ("data.test_size", 0, "data.test_size is 0, must be at least 1"),
        ("condition.kind", "class", "condition.kind is 'class', must be one of none, label"),
        ("likelihood.kind", "laplace", "likelihood.kind is 'laplace', must be one of bernoulli"),
        (
            "decoder.dropout_rate",
            1.0,
            "decoder.dropout_rate is 1.0, must be at least 0 and below 1",
        ),
        (
            "decoder.dropout_rate",
            0.5,
            r"decoder.dropout_rate is 0.5, must be above 0 exactly where",
        ),
        ("decoder.dropout_after", (3,), r"decoder.dropout_after is \(3,\), must be .* from 0 to 2"),
        ("decoder.dropout_after", (0,), "decoder.dropout_rate is 0.0, must be above 0 exactly"),
        (
            "decoder.residual_blocks",
            (1,),
            r"decoder.residual_blocks is \(1,\), must be empty, or 3",
        ),
        ("decoder.residual_blocks", (1, 1, -1), r"decoder.residual_blocks is \(1, 1, -1\), must"),
        ("decoder.head", "linear", "decoder.head is 'linear', must be one of dense, conv"),
        ("loss.kl_weight", -0.1, "loss.kl_weight is -0.1, must be finite and at least 0"),
        ("loss.free_bits", -0.1, "loss.free_bits is -0.1, must be finite and at least 0"),
        ("loss.kl_warmup_steps", -1, "loss.kl_warmup_steps is -1, must be at least 0"),
        ("loss.num_importance_samples", 0, "loss.num_importance_samples is 0, must be at least"),
        (
            "loss.elbo_warmup_epochs",
            1,
            "loss.elbo_warmup_epochs is 1, must be 0 where loss.num_importance_samp",
        ),
        ("loss.kl_weight", float("nan"), "loss.kl_weight is nan, must be finite"),
        (
            "train.batch_size",
            2**31,
            "train.batch_size is 2147483648, .* at most 2147483647",
        ),
        ("train.num_epochs", 0, "train.num_epochs is 0, must be at least 1"),
        ("train.batch_size", -5, "train.batch_size is -5, must be at least 1"),
        ("train.learning_rate", -0.1, "train.learning_rate is -0.1, must be finite and above 0"),
        ("train.learning_rate_schedule", "step", "train.learning_rate_schedule is 'step', must be"),
        ("train.max_gradient_norm", -1.0, "train.max_gradient_norm is -1.0, must be finite and at"),
        ("train.weight_decay", -0.1, "train.weight_decay is -0.1, must be finite and at least 0"),
        ("train.ema_decay", 1.0, "train.ema_decay is 1.0, must be at least 0 and below 1"),
        ("train.learning_rate", float("inf"), "train.learning_rate is inf, must be finite"),
    ],
)
def test_a_value_that_is_not_allowed(field, value, expected):
    with pytest.raises(UserError, match=f"^{expected}"):
        check(**{field: value})
    message_of(**{field: value})


@pytest.mark.parametrize(
    "field", ["loss.kl_weight", "train.learning_rate", "train.max_gradient_norm"]
)
def test_an_integer_that_no_float_can_hold(field):
    stored = get_config().to_dict()
    group, name = field.split(".")
    stored[group][name] = 10**400
    with pytest.raises(UserError, match=rf"^{field} is 10*(\.\.\.0*)?, must be finite"):
        configuration.from_dict(stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder.strides": (10**4_000, 2, 2)},
        {"decoder.filters": (8,) * 1_000, "decoder.strides": (2**31 - 1,) * 1_000},
    ],
)
def test_sizes_whose_product_python_will_not_print(changes):
    assert "must be one or more sizes of at least 1 and at most" in message_of(**changes)


def test_a_conditional_model_has_no_pseudo_inputs():
    changes = {"condition.kind": "label", "prior.kind": "vamp"}
    assert message_of(**changes).startswith("prior.kind is 'vamp', must be another where condition")
    check(**changes | {"prior.kind": "mixture"})


def test_dropout_with_its_layers_is_allowed():
    check(**{"decoder.dropout_rate": 0.5, "decoder.dropout_after": (0, 1)})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("train.batch_size", "100", "train.batch_size is '100', must be int"),
        ("train.batch_size", 1.5, "train.batch_size is 1.5, must be int"),
        ("train.batch_size", True, "train.batch_size is True, must be int"),
        ("train.learning_rate", "x", "train.learning_rate is 'x', must be float"),
        ("decoder.strides", 2, "decoder.strides is 2, must be a tuple of int"),
        (
            "decoder.strides",
            [1, 1, 2.5],
            r"decoder.strides is \(1, 1, 2.5\), must be a tuple of in",
        ),
        ("data.data_dir", 3, "data.data_dir is 3, must be str or None"),
        ("train", 3, "train is a group of fields"),
        ("train.bach_size", 3, "train.bach_size is no field .* closest match: train.batch_size"),
        ("trian", 3, "trian is no field .* closest match: train"),
    ],
)
def test_a_stored_configuration_with_a_wrong_field(field, value, expected):
    stored = get_config().to_dict()
    *groups, name = field.split(".")
    group = stored
    for part in groups:
        group = group[part]
    group[name] = value
    with pytest.raises(UserError, match=f"^{expected}"):
        configuration.from_dict(stored)


def test_a_stored_configuration_that_lacks_a_field():
    stored = get_config().to_dict()
    del stored["train"]["batch_size"]
    with pytest.raises(UserError, match=r"^train.batch_size is missing .* default: 100"):
        configuration.from_dict(stored)
    # A record may be older than the field.
    assert configuration.from_record(stored).train.batch_size == 100


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("loss.kl_weight", 0.5, "1.0"),
        ("loss.free_bits", 0.5, "0"),
    ],
)
def test_the_importance_weighted_bound_has_no_other_options(field, value, allowed):
    check(**{field: value})
    message = message_of(**{field: value, "loss.num_importance_samples": 5})
    assert message == (
        f"{field} is {value}, must be {allowed} where loss.num_importance_samples is above 1"
    )


@pytest.mark.parametrize("epochs", [-1, 50])
def test_the_bound_has_an_epoch_at_least(epochs):
    check(**{"loss.elbo_warmup_epochs": 49, "loss.num_importance_samples": 5})
    message = message_of(**{"loss.elbo_warmup_epochs": epochs, "loss.num_importance_samples": 5})
    allowed = "at least 0 and at most 49, below train.num_epochs"
    assert message == f"loss.elbo_warmup_epochs is {epochs}, must be {allowed}"


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
            "encoder.hidden_size (encoder.kind is not lstm), encoder.mlp_sizes (encoder.kind is not"
            " lstm)",
        ),
        ({"encoder.dense_sizes": (8,)}, "encoder.dense_sizes (encoder.kind is not dense)"),
        ({"encoder.activation": "swish"}, "encoder.activation (encoder.mlp_sizes is empty)"),
        ({"encoder.activation": "swish", "encoder.mlp_sizes": (4,)}, None),
        ({"encoder.activation": "swish", "encoder.kind": "dense"}, None),
        (
            {"evaluate.num_importance_samples": 7},
            "evaluate.num_importance_samples (data.binarization is none)",
        ),
        ({"evaluate.num_importance_samples": 7, "data.binarization": "dynamic"}, None),
        (
            {"data.name": "mnist_5k", "data.manual_dir": "x"},
            "data.manual_dir (data.name is mnist_5k)",
        ),
        (
            {"loss.kl_weight": 0.0, "loss.free_bits": 1.0},
            "loss.free_bits (loss.kl_weight is 0)",
        ),
        ({}, None),
    ],
)
def test_fields_without_effect_are_said_in_one_line(capsys, changes, expected):
    config = configuration.from_dict(get_config().to_dict(), changes)
    configuration.warn_without_effect(config)
    line = f"warning: set without effect: {expected}\n" if expected else ""
    assert capsys.readouterr().err == line
    configuration.warn_without_effect(config, among=())
    assert capsys.readouterr().err == ""


def test_no_shipped_configuration_has_a_field_without_effect(capsys):
    for config in get_configs_by_name().values():
        configuration.warn_without_effect(config)
    assert capsys.readouterr().err == ""
