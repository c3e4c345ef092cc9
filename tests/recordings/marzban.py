"""Reads the recordings of a real Marzban 0.8.4, and compares answers with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

FOLDER = Path(__file__).parent / "marzban-0.8.4"
OPENAPI = json.loads((FOLDER / "openapi.json").read_text(encoding="utf-8"))

UNDOCUMENTED = {
    404: "subscriptions and admins that are not there",
    422: "documented in another form than it is sent in",
    500: "the panel's own failures",
}
"""Statuses the panel really gives on documented operations without documenting them."""


class Answer(NamedTuple):
    """One recorded answer."""

    status: int
    body: Any


def recorded_names() -> list[str]:
    """Return the names of all recorded answers and webhook bodies."""
    return sorted(path.stem for path in (FOLDER / "answers").glob("*.json"))


def recorded(name: str) -> Answer:
    """Return one recording."""
    content = json.loads((FOLDER / "answers" / f"{name}.json").read_text(encoding="utf-8"))
    if isinstance(content, dict) and content.keys() == {"status", "body"}:
        return Answer(content["status"], content["body"])
    return Answer(200, content)


def shape(body: Any) -> Any:
    """Return keys and types without the values; a list has the shape of its distinct items."""
    if isinstance(body, dict):
        return {key: shape(value) for key, value in body.items()}
    if isinstance(body, list):
        shapes: list[Any] = []
        for item in map(shape, body):
            if item not in shapes:
                shapes.append(item)
        return shapes
    return type(body).__name__


def assert_documented(method: str, path: str, status: int, body: Any) -> None:
    """Check an answer against the interface description; fail for an unknown operation."""
    responses = _operation(method, path)["responses"]
    content = responses.get(str(status), {}).get("content", {})
    if str(status) not in responses:
        assert status in UNDOCUMENTED, f"{method} {path} answered an undocumented {status}"
    elif "application/json" in content and not isinstance(body, str):
        schema = content["application/json"]["schema"] | {"components": OPENAPI["components"]}
        jsonschema.validate(body, schema, cls=jsonschema.Draft202012Validator)


def _operation(method: str, path: str) -> dict[str, Any]:
    for template, operations in OPENAPI["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", template).rstrip("/") + "/?"
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return operations[method.lower()]
    raise AssertionError(f"{method} {path} is not in the interface description")
