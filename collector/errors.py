"""The errors of the collector; each message says what to do."""

from __future__ import annotations


class CollectorError(Exception):
    """The parent of every error the collector raises on purpose."""


class SettingsError(CollectorError):
    """A setting or an argument cannot be used; the message names it and says what to do."""


class LedgerError(CollectorError):
    """The ledger cannot be used: locked, corrupt, foreign, or written by a newer version."""


class LedgerInUseError(LedgerError):
    """Another process writes the ledger."""


class ImportFileError(CollectorError):
    """A file cannot be imported: missing, unreadable, or without a required column."""


class NotStoredError(CollectorError):
    """A report was not stored; retrying with the same id is safe and may succeed."""


class QueueFullError(NotStoredError):
    """The queue of reports that wait for a commit is full."""


class LedgerUnavailableError(NotStoredError):
    """The ledger's PostgreSQL server cannot be reached now; any other query fails as well."""


class DiskFullError(NotStoredError):
    """The disk under the ledger is full."""


class IdentityUnknownError(CollectorError):
    """A subscription token belongs to no user of any panel."""


class PanelUnavailableError(CollectorError):
    """The panel cannot be asked which user a token belongs to; a retry may succeed."""


class TokenUndecidedError(PanelUnavailableError):
    """Some panels do not know a token, and those that may know it cannot be asked."""


class TooManyLookupsError(CollectorError):
    """More unknown subscription tokens arrive than the limit of look-ups at the panel allows."""

    def __init__(self, message: str, *, wait_seconds: float) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class InfluxError(CollectorError):
    """A request to InfluxDB failed."""


class InfluxUnavailableError(InfluxError):
    """InfluxDB does not answer, or answers that it cannot serve now; a retry may succeed."""


class InfluxRefusedError(InfluxError):
    """InfluxDB refuses the request; the message says what the operator has to change."""


class InfluxUnauthorizedError(InfluxRefusedError):
    """InfluxDB does not know the token."""
