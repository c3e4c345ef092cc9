"""Points of resellers that have a quota: on change, and again with all users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from collector.influx.delivery import Refused
from collector.influx.lines import FieldValue, UnwritableError, to_line
from collector.schema import RESELLER_USAGE
from marzban_bridge.panels.names import scoped
from marzban_bridge.quota.resellers.reseller import Reseller
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.figures import millis_of

_ResellerId = tuple[str, str]
"""A panel and the name of an admin on it."""


def reseller_line(
    reseller: Reseller | None, *, reseller_id: _ResellerId, at_millis: int
) -> str | Refused:
    """Return a reseller's line; without a quota any more it is the last of its series."""
    panel, admin = reseller_id
    fields: dict[str, FieldValue | None] = {
        "quota_bytes": reseller.quota_bytes if reseller else 0,
        "used_bytes": reseller.used_bytes if reseller else 0,
        "used_ratio": reseller.used_ratio if reseller else 0.0,
        "is_enforced": int(reseller is not None and reseller.is_enforced),
        "is_cut_off": int(reseller is not None and reseller.is_cut_off),
        "period_started_at_millis": millis_of(reseller.period_started_at) if reseller else 0,
        "is_gone": int(reseller is None),
    }
    tags = {"admin": scoped(panel, admin), "panel": panel}
    try:
        return to_line(RESELLER_USAGE.name, tags, fields, at_millis * 1_000_000)
    except UnwritableError as error:
        return Refused(f"the reseller {admin!r}", str(error))


@dataclass(slots=True)
class ResellerPoints:
    """The resellers of all panels that have to be written, and those that were."""

    stores: Mapping[str, Store]
    is_due: bool = False
    """Whether resellers may have changed since they were written."""
    _written: dict[_ResellerId, Reseller] = field(default_factory=dict)
    _taken: dict[_ResellerId, Reseller] = field(default_factory=dict)
    _repeats: bool = False

    def begin_round(self) -> None:
        """Let all of them be written again."""
        self.is_due = self._repeats = True

    def lines(self, *, at: datetime) -> list[str | Refused]:
        """Return the lines of those that changed since, or of all in a new round."""
        self._taken = {
            (panel, each.admin): each
            for panel, store in self.stores.items()
            for each in store.resellers.all()
        }
        changed = [
            reseller_id
            for reseller_id in self._taken.keys() | self._written.keys()
            if self._repeats or self._taken.get(reseller_id) != self._written.get(reseller_id)
        ]
        return [
            reseller_line(
                self._taken.get(reseller_id), reseller_id=reseller_id, at_millis=millis_of(at)
            )
            for reseller_id in sorted(changed)
        ]

    def written(self) -> None:
        """Note that the lines are stored."""
        self._written, self.is_due, self._repeats = self._taken, False, False
