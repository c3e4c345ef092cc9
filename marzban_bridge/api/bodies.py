"""Reads a request's body no further than it may be long."""

from __future__ import annotations

from fastapi import HTTPException, Request


async def read_body(request: Request, *, max_bytes: int, what: str) -> bytes:
    """Return the body; 413, naming what it is, when it is longer."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"{what} may have at most {max_bytes} bytes")
    return bytes(body)
