"""What a configuration may hold: fields, types and values, checked before anything else.

Imports neither JAX nor the data, so that a mistake is answered at once. Wherever a field is
named, it is by its dotted path: `train.batch_size`.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ml_collections

from vae_jax import datasets, shipped_configs
from vae_jax.runtime.errors import UserError, check_choice, closest_match
from vae_jax.runtime.files import is_address

ENCODERS = ("lstm", "dense")
DECODERS = ("conv_transpose",)
CONDITIONS = ("none", "label")
OUTPUT_BIAS_INITS = ("zeros", "data_mean")
ACTIVATIONS = ("relu", "swish")
MEAN_ACTIVATIONS = ("none", "relu")
HEADS = ("dense", "conv")
# Whether each is a likelihood of black and white pixels alone.
LIKELIHOODS = {
    "bernoulli": True,
    "continuous_bernoulli": False,
    "gaussian": False,
    "discretized_logistic": False,
}
PSEUDO_INPUTS = ("learned", "data")
PRIORS = ("standard_normal", "coupling_flow", "mixture", "vamp")
INITIALIZATIONS = ("flax", "tensorflow")
SCHEDULES = ("constant", "cosine", "burda")
_MAX_SEED = 2**32 - 1
# What no size can exceed: larger ones would overflow in JAX, or when the checks multiply them.
_MAX_SIZE = 2**31 - 1
_MAX_SIZES = 100


def has_likelihood(likelihood: str, binarization: str) -> bool:
    """Tells whether the loss bounds a likelihood: the cross-entropy of gray pixels does not."""
    return not LIKELIHOODS[likelihood] or binarization != "none"


def default_fields() -> dict[str, Any]:
    """Returns the default configuration by dotted path: every field that there is."""
    return flatten(shipped_configs.get_config().to_dict())


def check_field(path: str) -> None:
    """Raises UserError, with the closest match, unless there is a field at `path`."""
    fields = default_fields()
    groups = {field.rpartition(".")[0] for field in fields} - {""}
    if path in groups:
        raise UserError(
            f"{path} is a group of fields; set one of them, e.g. {_example(path, fields)}"
        )
    if path not in fields:
        raise UserError(
            f"{path} is no field of a configuration; closest match: "
            f"{closest_match(path, [*fields, *groups])}"
        )


def _example(group: str, fields: Mapping[str, Any]) -> str:
    return next(field for field in fields if field.startswith(f"{group}."))


def describe_type(default: Any) -> str:
    """Describes what values a field takes, told from its default."""
    if isinstance(default, tuple):
        return 'a tuple of int, like "(1, 2)"'
    return "str or None" if default is None else type(default).__name__


def _has_type_of(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    if default is None:
        return value is None or isinstance(value, str)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def check_types(fields: Mapping[str, Any]) -> None:
    """Raises UserError if a field is unknown, missing or of a wrong type."""
    defaults = default_fields()
    for path in fields:
        if path not in defaults:
            check_field(path)
    for path, default in defaults.items():
        if path not in fields:
            raise UserError(f"{path} is missing from the configuration; its default: {default!r}")
        if not _has_type_of(fields[path], default):
            raise UserError(f"{path} is {fields[path]!r}, must be {describe_type(default)}")


class _Rules:
    """The fields of one configuration, and the checks on their values."""

    def __init__(self, fields: Mapping[str, Any]):
        self.fields = fields

    def require(self, path: str, condition: bool, allowed: str) -> None:
        if not condition:
            raise UserError(f"{path} is {self.fields[path]!r}, must be {allowed}")

    def at_least(self, path: str, lowest: int) -> None:
        valid = lowest <= self.fields[path] <= _MAX_SIZE
        self.require(path, valid, f"at least {lowest} and at most {_MAX_SIZE}")

    def one_of(self, path: str, names: Sequence[str]) -> None:
        check_choice(path, self.fields[path], names)

    def path(self, path: str) -> None:
        folder = self.fields[path] or ""
        self.require(path, not is_address(folder), "a path of this machine, not an address")
        try:
            valid = b"\0" not in os.fsencode(folder)
        except UnicodeEncodeError:
            valid = False
        self.require(path, valid, "a name that a file or folder can have")

    def positive_sizes(self, path: str, fewest: int = 1) -> None:
        value = self.fields[path]
        valid = fewest <= len(value) <= _MAX_SIZES and all(1 <= n <= _MAX_SIZE for n in value)
        number = "one or more" if fewest else "empty or"
        allowed = f"{number} sizes of at least 1 and at most {_MAX_SIZE}, {_MAX_SIZES} at most"
        self.require(path, valid, allowed)


def _check_decoder(rules: _Rules) -> None:
    fields = rules.fields
    rules.positive_sizes("decoder.dense_sizes", fewest=0)
    rules.at_least("decoder.grid_channels", 1)
    for name in ("filters", "strides"):
        rules.positive_sizes(f"decoder.{name}")
    filters, strides = fields["decoder.filters"], fields["decoder.strides"]
    rules.require(
        "decoder.strides",
        len(strides) == len(filters),
        f"{len(filters)} strides, one for each of decoder.filters {filters}",
    )
    rate, after = fields["decoder.dropout_rate"], fields["decoder.dropout_after"]
    rules.require("decoder.dropout_rate", 0.0 <= rate < 1.0, "at least 0 and below 1")
    rules.require(
        "decoder.dropout_after",
        all(0 <= index < len(filters) for index in after) and len(set(after)) == len(after),
        f"different indices from 0 to {len(filters) - 1}, one for each of decoder.filters",
    )
    rules.require(
        "decoder.dropout_rate",
        (rate > 0.0) == bool(after),
        f"above 0 exactly where decoder.dropout_after, here {after}, names transposed convolutions",
    )
    rules.one_of("decoder.activation", ACTIVATIONS)
    rules.one_of("decoder.kind", DECODERS)
    rules.one_of("decoder.head", HEADS)
    blocks = fields["decoder.residual_blocks"]
    rules.require(
        "decoder.residual_blocks",
        len(blocks) in (0, len(filters)) and all(0 <= count <= _MAX_SIZES for count in blocks),
        f"empty, or {len(filters)} numbers from 0 to {_MAX_SIZES}, one for each of decoder.filters",
    )


def _check_encoder(rules: _Rules) -> None:
    rules.one_of("encoder.kind", ENCODERS)
    rules.at_least("encoder.hidden_size", 1)
    rules.require(
        "encoder.num_layers",
        1 <= rules.fields["encoder.num_layers"] <= _MAX_SIZES,
        f"at least 1 and at most {_MAX_SIZES}",
    )
    rules.positive_sizes("encoder.mlp_sizes", fewest=0)
    rules.positive_sizes("encoder.dense_sizes")
    rules.one_of("encoder.activation", ACTIVATIONS)
    rules.one_of("encoder.mean_activation", MEAN_ACTIVATIONS)


def _check_loss(rules: _Rules) -> None:
    fields = rules.fields
    for name in ("loss.kl_weight", "loss.free_bits"):
        # Against the largest float and not infinity: an integer may lie between them.
        rules.require(name, 0.0 <= fields[name] <= sys.float_info.max, "finite and at least 0")
    rules.at_least("loss.kl_warmup_steps", 0)
    rules.at_least("loss.num_importance_samples", 1)
    if fields["loss.num_importance_samples"] > 1:
        several = "where loss.num_importance_samples is above 1"
        rules.require("loss.kl_weight", fields["loss.kl_weight"] == 1.0, f"1.0 {several}")
        rules.require("loss.free_bits", fields["loss.free_bits"] == 0, f"0 {several}")
        last = fields["train.num_epochs"] - 1
        allowed = f"at least 0 and at most {last}, below train.num_epochs"
        rules.require(
            "loss.elbo_warmup_epochs", 0 <= fields["loss.elbo_warmup_epochs"] <= last, allowed
        )
    else:
        nothing = fields["loss.elbo_warmup_epochs"] == 0
        rules.require(
            "loss.elbo_warmup_epochs", nothing, "0 where loss.num_importance_samples is 1"
        )


def _check_prior(rules: _Rules) -> None:
    fields = rules.fields
    kind = fields["prior.kind"]
    rules.one_of("prior.kind", PRIORS)
    for name in ("num_layers", "hidden_size", "num_components"):
        rules.at_least(f"prior.{name}", 1)
    rules.one_of("prior.pseudo_inputs", PSEUDO_INPUTS)
    if kind == "coupling_flow":
        rules.require(
            "latent_size", fields["latent_size"] > 1, "at least 2 where prior.kind is coupling_flow"
        )
    rules.one_of("condition.kind", CONDITIONS)
    rules.require(
        "prior.kind",
        kind != "vamp" or fields["condition.kind"] == "none",
        "another where condition.kind is label: vamp's pseudo-inputs have no labels",
    )
    rules.require(
        "loss.free_bits",
        kind == "standard_normal" or fields["loss.free_bits"] == 0.0,
        f"0 where prior.kind is {kind}, which has no KL for each latent dimension",
    )


def _check_train(rules: _Rules) -> None:
    fields = rules.fields
    rules.at_least("train.num_epochs", 1)
    rules.at_least("train.batch_size", 1)
    rate = fields["train.learning_rate"]
    rules.require("train.learning_rate", 0.0 < rate <= sys.float_info.max, "finite and above 0")
    rules.one_of("train.learning_rate_schedule", SCHEDULES)
    for name in ("train.max_gradient_norm", "train.weight_decay"):
        rules.require(name, 0.0 <= fields[name] <= sys.float_info.max, "finite and at least 0")
    rules.require(
        "train.ema_decay", 0.0 <= fields["train.ema_decay"] < 1.0, "at least 0 and below 1"
    )


def _check_data(rules: _Rules) -> None:
    fields = rules.fields
    rules.one_of("data.name", [*datasets.SOURCES])
    for name in ("data_dir", "manual_dir", "path"):
        rules.path(f"data.{name}")
    path, is_images = fields["data.path"], fields["data.name"] == "images"
    rules.require("data.path", bool(path) or not is_images, "set where data.name is 'images'")
    rules.require(
        "data.path", is_images or not path, "None unless --config.data.name=images is set too"
    )
    rules.positive_sizes("data.image_size", fewest=0)
    rules.require(
        "data.image_size",
        len(fields["data.image_size"]) in (0, 2)
        and max(fields["data.image_size"], default=1) <= 4096,
        'empty, for the size that all images have, or "(height, width)", 4096 at most',
    )
    rules.require(
        "data.channels", fields["data.channels"] in (0, 1, 3), "0 (as the images are), 1 or 3"
    )
    levels, most = fields["data.levels"], datasets.MAX_LEVELS
    rules.require("data.levels", levels == 0 or 2 <= levels <= most, f"0, or from 2 to {most}")
    rules.at_least("data.validation_size", 1)
    rules.at_least("data.test_size", 1)
    rules.one_of("data.binarization", datasets.BINARIZATIONS)
    rules.one_of("likelihood.kind", [*LIKELIHOODS])
    binary = " or ".join(repr(name) for name, is_binary in LIKELIHOODS.items() if is_binary)
    rules.require(
        "likelihood.kind",
        fields["data.binarization"] == "none" or LIKELIHOODS[fields["likelihood.kind"]],
        f"{binary} where data.binarization is {fields['data.binarization']!r}: pixels are then 0 "
        "or 1",
    )


def _check_values(fields: Mapping[str, Any]) -> None:
    """Checks what fields of the right types may hold, as far as that needs no data."""
    rules = _Rules(fields)
    rules.at_least("train.num_replicas", 1)
    highest = _MAX_SEED - (fields["train.num_replicas"] - 1)
    rules.require("seed", 0 <= fields["seed"] <= highest, f"between 0 and {highest}")
    rules.at_least("latent_size", 1)
    rules.one_of("initialization", INITIALIZATIONS)
    rules.one_of("output_bias_init", OUTPUT_BIAS_INITS)
    _check_data(rules)
    _check_encoder(rules)
    _check_decoder(rules)
    _check_train(rules)
    _check_loss(rules)
    _check_prior(rules)
    rules.at_least("evaluate.num_importance_samples", 1)


def _has_dense_layers(fields: Mapping[str, Any]) -> bool:
    return fields["encoder.kind"] != "lstm" or bool(fields["encoder.mlp_sizes"])


# Fields, when they do nothing, and what is then so.
_WITHOUT_EFFECT: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        tuple(
            f"encoder.{name}"
            for name in ("hidden_size", "num_layers", "bidirectional", "mlp_sizes")
        ),
        lambda fields: fields["encoder.kind"] != "lstm",
        "encoder.kind is not lstm",
    ),
    (
        ("prior.num_layers", "prior.hidden_size"),
        lambda fields: fields["prior.kind"] != "coupling_flow",
        "prior.kind is not coupling_flow",
    ),
    (
        ("prior.num_components",),
        lambda fields: fields["prior.kind"] not in ("mixture", "vamp"),
        "prior.kind is neither mixture nor vamp",
    ),
    (
        ("prior.pseudo_inputs",),
        lambda fields: fields["prior.kind"] != "vamp",
        "prior.kind is not vamp",
    ),
    (
        ("loss.path_gradient",),
        lambda fields: (
            fields["prior.kind"] == "standard_normal" and fields["loss.num_importance_samples"] == 1
        ),
        "the KL has a closed form, and there is one sample",
    ),
    (
        ("encoder.dense_sizes",),
        lambda fields: fields["encoder.kind"] != "dense",
        "encoder.kind is not dense",
    ),
    (
        ("encoder.activation",),
        lambda fields: not _has_dense_layers(fields),
        "encoder.mlp_sizes is empty",
    ),
    (
        ("evaluate.num_importance_samples",),
        lambda fields: not has_likelihood(fields["likelihood.kind"], fields["data.binarization"]),
        "data.binarization is none",
    ),
    (
        ("data.data_dir", "data.manual_dir", "data.validation_size"),
        lambda fields: fields["data.name"] == "mnist_5k",
        "data.name is mnist_5k",
    ),
    (
        ("data.image_size", "data.channels", "data.levels", "data.skip_damaged", "data.test_size"),
        lambda fields: fields["data.name"] != "images",
        "data.name is not images",
    ),
    (
        ("data.manual_dir",),
        lambda fields: fields["data.name"] == "images",
        "data.name is images",
    ),
    (
        ("loss.kl_warmup_steps", "loss.free_bits"),
        lambda fields: fields["loss.kl_weight"] == 0.0,
        "loss.kl_weight is 0",
    ),
)


def warn_without_effect(
    config: ml_collections.ConfigDict, among: Collection[str] | None = None
) -> None:
    """Warns, in one line, of fields that are set to other than their default and do nothing.

    Args:
      config: a valid configuration.
      among: the dotted paths to look at; all if None.
    """
    fields, defaults = flatten(config.to_dict()), default_fields()
    found = [
        f"{name} ({why})"
        for names, does_nothing, why in _WITHOUT_EFFECT
        if does_nothing(fields)
        for name in names
        if fields[name] != defaults[name] and (among is None or name in among)
    ]
    if found:
        print(f"warning: set without effect: {', '.join(found)}", file=sys.stderr)


def from_fields(
    fields: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """Makes a configuration, checked.

    Args:
      fields: the value of every field, by dotted path.
      overrides: fields to change, by dotted path.

    Raises:
      UserError: names the field, its value and the values allowed.
    """
    fields = {**fields, **(overrides or {})}
    check_types(fields)
    _check_values(fields)
    result = shipped_configs.get_config()
    result.update_from_flattened_dict(fields)
    return result


def from_dict(
    config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """Makes a configuration of nested dictionaries with every field; lists are taken as tuples."""
    return from_fields(flatten(config), overrides)


def from_record(
    config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """Makes a configuration of the nested dictionaries that a run's `config.json` holds.

    A field that the record lacks is younger than the run: it has its default. A new field's default
    is therefore what was built in before; if it cannot be, the earlier value is filled in here.

    Args:
      config: nested dictionaries of any version's fields.
      overrides: fields to change, by dotted path.

    Raises:
      UserError: names the field, its value and the values allowed.
    """
    return from_fields(default_fields() | flatten(config), overrides)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries, their keys joined by dots; lists become tuples."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
