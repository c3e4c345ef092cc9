"""How much an event matters to a reader of lists, by its kind; pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Severity(StrEnum):
    """The classes of events."""

    ROUTINE = "routine"
    """The bridge's daily work: one of many, which lists leave out."""
    NOTICE = "notice"
    """A change that an admin made, or may be asked about."""
    PROBLEM = "problem"
    """Something that an admin has to see to."""


SEVERITIES: Mapping[str, Severity] = {
    **dict.fromkeys(
        ("adopted", "name_matched", "name_parted", "orphan", "published"), Severity.ROUTINE
    ),
    **dict.fromkeys(
        ("conflict", "doubt", "late_reset", "let_in", "reseller_over", "set_aside"),
        Severity.PROBLEM,
    ),
    **dict.fromkeys(
        (
            *(
                "action",
                "admin_changed",
                "admin_reset",
                "cleanup",
                "expired",
                "corrected",
                "deleted",
                "doubt_over",
            ),
            *("limited", "quota_changed", "rebased", "rebuilt", "recreated", "released", "reset"),
            *("reseller_changed", "reseller_near", "reseller_reset", "restored", "returned"),
            "taken_up",
        ),
        Severity.NOTICE,
    ),
}
"""All kinds that the bridge records; a test holds that none is missing."""


def severity_of(kind: str) -> Severity:
    """Return the severity of a kind; NOTICE for one of another version."""
    return SEVERITIES.get(kind, Severity.NOTICE)
