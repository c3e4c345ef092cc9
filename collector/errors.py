"""What can go wrong in the collector, and what the operator can do about it."""

from __future__ import annotations


class CollectorError(Exception):
    """The parent of every error the collector raises on purpose."""


class SettingsError(CollectorError):
    """What is set, or asked for, cannot be used; the message names it and says what to do."""


class LedgerError(CollectorError):
    """The ledger cannot be used: locked, corrupt, foreign, or written by a newer version."""


class LedgerInUseError(LedgerError):
    """Another process writes the ledger."""


class ImportFileError(CollectorError):
    """A file cannot be imported: missing, unreadable, or without what is needed of it."""


class NotStoredError(CollectorError):
    """A report was not stored; sending it again later is safe and may succeed."""


class QueueFullError(NotStoredError):
    """More reports are waiting to be stored than the queue takes."""


class LedgerUnavailableError(NotStoredError):
    """The ledger's server cannot be reached, or not now: every other call would fail as well."""


class DiskFullError(NotStoredError):
    """The disk under the ledger is full."""


class IdentityUnknownError(CollectorError):
    """A subscription token is not one of the panel's users'."""


class PanelUnavailableError(CollectorError):
    """The panel cannot be asked whose token it is; the same call may succeed later."""


class TooManyLookupsError(CollectorError):
    """More unknown subscription tokens arrive than the panel may be asked about."""

    def __init__(self, message: str, *, wait_seconds: float) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class InfluxError(CollectorError):
    """InfluxDB did not do what it was asked."""


class InfluxUnavailableError(InfluxError):
    """InfluxDB does not answer, or not now; the same call may succeed later."""


class InfluxRefusedError(InfluxError):
    """InfluxDB refuses; the message says what the operator has to mend."""
