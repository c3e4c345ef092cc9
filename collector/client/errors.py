"""The errors of the client, and whether a retry may succeed."""

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
"""What went wrong, in this order: the host name is unknown; nothing listens; the network is
unreachable; the proxy refuses; a timeout; a certificate that is not trusted; no TLS; the connection
was closed; the URL is not valid; the collector asks to retry later; another program answered; the
key or subscription is not valid; reports are refused for good; the spool's file; the sender."""
_NEEDS_A_CHANGE = {"certificate", "address", "unauthorized", "rejected"}


class ClientError(Exception):
    """The parent of every error the client raises on purpose.

    Attributes:
        kind: What went wrong; None for a call with invalid arguments.
        status: The HTTP status of the answer; None if there was no answer.
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
    """A report that every collector would refuse; the message names the field."""


class SpoolError(ClientError):
    """The spool's file cannot be used: no spool, damaged, of a newer version, or a disk error."""

    kind = "spool"

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later: a full spool empties, a damaged one does not."""
        return isinstance(self, SpoolFullError)


class SpoolFullError(SpoolError):
    """The spool or its disk is full: nothing was queued; retry once some was delivered."""
