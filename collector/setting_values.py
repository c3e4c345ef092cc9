"""Value types of settings that only the collector has."""

from __future__ import annotations

from collector.errors import SettingsError
from collector.ledger.backend import backend_of
from collector.reports.reporters import MIN_KEY_LENGTH, NAME
from collector.runtime.config.values import comma_list, header_text, text


def _ledger_url(raw: str) -> str:
    try:
        backend_of(raw)
    except SettingsError as error:
        raise ValueError(str(error).removeprefix("LEDGER_URL: ")) from None
    return raw


def _reporter_keys(raw: str) -> tuple[tuple[str, str], ...]:
    keys: dict[str, str] = {}
    for number, part in enumerate(raw.split(","), start=1):
        name, _, key = part.strip().partition(":")
        if not name and not key:
            continue
        if not NAME.fullmatch(name) or len(key) < MIN_KEY_LENGTH:  # a name may be a key, misplaced
            raise ValueError(
                "expected name:key,name2:key2 with names of A-Z a-z 0-9 . _ - and keys of at "
                f"least {MIN_KEY_LENGTH} characters; entry {number} is not so"
            )
        keys[name] = header_text().of_text(key)
    return tuple(keys.items())


def _reporter_names(raw: str) -> tuple[str, ...]:
    names = comma_list(raw)
    if not all(NAME.fullmatch(name) for name in names):
        raise ValueError("expected reporters' names: name,name2 of A-Z a-z 0-9 . _ -")
    return names


LEDGER_URL = text(_ledger_url)
REPORTER_KEYS = text(_reporter_keys, empty=())
"""Names of reporters and their keys."""
REPORTER_NAMES = text(_reporter_names, empty=())
