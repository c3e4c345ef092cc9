"""Reading what operators configure: the environment, a `.env` file, and files in TOML.

One reader for all programs. A mistake is a ConfigError on one line: which variable or key, what is
expected there, what was given (never a secret, and nothing so long that it may be one), and what to
do where that is not plain.
"""

from __future__ import annotations

from collections.abc import Iterable

from collector.runtime.near_words import near_words


class ConfigError(Exception):
    """What was configured is missing, malformed or not known; the message says where and what."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a remark to put behind a word that is not known; empty where none is near."""
    return "".join(f" (did you mean {near}?)" for near in near_words(given, known))
