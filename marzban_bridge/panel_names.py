"""What panels and their users are called outside their own panel: `alice`, `two/alice`.

A user's name never contains a slash in Marzban, so that a slash tells a panel from a user.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from marzban_bridge.accounts import account_key

FIRST_PANEL = "default"
"""What the panel of `MARZBAN_URL` is called, and where names without a panel are looked for first.

It is in every store that was made before there were several.
"""
PANEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class ReportedName(NamedTuple):
    """A name as it was reported, taken apart."""

    key: str
    """The user's part, folded."""
    panel: str | None
    """The panel that is named; None for a name alone."""


class PublicName(NamedTuple):
    """What a user is called outside its panel, and which panel that is."""

    panel: str
    username: str


def take_apart(username: str, *, panels: Collection[str]) -> ReportedName:
    """Tell a panel from a user in a reported name; what names no known panel is a user."""
    folded = account_key(username)
    panel, slash, name = folded.partition("/")
    if slash and name and panel in panels:
        return ReportedName(name, panel)
    return ReportedName(folded, None)


def without_panel(username: str, *, panels: Collection[str]) -> str:
    """Return the user's part of a reported name, as it was spelt."""
    if take_apart(username, panels=panels).panel is None:
        return username
    return username.partition("/")[2]


def scoped(panel: str, username: str) -> str:
    """Return what a user is called outside its panel."""
    return username if panel == FIRST_PANEL else f"{panel}/{username}"
