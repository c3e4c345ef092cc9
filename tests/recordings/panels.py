"""Reads the recordings of real panels, and compares answers with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

UNDOCUMENTED = {
    400: "bodies that are no text",
    401: "wrong credentials",
    404: "subscriptions and admins that are not there",
    422: "documented in another form than it is sent in",
    500: "the panels' own failures",
    503: "what a panel's database refuses",
}
"""Statuses the panels really give on documented operations without documenting them."""


class Answer(NamedTuple):
    """One recorded answer."""

    status: int
    body: Any


class Recordings:
    """What one panel answered and sent, and its description of its interface."""

    def __init__(self, name: str) -> None:
        self._folder = Path(__file__).parent / name

    @cached_property
    def openapi(self) -> dict[str, Any]:
        """The panel's interface description, reduced."""
        content: dict[str, Any] = json.loads((self._folder / "openapi.json").read_text("utf-8"))
        return content

    def names(self) -> list[str]:
        """Return the names of all recorded answers and webhook bodies."""
        return sorted(path.stem for path in (self._folder / "answers").glob("*.json"))

    def content(self, name: str) -> Any:
        """Return what is in one recording's file."""
        return json.loads((self._folder / "answers" / f"{name}.json").read_text("utf-8"))

    def rows(self, name: str) -> list[Any]:
        """Return a row of recorded requests and their answers, in their order."""
        content: list[Any] = json.loads((self._folder / f"{name}.json").read_text("utf-8"))
        return content

    def recorded(self, name: str) -> Answer:
        """Return one recording; a file without a status is the body of a 200."""
        content = self.content(name)
        if isinstance(content, dict) and content.keys() == {"status", "body"}:
            return Answer(content["status"], content["body"])
        if isinstance(content, dict) and content.keys() == {"request", "status", "answer"}:
            return Answer(content["status"], content["answer"])
        return Answer(200, content)

    def assert_documented(self, method: str, path: str, status: int, body: Any) -> None:
        """Check an answer against the interface description; fail for an unknown operation."""
        responses = self._operation(method, path)["responses"]
        content = responses.get(str(status), {}).get("content", {})
        if str(status) not in responses:
            assert status in UNDOCUMENTED, f"{method} {path} answered an undocumented {status}"
        elif "application/json" in content and not isinstance(body, str):
            components = {"components": self.openapi["components"]}
            schema = content["application/json"]["schema"] | components
            jsonschema.validate(body, schema, cls=jsonschema.Draft202012Validator)

    def _operation(self, method: str, path: str) -> Mapping[str, Any]:
        for template, operations in self.openapi["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", template).rstrip("/") + "/?"
            if re.fullmatch(pattern, path) and method.lower() in operations:
                found: Mapping[str, Any] = operations[method.lower()]
                return found
        raise AssertionError(f"{method} {path} is not in the interface description")


MARZBAN = Recordings("marzban-0.8.4")
PASARGUARD = Recordings("pasarguard-5.2.1")
RECORDINGS = {"marzban": MARZBAN, "pasarguard": PASARGUARD}


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
