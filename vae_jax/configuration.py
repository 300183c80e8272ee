"""Checks of a configuration: fields, types and values. Imports neither JAX nor data.

Fields are named by their dotted path: `train.batch_size`. Their defaults and allowed values are in
`configs/default.py`; rules that relate several fields are here.
"""

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_collections

from vae_jax import shipped_configs
from vae_jax.runtime.errors import UserError, check_choice, closest_match
from vae_jax.runtime.files import is_address

BINARY_LIKELIHOODS = ("bernoulli",)  # of black and white pixels only
_MAX_SIZES = 100  # entries of a tuple
_Fields = Mapping[str, Any]


def has_likelihood(likelihood: str, binarization: str) -> bool:
    """Whether the loss bounds a likelihood; the cross-entropy of gray pixels does not."""
    return likelihood not in BINARY_LIKELIHOODS or binarization != "none"


def default_fields() -> dict[str, Any]:
    """Returns every field's default by dotted path."""
    return flatten(shipped_configs.get_config().to_dict())


def check_field(path: str) -> None:
    """Raises UserError, with the closest match, unless `path` is a field."""
    fields = default_fields()
    groups = {field.rpartition(".")[0] for field in fields} - {""}
    if path in groups:
        example = next(field for field in fields if field.startswith(f"{path}."))
        raise UserError(f"{path} is a group of fields; set one of them, e.g. {example}")
    if path not in fields:
        closest = closest_match(path, [*fields, *groups])
        raise UserError(f"{path} is not a field of a configuration; closest match: {closest}")


def describe_type(default: Any) -> str:
    """Describes the type of a field, given its default."""
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


def check_types(fields: _Fields) -> None:
    """Raises UserError if a field is unknown, missing or has a wrong type."""
    defaults = default_fields()
    for path in fields:
        if path not in defaults:
            check_field(path)
    for path, default in defaults.items():
        if path not in fields:
            raise UserError(f"{path} is missing from the configuration; its default: {default!r}")
        if not _has_type_of(fields[path], default):
            raise UserError(f"{path} is {fields[path]!r}, must be {describe_type(default)}")


def _require(path: str, value: Any, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise UserError(f"{path} is {value!r}, must be {allowed}")


def _check_value(path: str, value: Any, allowed: Any) -> None:
    """Raises UserError unless a value, or each entry of a tuple, is among the allowed ones."""
    values = value if isinstance(value, tuple) else (value,)
    if isinstance(allowed, range):
        is_valid = len(values) <= _MAX_SIZES and all(item in allowed for item in values)
        several = f"at most {_MAX_SIZES} numbers " if isinstance(value, tuple) else ""
        _require(path, value, is_valid, f"{several}from {allowed[0]} to {allowed[-1]}")
    elif isinstance(allowed[0], float):
        low, high = allowed
        _require(path, value, low <= value <= high, f"from {low} to {high}")
    elif isinstance(allowed[0], str):
        check_choice(path, str(value), allowed)
    else:
        _require(path, value, value in allowed, f"one of {', '.join(map(str, allowed))}")


def _check_path(path: str, value: str) -> None:
    _require(path, value, not is_address(value), "a path on this machine, not an address")
    try:
        is_valid = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        is_valid = False
    _require(path, value, is_valid, "a valid file or folder name")


def _rules_of_data(f: _Fields) -> Iterator[tuple[str, bool, str]]:
    """Yields rules that relate fields of the data: path, whether it is valid, what is allowed."""
    path, is_images = f["data.path"], f["data.name"] == "images"
    yield "data.path", bool(path) or not is_images, "set if data.name is 'images'"
    yield "data.path", is_images or not path, "None unless --config.data.name=images is set too"
    yield "data.image_size", len(f["data.image_size"]) in (0, 2), 'empty or "(height, width)"'
    yield "data.levels", f["data.levels"] != 1, "0 or at least 2"
    likelihood, binarization = f["likelihood.kind"], f["data.binarization"]
    yield (
        "likelihood.kind",
        binarization == "none" or likelihood in BINARY_LIKELIHOODS,
        f"{' or '.join(BINARY_LIKELIHOODS)} if data.binarization is {binarization!r}: pixels are "
        "then 0 or 1",
    )


def _rules_of_model(f: _Fields) -> Iterator[tuple[str, bool, str]]:
    """Yields rules that relate fields of the model, as `_rules_of_data` does."""
    yield "encoder.dense_sizes", bool(f["encoder.dense_sizes"]), "one or more sizes"
    filters = f["decoder.filters"]
    yield "decoder.filters", bool(filters), "one or more sizes"
    count = f"{len(filters)} numbers, one for each of decoder.filters {filters}"
    yield "decoder.strides", len(f["decoder.strides"]) == len(filters), count
    blocks = len(f["decoder.residual_blocks"])
    yield "decoder.residual_blocks", blocks in (0, len(filters)), f"empty or {count}"
    after = f["decoder.dropout_after"]
    yield (
        "decoder.dropout_after",
        len({*after}) == len(after) and max(after, default=0) < len(filters),
        f"different indices of decoder.filters, from 0 to {len(filters) - 1}",
    )
    yield (
        "decoder.dropout_rate",
        (f["decoder.dropout_rate"] > 0) == bool(after),
        f"above 0 exactly if decoder.dropout_after, here {after}, names layers",
    )
    kind = f["prior.kind"]
    has_dimensions = kind != "coupling_flow" or f["latent_size"] > 1
    yield "latent_size", has_dimensions, "at least 2 if prior.kind is coupling_flow"
    yield (
        "prior.kind",
        kind != "vamp" or f["condition.kind"] == "none",
        "another if condition.kind is label: vamp's pseudo-inputs have no labels",
    )


def _rules_of_training(f: _Fields) -> Iterator[tuple[str, bool, str]]:
    """Yields rules that relate fields of the loss and training, as `_rules_of_data` does."""
    highest = 2**32 - f["train.num_replicas"]
    yield "seed", f["seed"] <= highest, f"at most {highest}, for train.num_replicas seeds"
    has_free_bits = f["loss.free_bits"] > 0
    yield (
        "loss.free_bits",
        not has_free_bits or f["prior.kind"] == "standard_normal",
        f"0 if prior.kind is {f['prior.kind']}, which has no KL per latent dimension",
    )
    warmup = f["loss.elbo_warmup_epochs"]
    if f["loss.num_importance_samples"] == 1:
        yield "loss.elbo_warmup_epochs", not warmup, "0 if loss.num_importance_samples is 1"
        return
    condition = "if loss.num_importance_samples is above 1"
    yield "loss.kl_weight", f["loss.kl_weight"] == 1, f"1.0 {condition}"
    yield "loss.free_bits", not has_free_bits, f"0 {condition}"
    yield "loss.elbo_warmup_epochs", warmup < f["train.num_epochs"], "below train.num_epochs"


def _check_values(fields: _Fields) -> None:
    """Checks the values of fields of the right types, as far as this needs no data."""
    allowed = shipped_configs.allowed_values()
    for path, value in fields.items():
        if path in allowed:
            _check_value(path, value, allowed[path])
        elif isinstance(value, str):
            _check_path(path, value)
    for rules in (_rules_of_data, _rules_of_model, _rules_of_training):
        for path, is_valid, condition in rules(fields):
            _require(path, fields[path], is_valid, condition)


def warn_without_effect(
    config: ml_collections.ConfigDict, among: Collection[str] | None = None
) -> None:
    """Warns, in one line, of fields that differ from their default and have no effect.

    Args:
      config: a valid configuration.
      among: the dotted paths to look at; all if None.
    """
    fields, defaults = flatten(config.to_dict()), default_fields()
    without_effect = [
        f"{path} ({other} is {fields[other]})"
        for path, (other, values) in shipped_configs.effective_if().items()
        if fields[other] not in values
        and fields[path] != defaults[path]
        and (among is None or path in among)
    ]
    if without_effect:
        print(f"warning: set without effect: {', '.join(without_effect)}", file=sys.stderr)


def from_fields(fields: _Fields, overrides: _Fields | None = None) -> ml_collections.ConfigDict:
    """Makes a checked configuration.

    Args:
      fields: the value of every field, by dotted path.
      overrides: fields to change, by dotted path.

    Raises:
      UserError: names the field, its value and the allowed values.
    """
    fields = {**fields, **(overrides or {})}
    check_types(fields)
    _check_values(fields)
    config = shipped_configs.get_config()
    config.update_from_flattened_dict(fields)
    return config


def from_dict(
    config: Mapping[str, Any], overrides: _Fields | None = None
) -> ml_collections.ConfigDict:
    """Makes a checked configuration from nested dictionaries with every field."""
    return from_fields(flatten(config), overrides)


def from_record(
    config: Mapping[str, Any], overrides: _Fields | None = None
) -> ml_collections.ConfigDict:
    """Makes a checked configuration from a run's `config.json`, of any version.

    A field that the record lacks has its default. A new field's default must therefore be the
    behavior before the field; if it cannot be, fill in the earlier value here.
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
