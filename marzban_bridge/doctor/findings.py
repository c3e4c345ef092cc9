"""Derives findings from observations, one line each, with what to do where it is wrong; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from marzban_bridge.doctor.observations import (
    BridgeObservation,
    CollectorObservation,
    Observations,
    PanelObservation,
    SeriesObservation,
    WebhookObservation,
)

GOOD_CLOCK_SECONDS = 5.0
"""A smaller difference is none: the `Date` header of an answer has whole seconds."""
BAD_CLOCK_SECONDS = 60.0
"""With a larger difference the bridge misjudges the panel's times of resets, expiry and edits."""
MAX_REPORT_AGE = timedelta(days=1)
GIB = 1 << 30


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Something to know; limits are enforced all the same."""
    WRONG = "wrong"
    """Something does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check, and what to do about it; neither text holds a secret."""

    subject: str
    check: str
    level: Level
    text: str
    todo: str = ""
    """Empty where nothing is to be done, or where `text` says it."""


def is_healthy(findings: list[Finding]) -> bool:
    """Tell whether nothing is wrong; notes do not count."""
    return all(each.level is not Level.WRONG for each in findings)


def examine(seen: Observations) -> list[Finding]:
    """Return the findings, panels first; what the bridge says too is there once."""
    found = [each for panel in seen.panels for each in _panel(panel, seen)]
    found += _collector(seen.collector, seen.asked_at)
    influxdb = _influxdb(seen.influxdb)
    known = [each.text for each in (*found, influxdb) if each.level is not Level.OK]
    found += [*_bridge(seen.bridge, known), influxdb]
    if text := seen.influxdb.without_dashboards:
        subject = seen.influxdb.product
        found.append(Finding(subject=subject, check="dashboards", level=Level.NOTE, text=text))
    if grafana := _grafana(seen):
        found.append(grafana)
    return found


def _panel(panel: PanelObservation, seen: Observations) -> Iterator[Finding]:
    subject = f"panel {panel.name}"

    def of(check: str, level: Level, text: str, todo: str = "") -> Finding:
        return Finding(subject=subject, check=check, level=level, text=text, todo=todo)

    if panel.check is None:
        yield of("signed in", Level.WRONG, panel.error)
    else:
        check = panel.check
        yield of("signed in", Level.OK, f"{panel.url} accepts the sign-in of {check.admin}")
        warning = check.version_warning
        yield of("version", Level.NOTE if warning else Level.OK, warning or check.panel)
        warning = check.permission_warning
        text = warning or f"{check.admin} may read and change the users of all admins"
        yield of("permissions", Level.WRONG if warning else Level.OK, text)
    if panel.clock_ahead_seconds is not None:
        yield of("clock", *_clock(panel.clock_ahead_seconds))
    yield of("webhook", *_webhook(panel, seen))


def _clock(ahead_seconds: float) -> tuple[Level, str, str]:
    off_seconds = abs(ahead_seconds)
    if off_seconds <= GOOD_CLOCK_SECONDS:
        return Level.OK, f"within {GOOD_CLOCK_SECONDS:.0f} s of this machine's", ""
    level = Level.WRONG if off_seconds > BAD_CLOCK_SECONDS else Level.NOTE
    side = "ahead of" if ahead_seconds > 0 else "behind"
    text = f"{off_seconds:.0f} s {side} this machine's"
    return level, text, "set both clocks by a time server: `timedatectl set-ntp true` on each"


def _webhook(panel: PanelObservation, seen: Observations) -> tuple[Level, str, str]:
    setting = (
        f"set WEBHOOK_ADDRESS and WEBHOOK_SECRET in the panel (`marzban-bridge panels webhook "
        f"{panel.name}` prints both), and restart it"
    )
    if not panel.has_webhook_secret:
        return (
            Level.NOTE,
            "refused, since no secret is set: resets are detected by passes alone",
            f"set BRIDGE_WEBHOOK_SECRET in .env, restart, and {setting}",
        )
    received = seen.bridge.webhooks.get(panel.name)
    if received is None and seen.bridge.error:
        return Level.NOTE, "not known: no bridge answers", ""
    received = received or WebhookObservation()
    if received.refused and not received.taken:
        return (
            Level.WRONG,
            f"{received.refused} refused since the bridge's start: they carry another secret",
            f"set WEBHOOK_SECRET in the panel as `marzban-bridge panels webhook {panel.name}` says",
        )
    if received.last_at is not None:
        return Level.OK, f"the last one arrived {_ago(received.last_at, seen.asked_at)}", ""
    todo = f"{setting}; then edit a user there: one arrives within 30 s"
    if _is_loopback(seen.bridge_host) and not _is_loopback(urlsplit(panel.url).hostname or ""):
        todo += (
            f"; the bridge listens on {seen.bridge_host} alone, where {panel.url} may not reach "
            "it: put a web server before it, or set BRIDGE_HOST in a private network"
        )
    return Level.NOTE, f"none has arrived at {panel.webhook_path} yet", todo


def _collector(seen: CollectorObservation, now: datetime) -> Iterator[Finding]:
    def of(check: str, level: Level, text: str, todo: str = "") -> Finding:
        return Finding(subject="collector", check=check, level=level, text=text, todo=todo)

    if seen.error:
        yield of(
            "running",
            Level.WRONG,
            seen.error,
            "start it, and check that COLLECTOR_URL is its address",
        )
        return
    if seen.reasons:
        yield from (of("running", Level.WRONG, each) for each in seen.reasons)
    else:
        yield of("running", Level.OK, f"{seen.url} stores reports")
    yield from (of("warning", Level.NOTE, each) for each in seen.warnings)
    if seen.key_error:
        yield of("key", Level.WRONG, seen.key_error)
        return
    yield of("key", Level.OK, "accepts the bridge's COLLECTOR_ADMIN_KEY")
    if seen.free_disk_bytes is not None:
        yield of("disk", Level.OK, f"{seen.free_disk_bytes / GIB:.1f} GiB free where the ledger is")
    if seen.reporter_keys is None:
        return
    if seen.reporter_keys:
        yield of("reporters", Level.OK, f"{seen.reporter_keys} with a valid key")
    else:
        yield of(
            "reporters",
            Level.NOTE,
            "none has a key: only users who report for themselves are accepted",
            "run `traffic-collector reporters add NAME` for each server",
        )
    if seen.last_report_at is None:
        yield of(
            "last report",
            Level.NOTE,
            "nothing has been reported yet",
            "set up a server that reports: docs/agent.md, or docs/report-with-curl.md",
        )
    else:
        is_late = now - seen.last_report_at > MAX_REPORT_AGE
        yield of(
            "last report",
            Level.NOTE if is_late else Level.OK,
            _ago(seen.last_report_at, now),
            "run `traffic-agent status` on each server" if is_late else "",
        )


def _bridge(seen: BridgeObservation, known: list[str]) -> Iterator[Finding]:
    def of(check: str, level: Level, text: str, todo: str = "") -> Finding:
        return Finding(subject="bridge", check=check, level=level, text=text, todo=todo)

    if seen.error:
        yield of("running", Level.WRONG, seen.error, "start it: `marzban-bridge up`, or `run`")
        return
    if seen.status == "following":
        yield of("running", Level.OK, "; ".join(seen.reasons))
        return
    news = [each for each in seen.reasons if not _is_said(each, known)]
    yield from (of("running", Level.WRONG, each) for each in news)
    if not news:
        text = f"{seen.url} answers"
        level = Level.OK
        if seen.reasons:
            level, text = Level.WRONG, f"{text} that it is not ready: the reasons are above"
        yield of("running", level, text)
    for each in seen.warnings:
        if not _is_said(each, known):
            yield of("warning", Level.NOTE, each)
    if seen.enforcement == "observe":
        yield of(
            "enforcement",
            Level.NOTE,
            "observe: it changes nothing in the panel",
            "set BRIDGE_ENFORCEMENT=limit when `marzban-bridge plan` looks right",
        )
    elif seen.enforcement:
        yield of("enforcement", Level.OK, seen.enforcement)


def _is_said(text: str, known: list[str]) -> bool:
    """Tell whether a text of the bridge, which may begin with a name, is one of the findings."""
    return any(text.endswith(each) for each in known)


def _influxdb(seen: SeriesObservation) -> Finding:
    if not seen.url:
        level, text = Level.OK, "none is configured: limits do not need it, dashboards do"
    elif seen.error:
        level, text = (Level.NOTE if seen.is_passing else Level.WRONG), seen.error
    else:
        level, text = Level.OK, f"{seen.url} accepts the token for its bucket"
        if seen.product == "VictoriaMetrics":
            text = f"{seen.url} takes points"
    start = (
        "check that it runs and that INFLUXDB_URL is its address; reports are stored meanwhile, "
        "and exported later"
    )
    todo = start if level is Level.NOTE else ""
    return Finding(subject=seen.product, check="writable", level=level, text=text, todo=todo)


def _grafana(seen: Observations) -> Finding | None:
    if not seen.grafana.url:
        return None
    if not seen.grafana.error:
        level, text, todo = Level.OK, f"{seen.grafana.url} answers", ""
    else:
        start = "start it, or give its address with --grafana, or in GRAFANA_ROOT_URL"
        todo = start if seen.grafana.is_passing else ""
        level, text = Level.NOTE, seen.grafana.error
    return Finding(subject="Grafana", check="reachable", level=level, text=text, todo=todo)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _ago(then: datetime, now: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    for unit_seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_seconds:
            return f"{seconds // unit_seconds} {unit} ago"
    return f"{seconds} s ago"
