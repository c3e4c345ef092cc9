"""Watches the buckets while the export runs: mends what has drifted, or says what to do.

A token of least privilege sees the buckets it may read, and no organization; it cannot create or
correct any. So a bucket that is not seen may be there all the same: only a write to it tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from collector.errors import CollectorError, InfluxRefusedError, InfluxUnavailableError
from collector.influx.buckets import BucketChange, plan_buckets
from collector.runtime.outage import Outage
from collector.schema import Policy

CHECK_AGAIN_SECONDS = 30.0
"""How long after a problem the buckets are checked again: `bootstrap`, which may run beside the
collector, may have solved it."""
DRIFT_SECONDS = 300.0
"""How often buckets without a problem are checked, since an operator may change or delete one."""


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


class BucketWatch:
    """Keeps the buckets of one InfluxDB as configured, as far as the token may.

    `check` is called from one thread at a time. Without `buckets`, others see to them.
    """

    def __init__(
        self,
        buckets: Buckets | None,
        *,
        retention_seconds: Mapping[Policy, int],
        monotonic_seconds: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._buckets = buckets
        self._desired_seconds = retention_seconds
        self._monotonic_seconds = monotonic_seconds
        self._log = log
        self._current_seconds: dict[Policy, int] = {}
        self._due_at_seconds = 0.0
        self._drift = Outage(
            "buckets",
            fails="%s",
            works="the buckets of InfluxDB are as they are set",
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
        """Whether the buckets are to be checked now."""
        return self._buckets is not None and self._monotonic_seconds() >= self._due_at_seconds

    def hasten(self) -> None:
        """Have the buckets checked at the next opportunity: a write was refused."""
        self._due_at_seconds = 0.0

    def forget(self) -> None:
        """Drop the problem, without logging: another collector exports now."""
        self._drift.forget()
        self.hasten()

    def kept_seconds(self, policy: Policy) -> int:
        """Return for how long points are kept: as set, or shorter if the bucket is; 0 is ever."""
        both = (self._desired_seconds[policy], self._current_seconds.get(policy, 0))
        return min(filter(None, both), default=0)

    def check(self) -> bool:
        """Create and correct the buckets, as far as the token may; return whether InfluxDB answers.

        Logs what changed, and what an operator has to do. Never raises.
        """
        if self._buckets is None:
            return False
        pause_seconds = DRIFT_SECONDS
        try:
            drift = self._mend(self._buckets)
        except InfluxUnavailableError:
            return False  # the export logs it; the next check is due at once
        except CollectorError as error:
            drift = f"the buckets of InfluxDB could not be checked: {error}"
        except Exception as error:  # noqa: BLE001 - logged; a defect must not stop the export
            drift = f"the buckets of InfluxDB could not be checked: unexpected {error!r}"
            self._drift.failed(drift, defect=error)
        if drift is None:
            self._drift.recovered()
        else:
            self._drift.failed(drift)
            pause_seconds = CHECK_AGAIN_SECONDS
        self._due_at_seconds = self._monotonic_seconds() + pause_seconds
        return True

    def _mend(self, buckets: Buckets) -> str | None:
        """Correct what the token may; return the drift that remains, with what to do."""
        seen = buckets.current_seconds()
        left: list[str] = []
        for change in plan_buckets(self._desired_seconds, seen):
            try:
                buckets.apply([change])
            except InfluxRefusedError as error:
                if change.from_seconds is not None:
                    left.append(
                        f"{change}: run `traffic-collector bootstrap`, this token may not ({error})"
                    )
                continue  # one that is not seen may be there: a write to it says if it is not
            seen[change.policy.bucket] = change.to_seconds
            self._log_change(change)
        self._current_seconds = {each: seen[each.bucket] for each in Policy if each.bucket in seen}
        try:
            if buckets.map_default():
                self._log.info("InfluxDB: queries that name no policy read %s", Policy.RAW.bucket)
        except InfluxRefusedError:
            pass  # only an operator's token may see to that: `bootstrap` has, or the buckets say so
        return "; ".join(left) or None

    def _log_change(self, change: BucketChange) -> None:
        if change.from_seconds is None and change.policy in self._current_seconds:
            self._log.warning(
                "InfluxDB: bucket %s was deleted and is created again, empty: "
                "`traffic-collector export rebuild` writes again what the ledger keeps",
                change.policy.bucket,
            )
        else:
            self._log.info("InfluxDB: %s: done", change)
