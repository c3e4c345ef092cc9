"""What can go wrong on the way to a collector, and what the caller can do about it."""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "dns",
    "refused",
    "network",
    "proxy",
    "timeout",
    "certificate",
    "tls",
    "disconnected",
    "address",
    "busy",
    "not_a_collector",
    "unauthorized",
    "rejected",
    "spool",
    "sender",
]
"""What went wrong: the host name is unknown, nothing listens, no way there, the proxy refuses, no
answer in time, a certificate that is not trusted, no TLS, a connection that ended, an address that
cannot be asked, a collector that says later, another program that answers, a key or subscription
that is not valid, reports that are refused for good, the spool's file, the sender itself."""
_NEEDS_A_CHANGE = {"certificate", "address", "unauthorized", "rejected"}


class ClientError(Exception):
    """The parent of every error the client raises on purpose.

    Attributes:
        kind: What went wrong; None for a call that cannot be right.
        status: The HTTP status that was answered; None where nothing was.
    """

    kind: FailureKind | None = None
    status: int | None = None

    def __init__(
        self, message: str, *, kind: FailureKind | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind or self.kind
        self.status = status

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later with nothing changed on this side."""
        return self.kind is not None and self.kind not in _NEEDS_A_CHANGE


class ReportError(ClientError, ValueError):
    """A report no collector would take; the message names the field."""


class SpoolError(ClientError):
    """The spool's file cannot be used: foreign, damaged, newer, or the disk refuses."""

    kind = "spool"

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later: a full spool empties, a damaged one does not."""
        return isinstance(self, SpoolFullError)


class SpoolFullError(SpoolError):
    """The spool holds as much as it may: nothing was queued, try again when some was delivered."""
