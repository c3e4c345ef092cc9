"""Value types of settings that only the collector has."""

from __future__ import annotations

from urllib.parse import urlsplit

from collector.errors import SettingsError
from collector.ledger.url import check_url
from collector.reports.identity import FIRST_PANEL, PANEL_NAME, subscription_token
from collector.reports.reporters import MIN_KEY_LENGTH, NAME
from collector.runtime.config.values import WEB_URL, comma_list, header_text, text

MAX_PANELS = 64
USUAL_SUBSCRIPTION_PATH = "sub"
"""Where both kinds of panels have their subscriptions unless they are told otherwise."""


def _ledger_url(raw: str) -> str:
    try:
        check_url(raw)
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


def _subscription_urls(raw: str) -> tuple[tuple[str, str], ...]:
    urls: dict[str, str] = {}
    for number, part in enumerate(comma_list(raw), start=1):
        name, sign, url = part.partition("=")
        if not sign or not PANEL_NAME.fullmatch(name):
            raise ValueError(
                "expected name=url,name2=url2 with the panels' names of a-z 0-9 -, as in "
                f"two=https://two.example.com:8000/sub; entry {number} is not so"
            )
        if name == FIRST_PANEL:
            raise ValueError(
                f"{name} is the panel of MARZBAN_URL and COLLECTOR_SUBSCRIPTION_PATH; name this "
                "one otherwise"
            )
        if name in urls:
            raise ValueError(f"{name} is named twice")
        urls[name] = _subscription_url(url, name)
    if len(urls) >= MAX_PANELS:
        raise ValueError(f"with that of MARZBAN_URL there may be {MAX_PANELS} panels")
    return tuple(urls.items())


def _subscription_url(raw: str, name: str) -> str:
    try:
        url = WEB_URL.of_text(raw)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    parts = urlsplit(url)
    if parts.query or parts.fragment or subscription_token(url):
        raise ValueError(
            f"{name}: expected what a subscription link begins with, up to the slash before the "
            "token, such as https://two.example.com:8000/sub"
        )
    return url if parts.path else f"{url}/{USUAL_SUBSCRIPTION_PATH}"


LEDGER_URL = text(_ledger_url)
REPORTER_KEYS = text(_reporter_keys, empty=())
"""Names of reporters and their keys."""
REPORTER_NAMES = text(_reporter_names, empty=())
SUBSCRIPTION_URLS = text(_subscription_urls, empty=())
"""Names of further panels, and where their subscription links begin."""
