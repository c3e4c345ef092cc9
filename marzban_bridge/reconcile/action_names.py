"""What people may ask of the bridge beyond looking: names, and what has to be typed; pure."""

from __future__ import annotations

from enum import StrEnum

RESET_ALL_PHRASE = "reset all users"
CLEANUP_PHRASE = "cleanup"
"""Typed by whoever asks for what concerns everybody, so that no slip of the hand does it."""


class Action(StrEnum):
    """What people ask for from a dashboard or a confirm page."""

    RESET = "reset"
    RESET_ALL = "reset_all"
    CLEANUP = "cleanup"
