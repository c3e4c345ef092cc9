"""A name that no program knows is refused; one that belongs to another program is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

import collector.settings
import marzban_bridge.config.settings
from collector.known_names import NAMES
from collector.runtime.config import ConfigError
from collector.runtime.config.names import without_service_addresses
from collector.runtime.config.variables import secrets_of
from marzban_bridge.notifications.settings import NotificationSettings

ROOT = Path(__file__).parents[3]
SETTINGS = (
    collector.settings.Settings,
    marzban_bridge.config.settings.Settings,
    NotificationSettings,
)
STACK = (
    *ROOT.glob("docker-compose*.yml"),
    *(path for path in (ROOT / "provisioning").rglob("*") if path.is_file()),
    ROOT / "scripts" / "new-env.sh",
)
OURS = re.compile(
    r"(?<![A-Z0-9_])(?:ALERTS|COLLECTOR|BRIDGE|MARZBAN|INFLUXDB|LEDGER|FORWARDED)_[A-Z0-9_]+"
)


def test_the_names_are_those_of_the_programs_the_example_and_the_stack():
    programs = {each.name for settings in SETTINGS for each in settings.variables()}
    programs -= {"GRAFANA_ROOT_URL"}  # Grafana's, so its prefix is not ours
    written = {
        name
        for file in (".env.example", "demo.env")
        for name in dotenv_values(ROOT / file)
        if OURS.fullmatch(name)
    }
    stack = {name for path in STACK for name in OURS.findall(path.read_text(encoding="utf-8"))}
    assert NAMES.known == programs | written | (
        stack - {f"{each}_FILE" for each in NAMES.may_be_in_file}
    )


def test_every_secret_setting_may_be_in_a_file():
    assert NAMES.may_be_in_file == {name for each in SETTINGS for name in secrets_of(each)} - {
        "INFLUXDB_TOKEN"  # INFLUXDB_TOKEN_FILE is a setting of its own
    }
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert all(f"{each}_FILE" in text for each in NAMES.may_be_in_file)


@pytest.mark.parametrize(
    "name", ["MARZBAN_PASWORD_FILE", "MARZBAN_URL_FILE", "COLLECTOR_PORT_FILE"]
)
def test_only_a_secret_may_be_in_a_file(name):
    with pytest.raises(ConfigError, match=f"not known: {name}"):
        NAMES.refuse_unknown([name], where="here", is_ours=True)


MISSPELT = {
    "COLLECTOR_PROT": "COLLECTOR_PORT",
    "COLLECTOR_ADMINKEY": "COLLECTOR_ADMIN_KEY",
    "BRIDGE_WEBHOK_SECRET": "BRIDGE_WEBHOOK_SECRET",
    "BRIDGE_PASS_SECOND": "BRIDGE_PASS_SECONDS",
    "MARZBAN_TIMEOUT": "MARZBAN_TIMEOUT_SECONDS",
    "MARZBAN_USER": "MARZBAN_USERNAME",
    "MARZBAN_PASS": "MARZBAN_PASSWORD",
    "INFLUXDB_TOKENS": "INFLUXDB_TOKEN",
    "INFLUXDB_ORGANIZATION": "INFLUXDB_ORG",
    "LEDGER_URI": "LEDGER_URL",
    "FORWARDED_ALLOW_IP": "FORWARDED_ALLOW_IPS",
    "collector_port": "COLLECTOR_PORT",
}


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_a_misspelt_name_is_refused_with_what_was_meant(name, meant, is_ours):
    with pytest.raises(ConfigError) as refused:
        NAMES.refuse_unknown({name: "hunter2"}, where="here", is_ours=is_ours)
    assert str(refused.value).startswith(f"here: not known: {name} (did you mean {meant}?)")
    assert "hunter2" not in str(refused.value)


def test_all_unknown_names_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"not known: BRIDGE_COLOUR, COLLECTOR_PROT \(did you"):
        NAMES.refuse_unknown(["COLLECTOR_PROT", "BRIDGE_COLOUR"], where="x", is_ours=False)


@pytest.mark.parametrize(
    "name",
    [
        *sorted(NAMES.known),
        "PATH",
        "GRAFANA_ADMIN_PASSWORD",
        "DOCKER_INFLUXDB_INIT_ADMIN_TOKEN",
        "INFLUXDB_HTTP_BIND_ADDRESS",
        "INFLUXDB_DATA_DIR",
        "INFLUXDB_ADMIN_USER",
        "INFLUXDB_ADMIN_PASSWORD",
        "INFLUXDB_USER_PASSWORD",
        "INFLUXDB_DB",
        "INFLUXDB_V2_TOKEN",
        "INFLUXDB3_AUTH_TOKEN",
        "INFLUXD_REPORTING_DISABLED",
        "COLLECTOR_SERVICE_HOST",
        "COLLECTOR_SERVICE_PORT_HTTP",
        "BRIDGE_PORT_8090_TCP_ADDR",
        "MARZBAN_PORT_8000_TCP",
        "MARZBAN_TEST_URL",
    ],
)
@pytest.mark.parametrize("is_ours", [True, False])
def test_names_that_are_known_or_another_programs_are_let_be(name, is_ours):
    NAMES.refuse_unknown([name], where="here", is_ours=is_ours)


@pytest.mark.parametrize("name", ["MARZBAN_BOT_TOKEN", "INFLUXDB_BUCKET", "LEDGER_FILE"])
def test_what_resembles_nothing_of_ours_is_another_programs_unless_it_is_in_our_file(name):
    NAMES.refuse_unknown([name], where="environment", is_ours=False)
    with pytest.raises(ConfigError, match=f"not known: {name}; correct it"):
        NAMES.refuse_unknown([name], where=".env", is_ours=True)


def test_a_service_called_like_a_program_does_not_set_its_port():
    links = {"COLLECTOR_PORT": "tcp://10.96.0.7:8080", "BRIDGE_PORT": "8090"}
    assert without_service_addresses(links) == {"BRIDGE_PORT": "8090"}
