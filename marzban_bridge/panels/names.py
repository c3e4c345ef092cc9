"""What panels and their users are called outside their own panel, and whose a reported name is.

A user's name never contains a slash in Marzban, so that a slash tells a panel from a user: `alice`,
`two/alice`. Users' names are case-sensitive, panels' are not.

| the panel's users | `Alice` is reported: it counts for |
|---|---|
| `Alice`, and any others | `Alice` |
| `alice` | `alice`, the only one equal without case |
| `alice`, `ALICE` | no user: it is unknown until it is reported as one of them |
| none of these | no user: it is unknown until there is one |
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import NamedTuple

FIRST_PANEL = "default"
"""What the panel of `MARZBAN_URL` is called, and which is searched first for names without a panel.

It is in every store that was made before there were several.
"""
PANEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class ReportedName(NamedTuple):
    """A name as it was reported, taken apart."""

    key: str
    """The user's part, as it was spelt, in Unicode NFC."""
    panel: str | None
    """The panel that is named; None for a name alone."""


class PublicName(NamedTuple):
    """What a user is called outside its panel, and which panel that is."""

    panel: str
    username: str


def account_key(username: str) -> str:
    """Return the name under which an account is stored: the panel's spelling, as Unicode NFC."""
    return unicodedata.normalize("NFC", username)


def take_apart(username: str, *, panels: Collection[str]) -> ReportedName:
    """Tell a panel from a user in a reported name; what names no known panel is a user."""
    spelt = account_key(username)
    panel, slash, name = spelt.partition("/")
    if slash and name and panel.casefold() in panels:
        return ReportedName(name, panel.casefold())
    return ReportedName(spelt, None)


def folded(name: str) -> str:
    """Return what two names that are equal without case have in common."""
    return account_key(name).casefold()


def owner_of(reported: str, names: Iterable[str]) -> str | None:
    """Return which of a panel's users a reported name means; None for none of them, or several.

    It is the user of exactly that name, else the only one that is equal without case.
    """
    equal = {name for name in map(account_key, names) if folded(name) == folded(reported)}
    if account_key(reported) in equal:
        return account_key(reported)
    return equal.pop() if len(equal) == 1 else None


def scoped(panel: str, username: str) -> str:
    """Return what a user is called outside its panel."""
    return username if panel == FIRST_PANEL else f"{panel}/{username}"
