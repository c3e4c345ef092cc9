"""Points of users and servers whose names break whatever can be broken, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from collector import schema
from collector.influx.lines import to_line

HOSTILE = [
    "b.c",
    "bxc",  # what an unescaped b.c would also match
    "o'neil",
    "a b,c=d",
    "🚀",
    "Зоя",
    "x/y",
    'say "hi"',
    r"back\slash",
    "1/2",  # begins with a digit: newer Grafana does not escape it by itself
    "10.0.0.1",
    "10a0b0c1",
    "$user",
    "${policy}",
    "[a-z]+",
    "a|b",
    "(open",
    "100%",
    "it;em",
]
FILLERS = [f"filler-{n:02}" for n in range(12)]
USERS = [*HOSTILE, *FILLERS]
SERVERS = [*HOSTILE, "de-1.example.com"]
ADMINS = ["-", "o'admin", "a.b"]
NOW_MILLIS = int(datetime(2026, 1, 15, 12, 0, tzinfo=UTC).timestamp() * 1000)
_DAY_MILLIS = 86_400_000
HOURS = 24
GIB = 1 << 30
RATIOS = {"de-1.example.com": 3, "b.c": 0}


@dataclass(frozen=True)
class Report:
    user: str
    server: str
    at_millis: int
    upload_bytes: int
    download_bytes: int
    connections: int

    @property
    def billed_bytes(self) -> int:
        return (self.upload_bytes + self.download_bytes) * RATIOS.get(self.server, 1)


def reports() -> list[Report]:
    """Return two reports an hour and user: one on the server of the same name, one on a shared one."""
    found = []
    for number, user in enumerate(USERS):
        for hour in range(HOURS):
            for server in (SERVERS[number % len(HOSTILE)], "de-1.example.com"):
                at_millis = NOW_MILLIS - hour * 3_600_000 - 60_000 - number
                found.append(Report(user, server, at_millis, 1000 + number, 9000 + hour, 1))
    return found


def used_ratio(user: str) -> float | None:
    """How much of its quota a user has used: some near it, some over, one without."""
    fixed = {"b.c": 0.9, "o'neil": 1.02, "🚀": 1.5, "Зоя": 0.85, "x/y": 0.8, "filler-00": None}
    return fixed.get(user, USERS.index(user) / 100)


def _usage(user: str, at_millis: int) -> str:
    ratio = used_ratio(user)
    quota = 10 * GIB if ratio is not None else None
    used = int((ratio or 0.1) * 10 * GIB)
    fields = {
        "username": user,
        "status": "active" if user == "🚀" or (ratio or 0) < 1 else "limited",
        "quota_bytes": quota,
        "marzban_bytes": used // 4,
        "external_bytes": used - used // 4,
        "external_raw_bytes": 2 * (used - used // 4),
        "used_bytes": used,
        "used_ratio": ratio,
        "published_limit_bytes": quota,
        "period_started_at_millis": NOW_MILLIS - 5 * _DAY_MILLIS,
        "is_unenforced": int(user == "🚀"),
        "is_disabled_by_bridge": 0,
        "is_held": 0,
    }
    tags = {"user": user, "admin": ADMINS[USERS.index(user) % len(ADMINS)]}
    return to_line("user_usage", tags, fields, at_millis * 1_000_000)


def _event(user: str, at_millis: int) -> str:
    text = f"limit limited for {user}"
    fields = {"title": f"limited {user}", "text": text, "actor": "bridge", "before": "1 GiB"}
    return to_line(
        "events", {"user": user, "kind": "limited"}, fields | {"after": text}, at_millis * 10**6
    )


def raw_lines() -> list[str]:
    """Return every report, and everybody's standing every ten minutes of the last day."""
    lines = [
        to_line(
            "traffic",
            {"user": each.user, "server": each.server, "port": "443", "protocol": "vless"},
            {
                "upload_bytes": each.upload_bytes,
                "download_bytes": each.download_bytes,
                "billed_bytes": each.billed_bytes,
                "connections": each.connections,
            },
            each.at_millis * 1_000_000 + number,
        )
        for number, each in enumerate(reports())
    ]
    for user in USERS:
        lines += [_usage(user, NOW_MILLIS - n * 600_000 - 1000) for n in range(HOURS * 6)]
    return lines + [_event(user, NOW_MILLIS - 1_800_000) for user in (*USERS, schema.NOBODY)]


def daily_lines() -> list[str]:
    """Return the same traffic in sums per UTC day."""
    sums: dict[tuple[str, str, int], list[Report]] = {}
    for each in reports():
        day_millis = each.at_millis // _DAY_MILLIS * _DAY_MILLIS
        sums.setdefault((each.user, each.server, day_millis), []).append(each)
    return [
        to_line(
            "traffic",
            {"user": user, "server": server, "port": "443", "protocol": "vless"},
            {
                "upload_bytes": sum(each.upload_bytes for each in found),
                "download_bytes": sum(each.download_bytes for each in found),
                "billed_bytes": sum(each.billed_bytes for each in found),
                "connections": sum(each.connections for each in found),
                "reports": len(found),
                "last_used_at_millis": max(each.at_millis for each in found),
            },
            day_millis * 1_000_000,
        )
        for (user, server, day_millis), found in sums.items()
    ]


def bytes_of(user: str | None = None, server: str | None = None) -> int:
    """Return the traffic of a user, of a server, or of all."""
    return sum(
        each.upload_bytes + each.download_bytes
        for each in reports()
        if user in {None, each.user} and server in {None, each.server}
    )


def billed_bytes_of(user: str | None = None, server: str | None = None) -> int:
    """Return what the traffic of a user, of a server, or of all counts for."""
    return sum(
        each.billed_bytes
        for each in reports()
        if user in {None, each.user} and server in {None, each.server}
    )
