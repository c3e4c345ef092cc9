"""What can go wrong on the way to a collector, and what the caller can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collector.client.report import Report


class ClientError(Exception):
    """The parent of every error the client raises on purpose."""


class ReportError(ClientError, ValueError):
    """A report no collector would take; the message names the field."""


class SpoolError(ClientError):
    """The spool's file cannot be used: foreign, damaged, newer, or the disk refuses."""


class SpoolFullError(SpoolError):
    """The spool holds as much as it may: nothing was queued, try again when some was delivered."""


class UnauthorizedError(ClientError):
    """The collector does not accept the key or subscription; what is spooled stays there."""


class NotDeliveredError(ClientError):
    """Some reports were not taken in time; sending these again doubles nothing.

    `undelivered` holds the very reports that were given, under the ids they were sent with.
    """

    def __init__(self, message: str, undelivered: list[Report]) -> None:
        super().__init__(message)
        self.undelivered = undelivered
