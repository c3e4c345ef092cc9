"""Unary gRPC calls over HTTP/2 without TLS, for a server on this machine; extra `grpc`."""

from __future__ import annotations

import httpx

from collector.agent.errors import SourceError
from collector.agent.requests import GrpcCalls
from collector.agent.sources.protobuf import framed

UNIMPLEMENTED = "12"
SECONDS = 300.0
"""Timeout of one request; the source's own timeout, of all calls together, is shorter."""


async def call_all(request: GrpcCalls) -> bytes:
    """Make the calls on one connection; return their answers, concatenated."""
    answers = b""
    client = httpx.AsyncClient(
        http1=False, http2=True, trust_env=False, follow_redirects=False, timeout=SECONDS
    )
    async with client:
        for method, message in request.calls:
            answers += await _call(client, request, method, message)
    return answers


async def _call(
    client: httpx.AsyncClient, request: GrpcCalls, method: str, message: bytes
) -> bytes:
    where = request.url.removeprefix("http://")
    headers = {"content-type": "application/grpc", "te": "trailers"}
    try:
        response = await client.post(
            f"{request.url}/{request.service}/{method}", headers=headers, content=framed(message)
        )
    except (httpx.HTTPError, OSError) as error:
        raise SourceError(f"{where} does not answer gRPC ({type(error).__name__})") from error
    status = response.headers.get("grpc-status", "0")
    if status == UNIMPLEMENTED:
        raise SourceError(f"{where} has no {request.service}: is its API enabled?")
    if response.status_code != 200 or status != "0":
        raise SourceError(f"{where} answers HTTP {response.status_code}, gRPC status {status}")
    if not response.content:  # an error would be in the trailers, which httpx does not show
        raise SourceError(f"{where} answers {method} with an empty body")
    return response.content
