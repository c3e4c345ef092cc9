"""Problem details (RFC 9457): the one form in which errors are answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from collector.runtime.http.problem_fields import MEDIA_TYPE, NO_TYPE, details_of


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(NO_TYPE, description="Always `about:blank`: the status tells the kind")
    title: str = Field("", description="The name of the status", examples=["Unauthorized"])
    status: int = Field(0, description="The HTTP status", examples=[401])
    detail: str = Field(description="What went wrong, with which object, and what to do")


class ProblemResponse(JSONResponse):
    """An answer with problem details."""

    media_type = MEDIA_TYPE


def problem_answer(
    status: int, detail: str, headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """Return the answer with a problem of a status."""
    return ProblemResponse({**details_of(status), "detail": detail}, status, headers)


def nothing_at(path: str) -> str:
    """Return the detail of a 404 for a path without a route; the path itself may hold a key."""
    if path.rstrip("/").endswith("/dashboard"):
        return "there is no dashboard here: Grafana shows it, on port 3000 of the whole stack"
    return "there is nothing at this path; /docs lists what there is"


def say_problems(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document with which media type the schema `Problem` is answered."""
    for path in document["paths"].values():
        for operation in path.values():
            for answer in operation.get("responses", {}).values():
                content = answer.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref") == "#/components/schemas/Problem":
                    answer["content"] = {MEDIA_TYPE: content["application/json"]}
