"""Which panels the collector of `marzban-bridge up` asks about subscriptions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collector.runtime.config import ConfigError
from collector.settings import Settings
from marzban_bridge.cli.subscription_urls import subscription_urls
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings as BridgeSettings


def panels(*names):
    (first,) = load_panels(
        BridgeSettings(
            marzban_url="https://default.test", marzban_username="root", marzban_password="pw"
        )
    )
    return (first, *(replace(first, name=name, url=f"https://{name}.test:8000") for name in names))


@pytest.mark.parametrize(
    ("names", "named", "expected"),
    [
        ((), {}, {}),
        (("two",), {}, {"two": "https://two.test:8000/sub"}),
        (("two",), {"two": "https://links.test/own"}, {"two": "https://links.test/own"}),
        (
            ("two", "three"),
            {"three": "https://links.test/own"},
            {"two": "https://two.test:8000/sub", "three": "https://links.test/own"},
        ),
    ],
)
def test_all_panels_are_asked_where_the_setting_says_or_under_sub(names, named, expected):
    written = subscription_urls(panels(*names), named)
    settings = Settings.from_env({"COLLECTOR_SUBSCRIPTION_URLS": written})
    assert dict(settings.subscription_urls) == expected


def test_a_name_that_is_no_panels_is_refused_with_the_one_that_is_meant():
    with pytest.raises(ConfigError, match=r"URLS: tow is no panel .*did you mean two\?"):
        subscription_urls(panels("two"), {"tow": "https://links.test/own"})
