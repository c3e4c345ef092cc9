"""Points of users and servers whose names break whatever can be broken, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from collector import schema
from collector.influx.lines import to_line
from collector.influx.server_sums import sum_lines
from collector.ledger import ReportRow
from collector.schema import RESELLER_USAGE
from marzban_bridge.panels.users import Status
from marzban_bridge.timeseries.figures import UserFigures
from marzban_bridge.timeseries.summary import list_lines, reseller_lines

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


def admin_of(user: str) -> str:
    return ADMINS[USERS.index(user) % len(ADMINS)]


def figures(user: str) -> UserFigures:
    """What lists and sums have of a user: every third runs out or expires one day."""
    number, ratio = USERS.index(user), used_ratio(user)
    used_bytes = int((ratio or 0.1) * 10 * GIB)
    is_over = (ratio or 0) >= 1
    is_third = number % 3 == 0 and ratio is not None
    return UserFigures(
        user=user,
        admin=admin_of(user),
        panel="default",
        status=Status.LIMITED if is_over and user != "🚀" else Status.ACTIVE,
        quota_bytes=10 * GIB if ratio is not None else 0,
        marzban_bytes=used_bytes // 4,
        external_bytes=used_bytes - used_bytes // 4,
        used_ratio=ratio or 0.0,
        days_to_limit=0.0 if is_over else float(number + 1) if is_third else -1.0,
        expires_at_millis=NOW_MILLIS + (number + 1) * 43_200_000 if is_third else 0,
        online_at_millis=NOW_MILLIS - 60_000,
        next_reset_at_millis=NOW_MILLIS + 40 * _DAY_MILLIS,
        is_unenforced=user == "🚀",
        panel_user_url="https://panel.example.com/dashboard/",
    )


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
        "is_gone": 0,
        **figures(user).outlook(),
    }
    tags = {"user": user, "admin": admin_of(user), "panel": "default"}
    return to_line("user_usage", tags, fields, at_millis * 1_000_000)


def _event(user: str, at_millis: int) -> str:
    text = f"limit limited for {user}"
    fields = {"title": f"limited {user}", "text": text, "actor": "bridge", "before": "1 GiB"}
    return to_line(
        "events",
        {"user": user, "kind": "limited", "severity": "notice"},
        fields | {"after": text},
        at_millis * 10**6,
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
    everybody = [figures(user) for user in USERS]
    for n in range(HOURS * 6):
        at_millis = NOW_MILLIS - n * 600_000 - 1000
        lines += [
            str(each)
            for each in (
                *list_lines(everybody, ["default"], at_millis=at_millis),
                *reseller_lines(everybody, at_millis=at_millis),
            )
        ]
        lines += [_reseller_quota(admin, at_millis) for admin in ADMINS]
    lines += sum_lines(_rows(), earlier=[], oldest_millis=0)
    return lines + [_event(user, NOW_MILLIS - 1_800_000) for user in (*USERS, schema.NOBODY)]


def _reseller_quota(admin: str, at_millis: int) -> str:
    """The quota of a reseller; that of the last one was taken away."""
    is_gone = admin == ADMINS[-1]
    fields = {name: kind() for name, kind in RESELLER_USAGE.fields.items()} | {"is_gone": is_gone}
    if not is_gone:
        fields |= {"quota_bytes": 100 * GIB, "used_bytes": 50 * GIB, "used_ratio": 0.5}
    tags = {"admin": admin, "panel": "default"}
    return to_line(RESELLER_USAGE.name, tags, fields, at_millis * 1_000_000)


def _rows() -> list[ReportRow]:
    return [
        ReportRow(
            seq=number,
            username=each.user,
            server=each.server,
            port=443,
            protocol="vless",
            upload_bytes=each.upload_bytes,
            download_bytes=each.download_bytes,
            billed_bytes=each.billed_bytes,
            connections=each.connections,
            reported_at_millis=each.at_millis,
        )
        for number, each in enumerate(reports(), start=1)
    ]


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
