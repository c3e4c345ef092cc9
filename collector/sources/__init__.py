"""Foreign payloads: one pure module per kind turns what others send into reports, or refusals.

A payload without ids gets them from the id of its message: one per user, so that a message that is
sent again is counted once, also where the users' names were configured anew in between.
"""

from __future__ import annotations

import hashlib

import msgspec

from collector.reports.report import Refusal, WireReport

MAX_ROWS = 100_000
"""The most users one payload may be about, moving or not."""


class Translated(msgspec.Struct, frozen=True):
    """What a foreign payload says of users' traffic."""

    reports: list[tuple[int, WireReport]]
    """Of users with traffic, with their places in the payload."""
    refusals: list[Refusal]
    ignored: int
    """Rows of zero bytes: dropped before anything else."""


def report_id(*, kind: str, message_id: str, foreign_user: str) -> str:
    """Return the id of one user's report within a message."""
    text = f"{kind}\x1f{message_id}\x1f{foreign_user}".encode("utf-8", "surrogatepass")
    return f"{kind}/{hashlib.blake2b(text, digest_size=16).hexdigest()}"
