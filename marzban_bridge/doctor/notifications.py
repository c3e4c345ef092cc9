"""Whether alerts go where they shall: the settings, and what became of a test message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from marzban_bridge.doctor.findings import Finding, Level
from marzban_bridge.notifications.sending import send_test_messages
from marzban_bridge.notifications.settings import read_notification_settings

SUBJECT = "alerts"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationObservation:
    """Where notifications of alerts go."""

    kinds: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    sent: Mapping[str, str] = field(default_factory=dict)
    """By kind, why a test message was not taken; empty where it was, none where none was sent."""


async def observe_notifications(
    environment: Mapping[str, str], *, sends: bool
) -> NotificationObservation:
    """Read the settings and, if asked to, send a test message to each place."""
    settings, problems = read_notification_settings(environment)
    sent = await send_test_messages(settings) if sends else {}
    return NotificationObservation(kinds=settings.kinds, problems=problems, sent=sent)


def examine_notifications(seen: NotificationObservation) -> Iterator[Finding]:
    """Return the findings: each wrong setting, where alerts go, what became of each message."""
    for each in seen.problems:
        yield Finding(subject=SUBJECT, check="settings", level=Level.WRONG, text=each)
    if seen.kinds:
        yield Finding(
            subject=SUBJECT, check="places", level=Level.OK, text=f"sent by {', '.join(seen.kinds)}"
        )
    elif not seen.problems:
        yield Finding(
            subject=SUBJECT,
            check="places",
            level=Level.OK,
            text="sent nowhere: they show in Grafana alone (ALERTS_… in .env)",
        )
    for kind, error in seen.sent.items():
        level = Level.WRONG if error else Level.OK
        text = error or "the test message was taken"
        yield Finding(subject=SUBJECT, check=kind, level=level, text=text)
