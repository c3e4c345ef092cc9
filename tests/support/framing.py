"""Keeps generated requests to what an application sees."""

from __future__ import annotations

FRAMING = {"content-length", "transfer-encoding", "connection", "host", "upgrade", "expect"}


def drop_framing(case) -> None:
    """Drop generated headers that frame the message: the server answers those, no application."""
    for name in [name for name in case.headers or () if name.lower() in FRAMING]:
        del case.headers[name]
