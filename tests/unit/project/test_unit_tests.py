"""A unit test cannot start a process or a server."""

from __future__ import annotations

import asyncio
import http.server
import multiprocessing
import os
import subprocess
import sys

import pytest

REFUSED = "move it to tests/integration"


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        lambda: os.system("true"),
        lambda: multiprocessing.get_context("fork").Process(target=print).start(),
        lambda: http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler),
    ],
)
def test_what_starts_something_is_refused(start):
    with pytest.raises(AssertionError, match=REFUSED):
        start()


async def test_a_process_of_the_event_loop_is_refused():
    with pytest.raises(AssertionError, match=REFUSED):
        await asyncio.create_subprocess_exec(sys.executable, "-c", "")
