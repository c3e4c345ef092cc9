"""Reads a source's counters: by one HTTP request or command, bounded in time and size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import httpx

from collector.agent.config.settings import Source
from collector.agent.errors import SourceError
from collector.agent.grpc_calls import call_all
from collector.agent.requests import SEPARATOR, CommandRequest, GrpcCalls, HttpGet, SourceRequest
from collector.agent.state.counters import PollTime, Sample
from collector.client.sending.process_identity import this_boot

MAX_ANSWER_BYTES = 64 * 2**20
MAX_COMPLAINT = 200


@asynccontextmanager
async def local_http() -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client for sources, which uses no proxy and follows no redirect."""
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as client:
        yield client


async def read(source: Source, http: httpx.AsyncClient) -> Sample:
    """Return a source's counters; SourceError if it does not answer with counters in time."""
    began_seconds = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        async with asyncio.timeout(source.timeout_seconds):
            answer = await _answer(source.request, http)
    except TimeoutError:
        raise SourceError(f"no answer within {source.timeout_seconds:g} s") from None
    polled = PollTime(this_boot(), began_seconds, time.clock_gettime(time.CLOCK_MONOTONIC))
    return replace(await asyncio.to_thread(source.parse, answer), polled=polled)


async def _answer(request: SourceRequest, http: httpx.AsyncClient) -> bytes:
    if isinstance(request, HttpGet):
        return await _get(request, http)
    if isinstance(request, CommandRequest):
        return await _run_all(request)
    if isinstance(request, GrpcCalls):
        return await call_all(request)
    raise SourceError("internal error: a stream is read by `stream.follow`")


async def _get(request: HttpGet, http: httpx.AsyncClient) -> bytes:
    where = urlsplit(request.url).netloc
    try:
        async with http.stream(
            "GET", request.url, headers=dict(request.headers), timeout=None
        ) as response:
            if response.status_code in {401, 403}:
                raise SourceError(f"{where} answers {response.status_code}: is the secret right?")
            if response.status_code != 200:
                raise SourceError(f"{where} answers {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise SourceError(f"{where} answers with more than {MAX_ANSWER_BYTES} bytes")
    except httpx.HTTPError as error:
        raise SourceError(f"{where} does not answer ({type(error).__name__})") from error
    return bytes(body)


async def _run_all(request: CommandRequest) -> bytes:
    if not request.around:
        return await _run(request.words)
    before = await _run_if_it_can(request.around)
    printed = await _run(request.words)
    after = await _run_if_it_can(request.around)
    return SEPARATOR.join((before, printed, after))


async def _run_if_it_can(words: tuple[str, ...]) -> bytes:
    with contextlib.suppress(SourceError):
        return await _run(words)
    return b""


async def _run(words: tuple[str, ...]) -> bytes:
    program = words[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SourceError(f"cannot run {program}: {error.strerror or error}") from error
    try:
        printed, complained = await asyncio.gather(
            _bounded(process.stdout), _bounded(process.stderr)
        )
        code = await process.wait()
    finally:
        # After a timeout or a cancellation, end the command and its child processes.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code:
        complaint = " ".join(complained.decode(errors="replace").split())[:MAX_COMPLAINT]
        raise SourceError(f"{program} ended with {code}" + (f": {complaint}" if complaint else ""))
    return printed


async def _bounded(stream: asyncio.StreamReader | None) -> bytes:
    taken = bytearray()
    while stream is not None and (chunk := await stream.read(65536)):
        taken += chunk
        if len(taken) > MAX_ANSWER_BYTES:
            raise SourceError(f"the command prints more than {MAX_ANSWER_BYTES} bytes")
    return bytes(taken)
