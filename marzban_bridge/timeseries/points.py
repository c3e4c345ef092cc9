"""Lines for InfluxDB: quota and usage of a user, and events.

An event's point is stamped with its moment in milliseconds and, in the digits below, with its place
in the audit trail: events of the same millisecond do not overwrite each other, and one that is
written again overwrites itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from collector.influx.delivery import Refused
from collector.influx.lines import FieldValue, UnwritableError, ordered_nanos, to_line
from collector.schema import EVENTS, NOBODY, USER_USAGE
from marzban_bridge.panels.names import FIRST_PANEL, PublicName, scoped
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import balance_with_raw
from marzban_bridge.quota.usage import Totals
from marzban_bridge.sizes import human_value
from marzban_bridge.store.events import RecordedEvent
from marzban_bridge.timeseries.event_severity import severity_of
from marzban_bridge.timeseries.figures import NO_FORECAST, UserFigures, figures_of, millis_of

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Ending(StrEnum):
    """Why a user's series ends; its last point has it as status."""

    DELETED = "deleted"
    MOVED = "moved"
    """The user has another admin or public name, and so another series, from then on."""


@dataclass(frozen=True, slots=True)
class Series:
    """The tags of a user's points."""

    user: str
    """The public name."""
    admin: str
    panel: str

    @property
    def tags(self) -> dict[str, str]:
        """The tags, by name."""
        return {"user": self.user, "admin": self.admin, "panel": self.panel}


def series_of(account: Account, name: PublicName) -> Series:
    """Return the series that an account's points belong to now."""
    admin = scoped(name.panel, account.admin) if account.admin else NOBODY
    return Series(name.username, admin, name.panel)


def usage_line(
    account: Account,
    *,
    totals: Totals,
    at: datetime,
    name: PublicName | None = None,
    figures: UserFigures | None = None,
) -> str | Refused:
    """Return an account's line at the ledger's totals, or Refused if a name cannot be written.

    `name` has the user's public name and its panel, `figures` what `figures_of` gives for all this.
    """
    name = name or PublicName(FIRST_PANEL, account.username)
    figures = figures or figures_of(account, totals, at=at, name=name)
    seen = account.sighting
    fields: dict[str, FieldValue | None] = {
        "username": name.username,
        "status": seen.status.value,
        "quota_bytes": figures.quota_bytes,
        "marzban_bytes": figures.marzban_bytes,
        "external_bytes": figures.external_bytes,
        "external_raw_bytes": balance_with_raw(account, totals).external_raw_bytes,
        "used_bytes": figures.used_bytes,
        "used_ratio": figures.used_ratio,
        "published_limit_bytes": seen.data_limit_bytes or 0,
        "period_started_at_millis": millis_of(account.period_started_at),
        "is_unenforced": int(figures.is_unenforced),
        "is_disabled_by_bridge": int(account.is_disabled_by_us),
        "is_held": int(account.is_held),
        "is_gone": 0,
        **figures.outlook(),
    }
    return _usage_point(series_of(account, name), fields, at)


def last_line(series: Series, ending: Ending, *, at: datetime) -> str | Refused:
    """Return the point that ends a series: the user is left out of dashboards from then on."""
    fields: dict[str, FieldValue] = {name: kind() for name, kind in USER_USAGE.fields.items()}
    fields |= {"username": series.user, "status": ending.value, "is_gone": 1}
    fields["days_to_limit"] = NO_FORECAST
    return _usage_point(series, fields, at)


def _usage_point(
    series: Series, fields: Mapping[str, FieldValue | None], at: datetime
) -> str | Refused:
    nanos = (at - _BEGINNING) // timedelta(microseconds=1) * 1000
    try:
        return to_line(USER_USAGE.name, series.tags, fields, nanos)
    except UnwritableError as error:
        return Refused(f"the user {series.user!r}", str(error))


def event_line(recorded: RecordedEvent, *, username: str | None = None) -> str | Refused:
    """Return an event's line, or Refused if the user's name cannot be written.

    `username` is the user's public name.
    """
    event = recorded.event
    user = username or recorded.username or NOBODY
    fields: dict[str, FieldValue | None] = {
        "title": f"{event.kind} {user}",
        "text": event.text,
        "actor": event.actor,
        "before": human_value(event.before, kind=event.kind),
        "after": human_value(event.after, kind=event.kind),
    }
    tags = {
        "user": user,
        "kind": event.kind,
        "severity": severity_of(event.kind).value,
        "panel": recorded.panel,
    }
    nanos = ordered_nanos(millis_of(recorded.at), recorded.seq)
    try:
        return to_line(EVENTS.name, tags, fields, nanos)
    except UnwritableError as error:
        return Refused(f"event {recorded.seq} of {recorded.username!r}", str(error))
