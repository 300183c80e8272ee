"""Checks of a configuration: fields, types and values. Imports neither JAX nor data.

Fields are named by their dotted path: `train.batch_size`. Their defaults and allowed values are in
`configs/default.py`; rules that relate several fields are here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from vae_jax import shipped_configs
from vae_jax.runtime.errors import UserError, check_choice, closest_match
from vae_jax.runtime.files import is_address

BINARY_LIKELIHOODS = ("bernoulli",)  # of black and white pixels only
# Characters that no file's name has on any system: NUL and surrogates without a partner.
_NOT_IN_PATHS = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_SIZE = range(1, 2**31)  # of integers without an entry in `configs/default.py`
_Fields = Mapping[str, Any]


def has_likelihood(likelihood: str, binarization: str) -> bool:
    """Whether the loss bounds a likelihood; the cross-entropy of gray pixels does not."""
    return likelihood not in BINARY_LIKELIHOODS or binarization != "none"


def default_fields() -> dict[str, Any]:
    """Returns every field's default by dotted path."""
    return flatten(shipped_configs.get_config().to_dict())


def check_field(path: str) -> None:
    """Raises UserError, with the closest match, unless `path` is a field."""
    if path not in (fields := default_fields()):
        closest = closest_match(path, [*fields])
        raise UserError(f"{path} is not a field of a configuration; closest match: {closest}")


def _describe_type(default: Any) -> str:
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
    """Raises UserError if a field is unknown or has a wrong type."""
    defaults = default_fields()
    for path, value in fields.items():
        if path not in defaults:
            check_field(path)
        if not _has_type_of(value, defaults[path]):
            raise UserError(f"{path} is {value!r}, must be {_describe_type(defaults[path])}")


def _require(path: str, value: Any, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise UserError(f"{path} is {value!r}, must be {allowed}")


def _check_value(path: str, value: Any, allowed: Any) -> None:
    """Raises UserError unless a value, or each entry of a tuple, is among the allowed ones."""
    values = value if isinstance(value, tuple) else (value,)
    if isinstance(allowed[0], str):
        check_choice(path, str(value), allowed)
    elif isinstance(allowed[0], float):
        low, high = allowed
        _require(path, value, low <= value <= high, f"from {low} to {high}")
    elif isinstance(allowed, range):
        is_valid = all(item in allowed for item in values)
        _require(path, value, is_valid, f"from {allowed[0]} to {allowed[-1]}")
    else:
        _require(path, value, value in allowed, f"one of {', '.join(map(str, allowed))}")


def _rules(f: _Fields) -> Iterator[tuple[str, bool, str]]:
    """Yields rules that relate several fields: path, whether it is valid, what is allowed."""
    is_images = f["data.name"] == "images"
    yield "data.path", is_images == bool(f["data.path"]), "set if data.name is 'images', else None"
    yield "data.image_size", len(f["data.image_size"]) in (0, 2), 'empty or "(height, width)"'
    yield "data.levels", f["data.levels"] != 1, "0 or at least 2"
    is_possible = f["likelihood.kind"] in BINARY_LIKELIHOODS or f["data.binarization"] == "none"
    yield "likelihood.kind", is_possible, "bernoulli unless data.binarization is 'none'"
    is_possible = f["encoder.map_channels"] > 0 or not f["encoder.residual_blocks"]
    yield "encoder.residual_blocks", is_possible, "0 unless encoder.map_channels is set"
    count = len(f["decoder.filters"])
    is_possible = len(f["decoder.strides"]) == count
    yield "decoder.strides", is_possible, f"{count} numbers, one for each of decoder.filters"
    is_possible = len(f["decoder.residual_blocks"]) in (0, count)
    yield "decoder.residual_blocks", is_possible, f"empty or {count} numbers, as decoder.filters"
    after = f["decoder.dropout_after"]
    yield "decoder.dropout_after", max(after, default=-1) < count, f"below {count}"
    is_possible = (f["decoder.dropout_rate"] > 0) == bool(after)
    yield "decoder.dropout_rate", is_possible, f"above 0 if decoder.dropout_after, {after}, is set"
    prior = f["prior.kind"]
    is_possible = prior != "coupling_flow" or f["latent_size"] > 1
    yield "latent_size", is_possible, "at least 2 if prior.kind is coupling_flow"
    is_possible = prior != "vamp" or f["condition.kind"] == "none"
    yield "prior.kind", is_possible, "another if condition.kind is label: pseudo-inputs have none"
    highest = 2**32 - f["train.num_replicas"]
    yield "seed", f["seed"] <= highest, f"at most {highest}, for train.num_replicas seeds"
    has_one_sample = f["loss.num_importance_samples"] == 1
    is_possible = f["loss.free_bits"] == 0 or (has_one_sample and prior == "standard_normal")
    needs = "unless prior.kind is standard_normal and loss.num_importance_samples is 1"
    yield "loss.free_bits", is_possible, f"0 {needs}"
    is_possible = f["loss.kl_weight"] == 1 or has_one_sample
    yield "loss.kl_weight", is_possible, "1.0 unless loss.num_importance_samples is 1"


def from_dict(
    config: Mapping[str, Any], overrides: _Fields | None = None
) -> ml_collections.ConfigDict:
    """Makes a checked configuration from nested dictionaries, or from fields by dotted path.

    The overrides, by dotted path, replace fields. A field that is missing, as in the `config.json`
    of an older run, has its default, which must therefore be the behavior before the field.

    Raises:
      UserError: names the field, its value and the allowed values.
    """
    fields = {**default_fields(), **flatten(config), **(overrides or {})}
    check_types(fields)
    allowed = shipped_configs.allowed_values()
    for path, value in fields.items():
        if path in allowed or type(value) in (int, tuple):
            _check_value(path, value, allowed.get(path, _SIZE))
        elif isinstance(value, str):
            is_path = not is_address(value) and not _NOT_IN_PATHS.search(value)
            _require(path, value, is_path, "the path of a file or folder on this machine")
    for path, is_valid, condition in _rules(fields):
        _require(path, fields[path], is_valid, condition)
    checked = shipped_configs.get_config()
    checked.update_from_flattened_dict(fields)
    return checked


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries, their keys joined by dots; lists become tuples."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
