"""Unit tests start no process and no server: they are quick, and fail for one reason."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any, NoReturn

import pytest

STARTS = (
    (subprocess.Popen, "__init__"),
    (os, "fork"),
    (os, "posix_spawn"),
    (os, "system"),
    (socket.socket, "listen"),
)
"""What starts a process or a server, on whatever way a test comes to it."""


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError(
        "a unit test starts a process or a server: move it to tests/integration, or give what it "
        "tests a double"
    )


@pytest.fixture(autouse=True)
def _starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in STARTS:
        monkeypatch.setattr(owner, name, refuse)
