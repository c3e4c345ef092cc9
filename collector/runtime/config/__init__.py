"""Reading what operators configure: the environment, a `.env` file, and files in TOML.

One reader for all programs. A mistake is a ConfigError on one line: which variable or key, what is
expected there, what was given (never a secret, and nothing so long that it may be one), and what to
do where that is not plain.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(Exception):
    """What was configured is missing, malformed or not known; the message says where and what."""


def resembling(given: str, known: Iterable[str]) -> str | None:
    """Return the known word that a given one is most likely meant to be; None if none is near."""
    folded = {each.casefold(): each for each in sorted(known)}
    near = get_close_matches(given.casefold(), folded, 1)
    return folded[near[0]] if near else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a remark to put behind a word that is not known; empty where none is near."""
    near = resembling(given, known)
    return f" (did you mean {near}?)" if near else ""
