"""Settings as frozen dataclasses whose fields say by which environment variable each is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from collector.runtime.config import ConfigError
from collector.runtime.config.values import Kind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    S = TypeVar("S", bound=DataclassInstance)


class Variable(NamedTuple):
    """One environment variable: its name, its default as text, what it is for."""

    name: str
    default: str
    description: str


def variable(
    name: str, default: object, description: str, kind: Kind[Any], *, is_secret: bool = False
) -> Any:
    """Return the field of a setting; a secret is kept out of the settings' representation."""
    written = str(default)
    return field(
        default=kind.of_text(written) if written else kind.empty,
        repr=not is_secret,
        metadata={
            "variable": Variable(name, written, description),
            "kind": kind,
            "is_secret": is_secret,
        },
    )


def read_variables(settings: type[S], environment: Mapping[str, str]) -> S:
    """Return the settings that an environment says; unset and empty variables take their defaults.

    Blanks around a value are none of it. Raises ConfigError that begins with the variable's name.
    """
    values, faults = read_each(settings, environment)
    for name, fault in faults.items():
        raise ConfigError(f"{name}: {fault}")
    return settings(**values)


def read_each(
    settings: type[DataclassInstance], environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the well-formed values that are given, by field, and what is wrong, by variable."""
    values, faults = {}, {}
    for each in fields(settings):
        name = each.metadata["variable"].name
        if raw := environment.get(name, "").strip():
            try:
                values[each.name] = each.metadata["kind"].of_text(raw)
            except ValueError as error:
                faults[name] = str(error)
    return values, faults


def variables_of(settings: type[DataclassInstance]) -> list[Variable]:
    """List every variable that settings are read from, with its default and what it is for."""
    return [each.metadata["variable"] for each in fields(settings)]


def secrets_of(settings: type[DataclassInstance]) -> frozenset[str]:
    """Return the names of the variables whose values are kept out of representations."""
    return frozenset(
        each.metadata["variable"].name for each in fields(settings) if each.metadata["is_secret"]
    )
