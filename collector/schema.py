"""The names and types in InfluxDB: what the collector and the bridge write and dashboards read.

One database with two retention policies, which on InfluxDB 2.x are the buckets `traffic/raw` and
`traffic/daily`: its InfluxQL answers a bucket `db/rp` as that pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DATABASE = "traffic"
NOBODY = "-"
"""The tag value where there is no user or no owner: a tag cannot be empty."""


class Policy(StrEnum):
    """A retention policy."""

    RAW = "raw"
    """One point per report, and the bridge's points; the default policy of queries."""
    DAILY = "daily"
    """One point per series and UTC day."""

    @property
    def bucket(self) -> str:
        """The name of the bucket that stands for this policy on InfluxDB 2.x."""
        return f"{DATABASE}/{self.value}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement: its tags, and its fields with their types."""

    name: str
    tags: tuple[str, ...]
    fields: Mapping[str, type]


TRAFFIC = Measurement(
    "traffic",
    ("user", "server", "port", "protocol"),
    {"upload_bytes": int, "download_bytes": int, "billed_bytes": int, "connections": int},
)
"""In `raw`, stamped when the traffic was reported. Bytes are as reported; `billed_bytes` is what
both directions together count for against quotas."""

DAILY_TRAFFIC = Measurement(
    TRAFFIC.name,
    TRAFFIC.tags,
    {**TRAFFIC.fields, "reports": int, "last_used_at_millis": int},
)
"""In `daily`, stamped at 00:00 UTC and rewritten as the day's sums grow."""

SERVER_TRAFFIC = Measurement("server_traffic", ("server",), TRAFFIC.fields)
"""In `raw`, the sums of a server's reports in ten minutes, stamped at their beginning; several
points of one server and ten minutes are to be added up."""

USER_USAGE = Measurement(
    "user_usage",
    ("user", "admin", "panel"),
    {
        "username": str,
        "status": str,
        "quota_bytes": int,
        "marzban_bytes": int,
        "external_bytes": int,
        "external_raw_bytes": int,
        "used_bytes": int,
        "used_ratio": float,
        "published_limit_bytes": int,
        "period_started_at_millis": int,
        "is_unenforced": int,
        "is_disabled_by_bridge": int,
        "is_held": int,
        "is_gone": int,
        "days_to_limit": float,
        "expires_at_millis": int,
        "online_at_millis": int,
        "next_reset_at_millis": int,
        "panel_user_url": str,
    },
)
"""A user's quota and usage: `external_bytes` is external traffic as billed, `external_raw_bytes` as
reported. Every point has every field, so that the last value of a field is never an older point's:
`quota_bytes`, `used_ratio` and `published_limit_bytes` are 0 for an unlimited user. A user of a
further panel has the name under which its traffic is reported, such as `two/alice`.

A series ends with a point of `is_gone` 1 when its user is deleted (`status` is `deleted`), or has
another admin or name from then on (`moved`): all its other numbers are 0.

`days_to_limit` is a forecast at the rate of the last week, -1 without one; times are 0 where there
is none. `panel_user_url` is the user's page on the panel, empty where it is not known."""

_USERS_SUMMED: Mapping[str, type] = dict.fromkeys(
    (
        *("users", "active", "disabled", "limited", "expired", "on_hold"),
        *("near", "over", "unenforced", "expiring"),
        *("quota_bytes", "marzban_bytes", "external_bytes", "used_bytes"),
    ),
    int,
)

USER_COUNTS = Measurement("user_counts", ("panel",), _USERS_SUMMED)
"""How many users a panel has, by status and by how much of the quota is used, and their sums. Near:
from 80 % on; over: from 100 % on; unenforced: over, and still active; expiring: within a week."""

RESELLER_USERS = Measurement("reseller_users", ("admin", "panel"), _USERS_SUMMED)
"""The same of each admin's users."""

RESELLER_USAGE = Measurement(
    "reseller_usage",
    ("admin", "panel"),
    {
        **dict.fromkeys(("quota_bytes", "used_bytes"), int),
        "used_ratio": float,
        **dict.fromkeys(("is_enforced", "is_cut_off", "period_started_at_millis", "is_gone"), int),
    },
)
"""The quota of an admin's users together, and what they used of it; of admins that have one. A
series ends with a point of `is_gone` 1 when the quota is taken away: all other numbers are 0."""


class UserList(StrEnum):
    """A short list of users, in the order of their urgency."""

    NEXT = "next"
    """Who will have used up the quota first."""
    NEAR = "near"
    """80 to 100 % used."""
    OVER = "over"
    """100 % used and more."""
    EXPIRING = "expiring"
    """Whose time ends within 30 days."""


LIST_LENGTH = 25

USER_LISTS = Measurement(
    "user_lists",
    ("list", "rank"),
    {
        **dict.fromkeys(("user", "admin", "panel", "status", "panel_user_url"), str),
        **dict.fromkeys(("used_ratio", "days_to_limit"), float),
        **dict.fromkeys(("quota_bytes", "marzban_bytes", "external_bytes", "used_bytes"), int),
        **dict.fromkeys(("expires_at_millis", "online_at_millis", "next_reset_at_millis"), int),
    },
)
"""The users at the places of the lists, from `01` on; an empty `user` is an empty place."""

EVENTS = Measurement(
    "events",
    ("user", "kind", "severity", "panel"),
    {"title": str, "text": str, "actor": str, "before": str, "after": str},
)
"""What happened to a user, for annotations and lists. `severity` follows from `kind`: `routine` is
the daily work that lists leave out, `notice` is for admins to know, `problem` for them to solve."""
