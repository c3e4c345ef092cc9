"""Known words near one that is not known, for "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LEAST_LIKENESS = 0.65
"""Twice the letters in common by both words' letters; below it a word is another one."""


def near_words(given: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """Return up to `most` known words that a given one may be meant to be, the nearest first."""
    folded = {each.casefold(): each for each in sorted(known)}
    near = get_close_matches(given.casefold(), folded, most, LEAST_LIKENESS)
    return [folded[each] for each in near]
