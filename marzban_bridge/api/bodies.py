"""Reads a request's body within bounds of size and time."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from collector.runtime.http import body as http_body
from collector.runtime.http.body import BodyCutOffError, BodyTooLongError, BodyTooSlowError

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, *, max_bytes: int, what: str) -> bytes:
    """Return the body; 413 when it is longer than `max_bytes`; 408 when it arrives too slowly.

    `what` names the body in the error.
    """
    try:
        return await http_body.read_body(
            request.receive,
            limit_bytes=max_bytes,
            read_seconds=request.app.state.settings.read_seconds,
        )
    except BodyTooLongError as error:
        raise HTTPException(413, f"{what} may have at most {max_bytes} bytes") from error
    except BodyTooSlowError as error:
        headers = {"connection": "close"}
        raise HTTPException(408, f"{what} takes too long to arrive", headers) from error
    except BodyCutOffError as error:
        raise HTTPException(400, f"{what} ends too early") from error


async def read_model(request: Request, model: type[Body], *, max_bytes: int, what: str) -> Body:
    """Read a JSON body; 422 names each field that is wrong.

    Called after authentication. (FastAPI reads a declared body before its dependencies.)
    """
    body = await read_body(request, max_bytes=max_bytes, what=what)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg'].lower()}"
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise HTTPException(422, "; ".join(reasons)) from error


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI entry for a body that `read_model` reads."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
