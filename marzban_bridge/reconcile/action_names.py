"""The actions that people can request, and the phrases that confirm them; pure."""

from __future__ import annotations

from enum import StrEnum

RESET_ALL_PHRASE = "reset all users"
CLEANUP_PHRASE = "cleanup"
"""Has to be typed to confirm an action on all users."""


class Action(StrEnum):
    """An action that a dashboard or a confirm page offers."""

    RESET = "reset"
    RESET_ALL = "reset_all"
    CLEANUP = "cleanup"
