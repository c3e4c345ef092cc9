"""Describes, in an OpenAPI document, the fields and parameters that say nothing of themselves.

A name means the same in all answers of a program, so it is described once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def describe_fields(document: dict[str, Any], descriptions: Mapping[str, str]) -> None:
    """Give each field and parameter without a description that of its name."""
    for name, owner in named_parts(document):
        if name in descriptions and not is_described(owner):
            owner["description"] = descriptions[name]


def named_parts(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field of a schema, and each parameter of a route, with its name."""
    for schema in document.get("components", {}).get("schemas", {}).values():
        yield from schema.get("properties", {}).items()
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                yield parameter["name"], parameter


def is_described(owner: Mapping[str, Any]) -> bool:
    """Tell whether a field or parameter has a description, of its own or of one of its types."""
    options = (owner, owner.get("schema", {}), *owner.get("anyOf", ()))
    return any(each.get("description") for each in options)
