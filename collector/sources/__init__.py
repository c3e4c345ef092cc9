"""Payloads of other panels: one pure module per kind translates them into reports or refusals.

The reports of a payload get their ids from the message's id and the user's name in the payload, so
that a message that is sent again counts once, even if the mapping of names changed in between.
"""

from __future__ import annotations

import hashlib

import msgspec

from collector.reports.report import Refusal, WireReport

MAX_ROWS = 100_000
"""The most users in one payload, with or without traffic."""


class Translated(msgspec.Struct, frozen=True):
    """The result of translating a payload."""

    reports: list[tuple[int, WireReport]]
    """Reports of users with traffic, with their indexes in the payload."""
    refusals: list[Refusal]
    ignored: int
    """Rows of zero bytes, which are not stored."""


def report_id(*, kind: str, message_id: str, foreign_user: str) -> str:
    """Return the id of one user's report within a message."""
    text = f"{kind}\x1f{message_id}\x1f{foreign_user}".encode("utf-8", "surrogatepass")
    return f"{kind}/{hashlib.blake2b(text, digest_size=16).hexdigest()}"
