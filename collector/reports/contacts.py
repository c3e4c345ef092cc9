"""Last contacts of reporters and refused requests: their values, and how they add up; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from collector.reports.report import DAY_MILLIS

MOST_REFUSED = 100
"""So many addresses and reasons are told apart, the latest; what the others did is summed up."""
KEPT_DAYS = 7
"""An address that was not refused again for so long is forgotten."""
OTHERS = ""
"""The address under which further addresses are summed up."""
LONGEST_ADDRESS = 64


class Reason(StrEnum):
    """Why a request with reports was refused, before anything in it was looked at."""

    NO_KEY = "no key"
    UNKNOWN_KEY = "unknown key"
    REVOKED_KEY = "revoked or replaced key"
    SIGNATURE = "wrong signature"
    SUBSCRIPTION = "unknown subscription token"
    OTHER_USER = "report of another user"
    NO_SOURCE = "no users configured"
    PATH = "unknown path"


class Refused(msgspec.Struct, frozen=True):
    """The refused requests of one address, for one reason."""

    address: str
    """An IPv4 address, or the first half of an IPv6 one; `OTHERS` for the rest."""
    reason: str
    requests: int
    last_at_millis: int


class Contacts(msgspec.Struct, frozen=True):
    """When each reporter's key was last accepted, and which requests were refused."""

    last_contacts: Mapping[str, int] = {}
    """By reporter, in milliseconds since 1970, whether or not the request had reports."""
    refused: list[Refused] = []


def merged(kept: Contacts, news: Contacts, *, now_millis: int) -> Contacts:
    """Return what was kept with what is new, within its bounds."""
    last_contacts = dict(kept.last_contacts)
    for name, at_millis in news.last_contacts.items():
        last_contacts[name] = max(at_millis, last_contacts.get(name, 0))
    oldest_millis = now_millis - KEPT_DAYS * DAY_MILLIS
    recent = [
        each for each in [*kept.refused, *news.refused] if each.last_at_millis >= oldest_millis
    ]
    return Contacts(last_contacts, bounded(recent))


def bounded(refused: Iterable[Refused]) -> list[Refused]:
    """Add up rows of one address and reason; the latest first, further addresses as one."""
    rows = _added_up(refused)
    rows.sort(key=lambda each: (each.address != OTHERS, each.last_at_millis), reverse=True)
    others = [msgspec.structs.replace(each, address=OTHERS) for each in rows[MOST_REFUSED:]]
    return [*rows[:MOST_REFUSED], *_added_up(others)]


def _added_up(refused: Iterable[Refused]) -> list[Refused]:
    counts: Counter[tuple[str, str]] = Counter()
    last_at: dict[tuple[str, str], int] = {}
    for each in refused:
        key = each.address, each.reason
        counts[key] += each.requests
        last_at[key] = max(each.last_at_millis, last_at.get(key, 0))
    return [Refused(*key, count, last_at[key]) for key, count in counts.items()]


def parse_contacts(text: str | None) -> Contacts:
    """Return what a stored text says; nothing for no text."""
    return Contacts() if text is None else msgspec.json.decode(text, type=Contacts)


def format_contacts(contacts: Contacts) -> str:
    """Return the text to store."""
    return msgspec.json.encode(contacts).decode()
