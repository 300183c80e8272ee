"""Building a part of the model from the fields of its group in a configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def build(
    noun: str, kinds: Mapping[str, type], attributes: Mapping[str, Any], known: Mapping[str, Any]
) -> Any:
    """Builds the class that `kind` names, of those attributes that are its fields.

    A group of a configuration holds the fields of every kind: those of the others are left out.

    Args:
      noun: "encoder" or the like, for the errors.
      kinds: dataclasses by name.
      attributes: `kind`, and values by field.
      known: values that no configuration holds, such as the images' shape; likewise.

    Raises:
      ValueError: there is no such kind, or an attribute is a field of no kind.
    """
    kind = attributes["kind"]
    if kind not in kinds:
        raise ValueError(f"{noun} kind is {kind!r}, must be one of {', '.join(kinds)}")
    fields = {name: {field.name for field in dataclasses.fields(kinds[name])} for name in kinds}
    unknown = set(attributes) - {"kind"}.union(*fields.values())
    if unknown:
        raise ValueError(f"no {noun} has an attribute {min(unknown)!r}")
    given = {**attributes, **known}
    return kinds[kind](**{name: value for name, value in given.items() if name in fields[kind]})
