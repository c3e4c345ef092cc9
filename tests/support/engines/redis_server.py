"""A real Redis for the time of a test; without one on the PATH the test is skipped."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis, RedisError

from tests.support.ports import free_port

PASSWORD = "pw"
DEADLINE_SECONDS = 120


@contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    """Run one on loopback; yield a client that may do everything."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on the PATH (Debian: apt install redis-server)")
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(
        [program, *arguments, "--requirepass", PASSWORD, "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    client = Redis(port=port, password=PASSWORD, decode_responses=True)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _answers(client):
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
