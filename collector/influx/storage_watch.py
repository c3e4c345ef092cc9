"""Watches the database while the export runs: mends what has drifted, or says what to do.

A token of least privilege sees the buckets it may read, and no organization; it cannot create or
correct any. So a bucket that is not seen may be there all the same: only a write to it tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from collector.errors import CollectorError, InfluxRefusedError, InfluxUnavailableError
from collector.influx.buckets import BucketChange, plan_buckets
from collector.runtime.outage import Outage
from collector.schema import Policy

log = logging.getLogger(__name__)

CHECK_AGAIN_SECONDS = 30.0
"""How long after a problem the next check is made: `bootstrap`, which may run beside the collector,
may have solved it."""
DRIFT_SECONDS = 300.0
"""How often a database without a problem is checked, since an operator may change it."""


class Checked(NamedTuple):
    """The result of a check."""

    kept_seconds: Mapping[Policy, int]
    """For how long points are kept, as far as that is seen; 0 is for ever."""
    problem: str | None
    """What an operator has to correct."""


class Storage(Protocol):
    """What is to be as it is set; blocking."""

    @property
    def name(self) -> str:
        """What it is, in the plural."""
        ...

    def check(self) -> Checked:
        """Correct what may be, and return what remains; raises CollectorError."""
        ...


class Buckets(Protocol):
    """The buckets of an InfluxDB; blocking (`collector.influx.buckets`)."""

    def current_seconds(self) -> dict[str, int]:
        """Return the retention of every bucket that the token can see."""
        ...

    def apply(self, changes: list[BucketChange]) -> None:
        """Create and correct buckets."""
        ...

    def map_default(self) -> bool:
        """Make `raw` InfluxQL's default policy; return whether that was a change."""
        ...


class StorageWatch:
    """Keeps a database as configured, as far as the token may.

    `check` is called from one thread at a time. Without `storage`, others see to it.
    """

    def __init__(
        self,
        storage: Storage | None,
        *,
        retention_seconds: Mapping[Policy, int],
        monotonic_seconds: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._storage = storage
        self._desired_seconds = retention_seconds
        self._monotonic_seconds = monotonic_seconds
        self._kept_seconds: Mapping[Policy, int] = {}
        self._due_at_seconds = 0.0
        self._name = storage.name if storage else ""
        self._drift = Outage(
            "storage",
            fails="%s",
            works=f"{self._name} are as they are set",
            log=log,
            levels=(logging.WARNING, logging.WARNING),
            tells_all=True,
        )

    @property
    def problem(self) -> str | None:
        """What an operator has to correct."""
        return self._drift.reason

    @property
    def is_due(self) -> bool:
        """Whether a check is to be made now."""
        return self._storage is not None and self._monotonic_seconds() >= self._due_at_seconds

    def hasten(self) -> None:
        """Have a check made at the next opportunity: a write was refused."""
        self._due_at_seconds = 0.0

    def forget(self) -> None:
        """Drop the problem, without logging: another collector exports now."""
        self._drift.forget()
        self.hasten()

    def kept_seconds(self, policy: Policy) -> int:
        """Return for how long points are kept: as set, or shorter if that is seen; 0 is ever."""
        both = (self._desired_seconds[policy], self._kept_seconds.get(policy, 0))
        return min(filter(None, both), default=0)

    def check(self) -> bool:
        """Correct what has drifted, as far as the token may; return whether there is an answer.

        Logs what changed, and what an operator has to do. Never raises.
        """
        if self._storage is None:
            return False
        pause_seconds = DRIFT_SECONDS
        try:
            self._kept_seconds, drift = self._storage.check()
        except InfluxUnavailableError:
            return False  # the export logs it; the next check is due at once
        except CollectorError as error:
            drift = f"{self._name} could not be checked: {error}"
        except Exception as error:  # noqa: BLE001 - logged; a defect must not stop the export
            drift = f"{self._name} could not be checked: unexpected {error!r}"
            self._drift.failed(drift, defect=error)
        if drift is None:
            self._drift.recovered()
        else:
            self._drift.failed(drift)
            pause_seconds = CHECK_AGAIN_SECONDS
        self._due_at_seconds = self._monotonic_seconds() + pause_seconds
        return True


class BucketStorage:
    """The buckets of an InfluxDB 2.x: missing ones are created, and their retention is corrected.

    `check` is called from one thread at a time.
    """

    name = "the buckets of InfluxDB"

    def __init__(self, buckets: Buckets, *, retention_seconds: Mapping[Policy, int]) -> None:
        self._buckets = buckets
        self._desired_seconds = retention_seconds
        self._known: set[Policy] = set()
        """Buckets that were there at the last check."""

    def check(self) -> Checked:
        """Correct what the token may; return what remains, with what to do.

        Raises InfluxError, or SettingsError without a token.
        """
        seen = self._buckets.current_seconds()
        left: list[str] = []
        for change in plan_buckets(self._desired_seconds, seen):
            try:
                self._buckets.apply([change])
            except InfluxRefusedError as error:
                if change.from_seconds is not None:
                    left.append(
                        f"{change}: run `traffic-collector bootstrap`, this token may not ({error})"
                    )
                continue  # one that is not seen may be there: a write to it says if it is not
            seen[change.policy.bucket] = change.to_seconds
            self._log_change(change)
        kept_seconds = {each: seen[each.bucket] for each in Policy if each.bucket in seen}
        self._known = set(kept_seconds)
        try:
            if self._buckets.map_default():
                log.info("InfluxDB: queries that name no policy read %s", Policy.RAW.bucket)
        except InfluxRefusedError:
            pass  # only an operator's token may see to that: `bootstrap` has, or the buckets say so
        return Checked(kept_seconds, "; ".join(left) or None)

    def _log_change(self, change: BucketChange) -> None:
        if change.from_seconds is None and change.policy in self._known:
            log.warning(
                "InfluxDB: bucket %s was deleted and is created again, empty: "
                "`traffic-collector export rebuild` writes again what the ledger keeps",
                change.policy.bucket,
            )
        else:
            log.info("InfluxDB: %s: done", change)
