"""Lines for InfluxDB: quota and usage of a user, and events.

An event's point is stamped with its moment in milliseconds and, in the digits below, with its place
in the audit trail: events of the same millisecond do not overwrite each other, and one that is
written again overwrites itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from collector.influx.delivery import Refused
from collector.influx.lines import FieldValue, UnwritableError, ordered_nanos, to_line
from collector.schema import EVENTS, NOBODY, USER_USAGE
from marzban_bridge.panels.names import FIRST_PANEL, PublicName, scoped
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import balance_with_raw
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.events import RecordedEvent

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def usage_line(
    account: Account, *, totals: Totals, at: datetime, name: PublicName | None = None
) -> str | Refused:
    """Return an account's line at the ledger's totals, or Refused if a name cannot be written.

    `name` has the user's public name and its panel.
    """
    name = name or PublicName(FIRST_PANEL, account.username)
    found = balance_with_raw(account, totals)
    seen = account.sighting
    quota_bytes = found.quota_bytes
    fields: dict[str, FieldValue | None] = {
        "username": name.username,
        "status": seen.status.value,
        "quota_bytes": quota_bytes,
        "marzban_bytes": found.panel_bytes,
        "external_bytes": found.external_bytes,
        "external_raw_bytes": found.external_raw_bytes,
        "used_bytes": found.used_bytes,
        "used_ratio": found.used_bytes / quota_bytes if quota_bytes else None,
        "published_limit_bytes": seen.data_limit_bytes,
        "period_started_at_millis": _millis(account.period_started_at),
        "is_unenforced": int(found.is_exhausted and seen.status is Status.ACTIVE),
        "is_disabled_by_bridge": int(account.is_disabled_by_us),
        "is_held": int(account.is_held),
    }
    admin = scoped(name.panel, account.admin) if account.admin else NOBODY
    tags = {"user": name.username, "admin": admin, "panel": name.panel}
    nanos = (at - _BEGINNING) // timedelta(microseconds=1) * 1000
    try:
        return to_line(USER_USAGE.name, tags, fields, nanos)
    except UnwritableError as error:
        return Refused(f"the user {account.username!r}", str(error))


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
        "before": event.before,
        "after": event.after,
    }
    tags = {"user": user, "kind": event.kind, "panel": recorded.panel}
    nanos = ordered_nanos(_millis(recorded.at), recorded.seq)
    try:
        return to_line(EVENTS.name, tags, fields, nanos)
    except UnwritableError as error:
        return Refused(f"event {recorded.seq} of {recorded.username!r}", str(error))


def _millis(at: datetime) -> int:
    return (at - _BEGINNING) // timedelta(milliseconds=1)
