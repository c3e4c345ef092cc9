"""What a collector that was asked did not take, and why: errors that name the reports."""

from __future__ import annotations

from collections.abc import Sequence

from collector.client.errors import ClientError, FailureKind
from collector.client.receipt import Rejected
from collector.client.report import Report


class UnauthorizedError(ClientError):
    """The collector does not accept the key or subscription; what is spooled stays there."""

    kind = "unauthorized"


class DeliveryError(ClientError):
    """The collector took nothing this time; `kind` says why. What is spooled stays there."""


class NotDeliveredError(DeliveryError):
    """Some reports were not taken in time; sending these again doubles nothing.

    Attributes:
        undelivered: The very reports that were given and not taken, with their ids.
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
    """The collector refuses some reports for good; they are set aside in the spool.

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
