"""Whatever an environment says: settings that work, or one error that names the variable."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import collector.settings
import marzban_bridge.config.settings
from collector.influx.access import InfluxAccess
from collector.influx.client import open_client
from collector.runtime.config import ConfigError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.rest_panel import RestPanel
from tests.support.hostile_input import texts

PROGRAMS = {
    "collector": collector.settings.Settings,
    "bridge": marzban_bridge.config.settings.Settings,
}
SECRETS = ("KEY", "KEYS", "TOKEN", "SECRET", "PASSWORD")
urls = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(
        ["http://", "https://", "ftp://", "http:", "//", "file:///", "javascript:", ""]
    ),
    st.sampled_from(
        [
            "",
            "a",
            "a:1",
            "a:99999",
            "a:b",
            "[::1]",
            "[::1",
            "[v1.x]",
            "u:secret@a",
            ":secret@a",
            "a b",
            "é.example",
            "xn--",
            "a\\b",
            "a\x7fb",
            "%zz",
            "-",
            "a" * 300,
            "1.2.3.4.5",
            "a:0",
        ]
    ),
    st.sampled_from(["", "/", "/path//", "?q=1", "#f", "/..", "/\ud800", "/%00"]),
    st.sampled_from(["", "é", "\u2028"]),
)
raw_values = st.one_of(
    texts,
    urls,
    st.sampled_from(
        ["9" * 5000, "1e999", "nan", "inf", "-1", "1_000", "٣", "true", "r:" + "k" * 30]
    ),
)


def is_secret(variable: str) -> bool:
    return variable.rsplit("_", 1)[-1] in SECRETS


CASES = [
    (program, variable.name) for program, kind in PROGRAMS.items() for variable in kind.variables()
]


@pytest.mark.parametrize(("program", "variable"), CASES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(raw=raw_values)
@example(raw="rk_a-key-that-somebody-forgot-to-name")
@example(raw="http://:the-password@panel.test:99999")
def test_a_variable_is_read_or_refused_by_its_name(program, variable, raw):
    kind = PROGRAMS[program]
    complaint = shown = ""
    try:
        shown = repr(kind.from_env({variable: raw}))
    except ConfigError as refused:
        complaint = str(refused)
    assert shown or variable in complaint
    if variable.endswith("_URL"):
        assert "the-password" not in complaint
    if is_secret(variable) and len(raw.strip()) > 12:
        assert raw.strip() not in shown + complaint


@settings(max_examples=80)
@given(url=urls, key=texts)
@example(url="http://a:99999", key="")
@example(url="http://a", key="ключ")
def test_what_is_read_is_enough_to_open_every_connection(url, key):
    environment = {
        "MARZBAN_URL": url,
        "COLLECTOR_URL": url,
        "INFLUXDB_URL": url,
        "COLLECTOR_ADMIN_KEY": key,
        "INFLUXDB_TOKEN": key,
    }
    try:
        found = marzban_bridge.config.settings.Settings.from_env(environment)
    except ConfigError:
        return

    async def open_all():
        for each in (
            RestPanel(found.marzban_url, kind=PanelKind.MARZBAN, username="root", password="p"),
            CollectorFeed(found.collector_url, admin_key=found.collector_admin_key),
        ):
            await each.close()

    asyncio.run(open_all())
    if found.influxdb_url:
        access = InfluxAccess(url=found.influxdb_url, org="vpn", token=found.influxdb_token)
        open_client(access).close()
