"""The bridge's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.runtime.config import ConfigError
from marzban_bridge.config.settings import Settings
from marzban_bridge.quota.account import Enforcement

PANEL = {
    "MARZBAN_URL": "https://panel.example.com/",
    "MARZBAN_USERNAME": "root",
    "MARZBAN_PASSWORD": "hunter2-hunter2",
}


def test_an_empty_environment_gives_the_documented_defaults():
    settings = Settings.from_env({})
    assert settings == Settings()
    for name, default, description in Settings.variables():
        assert description, name
        assert Settings.from_env({name: default}) == settings, name


def test_values_are_read_and_urls_lose_their_last_slash():
    settings = Settings.from_env(
        PANEL | {"BRIDGE_ENFORCEMENT": "observe", "BRIDGE_STORE": "/x/y", "BRIDGE_PORT": "1234"}
    )
    assert settings.marzban_url == "https://panel.example.com"
    assert settings.enforcement is Enforcement.OBSERVE
    assert settings.store == Path("/x/y")
    assert settings.port == 1234
    settings.require_panel()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("MARZBAN_URL", "panel.example.com"),
        ("MARZBAN_URL", "ftp://panel"),
        ("MARZBAN_URL", "https://root:hunter2@panel.example.com"),
        ("BRIDGE_PORT", "70000"),
        ("BRIDGE_PORT", "http"),
        ("BRIDGE_ENFORCEMENT", "punish"),
        ("BRIDGE_PASS_SECONDS", "0"),
        ("BRIDGE_PASS_SECONDS", "nan"),
        ("BRIDGE_KEEPS_NEXT_PLAN", "perhaps"),
        ("BRIDGE_NOTES", "maybe"),
        ("BRIDGE_SNAPSHOT_SECONDS", "0"),
        ("BRIDGE_ACTION_TOKEN", "nineteen-characters"),
        ("BRIDGE_PUBLIC_URL", "bridge.example.com"),
        ("INFLUXDB_URL", "influx:8086"),
        ("INFLUXDB_URL", "http://root:hunter2@influx:8086"),
        ("INFLUXDB_RAW_DAYS", "0"),
        ("INFLUXDB_RAW_DAYS", "1.5"),
        ("INFLUXDB_RAW_DAYS", "36501"),
    ],
)
def test_a_malformed_value_is_refused_by_name(name, raw):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Settings.from_env({name: raw})


def test_what_concerns_influxdb_and_dashboards_is_read():
    settings = Settings.from_env(
        {
            "INFLUXDB_URL": "http://influx:8086/",
            "INFLUXDB_TOKEN_FILE": "/run/tokens/bridge",
            "BRIDGE_ACTION_TOKEN": "exactly-twenty-chars",
            "BRIDGE_ACTION_LOGINS": " alice, bob ,,",
        }
    )
    assert settings.influxdb_url == "http://influx:8086"
    assert settings.influxdb_token_file == Path("/run/tokens/bridge")
    assert settings.action_token == "exactly-twenty-chars"
    assert settings.action_logins == ("alice", "bob")


def test_a_malformed_secret_is_not_repeated():
    with pytest.raises(ConfigError) as refused:
        Settings.from_env({"BRIDGE_ACTION_TOKEN": "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("missing", sorted(PANEL))
def test_what_is_missing_to_reach_the_panel_is_named(missing):
    settings = Settings.from_env({name: PANEL[name] for name in PANEL if name != missing})
    with pytest.raises(ConfigError, match=f"^{missing} must be set"):
        settings.require_panel()


def test_secrets_are_not_in_the_representation():
    environment = PANEL | {
        "COLLECTOR_ADMIN_KEY": "hunter2-of-the-collector",
        "BRIDGE_WEBHOOK_SECRET": "hunter2-webhook",
        "BRIDGE_ACTION_TOKEN": "hunter2-of-the-dashboards",
        "INFLUXDB_TOKEN": "hunter2-influx",
    }
    assert "hunter2" not in repr(Settings.from_env(environment))
