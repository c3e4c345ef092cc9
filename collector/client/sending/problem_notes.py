"""The problem of a client's delivery: kept, logged, and passed to `on_error` once per change.

It logs to `collector.client`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from collector.client.delivery_errors import DeliveryError, RejectedError, UnauthorizedError
from collector.client.errors import ClientError, FailureKind
from collector.client.receipt import Rejected
from collector.client.sending.delivery import Empty, Progress, Setback, Step

log = logging.getLogger("collector.client")

ErrorCallback = Callable[[ClientError], None]


class ProblemNotes:
    """The problem of one client; `on_error` is called with each new one."""

    def __init__(self, url: str, on_error: ErrorCallback | None) -> None:
        self._url = url
        self._on_error = on_error
        self._last: tuple[FailureKind | None, int | None] | None = None
        self.text: str | None = None

    def error_of(self, step: Setback) -> ClientError:
        """Return the error for a setback, to be raised or passed to `on_error`."""
        told = f"the collector at {self._url} {step.reason}"
        error = UnauthorizedError if step.is_denied else DeliveryError
        return error(told, kind=step.kind, status=step.status)

    def note(self, step: Step) -> None:
        """Note the outcome of an attempt."""
        if isinstance(step, Setback):
            self.fail(self.error_of(step))
            return
        if isinstance(step, Progress) and step.receipt.rejected:
            self._reject(step.receipt.rejected)
        self.text = None
        if isinstance(step, Empty) and self._last is not None and self._last[0] != "spool":
            return  # nothing was sent, so the problem may still be there
        if self._last is not None:
            log.info("delivery_works: the collector at %s accepts reports", self._url)
        self._last = None

    def fail(self, error: ClientError) -> None:
        """Note an error; log it and pass it on if it is another one than before."""
        self.text = str(error)
        if self._last == (error.kind, error.status):
            return
        self._last = (error.kind, error.status)
        log.warning("delivery_fails kind=%s: %s", error.kind, error)
        self._tell(error)

    def _reject(self, rejected: Sequence[Rejected]) -> None:
        error = RejectedError(rejected)
        log.warning("set_aside: %s", error)
        self._tell(error)

    def _tell(self, error: ClientError) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error)
        except Exception:
            log.exception("error_callback_fails: on_error of the client raised")
