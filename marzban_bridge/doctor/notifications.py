"""Checks the contact points of alerts: their settings, and the delivery of a test message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from marzban_bridge.doctor.findings import Finding, Level
from marzban_bridge.notifications.sending import send_test_messages
from marzban_bridge.notifications.settings import read_notification_settings

SUBJECT = "alerts"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationObservation:
    """The contact points that are configured, and what is wrong with them."""

    kinds: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    sent: Mapping[str, str] = field(default_factory=dict)
    """For each kind that a test message was sent to, why it failed; empty where it did not."""


async def observe_notifications(
    environment: Mapping[str, str], *, sends: bool
) -> NotificationObservation:
    """Read the settings; if `sends`, send a test message to each contact point."""
    settings, problems = read_notification_settings(environment)
    sent = await send_test_messages(settings) if sends else {}
    return NotificationObservation(kinds=settings.kinds, problems=problems, sent=sent)


def examine_notifications(seen: NotificationObservation) -> Iterator[Finding]:
    """Return the findings: each wrong setting, the contact points, each test message."""
    for each in seen.problems:
        yield Finding(subject=SUBJECT, check="settings", level=Level.WRONG, text=each)
    if seen.kinds:
        yield Finding(
            subject=SUBJECT,
            check="contact points",
            level=Level.OK,
            text=f"sent by {', '.join(seen.kinds)}",
        )
    elif not seen.problems:
        yield Finding(
            subject=SUBJECT,
            check="contact points",
            level=Level.OK,
            text="none is set (ALERTS_… in .env): alerts are shown in Grafana only",
        )
    for kind, error in seen.sent.items():
        level = Level.WRONG if error else Level.OK
        text = error or "the test message was accepted"
        yield Finding(subject=SUBJECT, check=kind, level=level, text=text)
