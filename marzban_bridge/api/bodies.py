"""Reads a request's body no further than it may be long, and no longer than it may take."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from marzban_bridge.api.context import bridge_of

LEAST_BYTES_PER_SECOND = 8192
"""A body that arrives more slowly than this is given up, after its first seconds."""
Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, *, max_bytes: int, what: str) -> bytes:
    """Return the body; 413, naming what it is, when it is longer; 408 when it comes too slowly."""
    body = bytearray()
    now_seconds = asyncio.get_running_loop().time
    read_seconds = bridge_of(request).settings.read_seconds
    latest = now_seconds() + read_seconds
    try:
        async with asyncio.timeout_at(latest) as deadline:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise HTTPException(413, f"{what} may have at most {max_bytes} bytes")
                latest += len(chunk) / LEAST_BYTES_PER_SECOND
                latest = min(latest, now_seconds() + read_seconds)  # haste earns no rest
                deadline.reschedule(latest)
    except TimeoutError as error:
        headers = {"connection": "close"}
        raise HTTPException(408, f"{what} takes too long to arrive", headers) from error
    except ClientDisconnect as error:  # nobody is there to be answered
        raise HTTPException(400, f"{what} ends too early") from error
    return bytes(body)


async def read_model(request: Request, model: type[Body], *, max_bytes: int, what: str) -> Body:
    """Read a body of JSON; 422 names the field that is wrong, the confirmation among them.

    For bodies that are not to be read before it is known who sends them: declared ones are.
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
    """Describe a body that is read by hand, for a route's entry in the OpenAPI document."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
