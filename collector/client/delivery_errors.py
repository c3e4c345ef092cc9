"""Errors of a delivery: what the collector did not accept, and why."""

from __future__ import annotations

from collections.abc import Sequence

from collector.client.errors import ClientError, FailureKind
from collector.client.receipt import Rejected
from collector.client.report import Report


class UnauthorizedError(ClientError):
    """The collector refuses the key or the subscription; spooled reports stay in the spool."""

    kind = "unauthorized"


class DeliveryError(ClientError):
    """An attempt delivered nothing; `kind` says why. Spooled reports stay in the spool."""


class NotDeliveredError(DeliveryError):
    """Some reports were not accepted in time; sending these again counts them once.

    Attributes:
        undelivered: The given report objects that were not accepted, with their ids.
    """

    def __init__(
        self,
        message: str,
        undelivered: list[Report],
        *,
        kind: FailureKind | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, kind=kind, status=status)
        self.undelivered = undelivered


class RejectedError(ClientError):
    """The collector refuses some reports for good; they are dead letters in the spool.

    Attributes:
        rejected: Which ones, and why.
    """

    kind = "rejected"

    def __init__(self, rejected: Sequence[Rejected]) -> None:
        first = rejected[0]
        super().__init__(
            f"{len(rejected)} reports were refused and set aside, the first one because its "
            f"{first.reason}"
        )
        self.rejected = tuple(rejected)
