"""`.env.example` says what the settings are, all of them and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

import collector.settings
import marzban_bridge.config.settings
from marzban_bridge.notifications.settings import NotificationSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE_ALONE = {
    "SECRETS_DIR",
    "COLLECTOR_MEMORY",
    "BRIDGE_MEMORY",
    "INFLUXDB_MEMORY",
    "POSTGRES_MEMORY",
    "POSTGRES_CPUS",
    "POSTGRES_SHARED_BUFFERS",
    "COLLECTOR_PUBLISH",
    "BRIDGE_PUBLISH",
    "GRAFANA_PUBLISH",
}
SECRETS = {
    "COLLECTOR_ADMIN_KEY",
    "BRIDGE_WEBHOOK_SECRET",
    "BRIDGE_ACTION_TOKEN",
    "INFLUXDB_ADMIN_TOKEN",
    "INFLUXDB_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
    "POSTGRES_PASSWORD",
}


def variables():
    both = [
        *collector.settings.Settings.variables(),
        *marzban_bridge.config.settings.Settings.variables(),
        *NotificationSettings.variables(),
    ]
    return {variable.name: variable for variable in both}


def test_every_variable_is_there_with_its_default():
    written = dotenv_values(EXAMPLE)
    settings = {name: value for name, value in written.items() if name not in COMPOSE_ALONE}
    assert settings == {name: variable.default for name, variable in variables().items()}
    assert set(written) - set(settings) == COMPOSE_ALONE


def test_the_example_as_it_is_gives_the_defaults():
    written = dotenv_values(EXAMPLE)
    assert collector.settings.Settings.from_env(written) == collector.settings.Settings()
    assert (
        marzban_bridge.config.settings.Settings.from_env(written)
        == marzban_bridge.config.settings.Settings()
    )


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(EXAMPLE, tmp_path)
    for name in ("new-env.sh", "random-text.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    return tmp_path


def new_env(checkout, *arguments, volumes=""):
    """Run the script beside a Docker that has these volumes."""
    docker = checkout / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(f"#!/bin/sh\nprintf '{volumes}'\n")
    docker.chmod(0o755)
    return subprocess.run(
        ["sh", checkout / "scripts" / "new-env.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": f"{docker.parent}:{os.environ['PATH']}"},
    )


def new_env_on_a_terminal(checkout, *lines):
    """Run the script with lines that are typed, and return what the terminal showed."""
    master, slave = os.openpty()
    with open(master, "rb+", buffering=0, closefd=True) as typed:  # noqa: PTH123 - a descriptor
        typed.write("".join(f"{line}\n" for line in lines).encode())
        ended = subprocess.run(
            ["sh", checkout / "scripts" / "new-env.sh"],
            stdin=slave,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
        )
        os.close(slave)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr + ended.stdout


def secrets_of(checkout):
    return {each.name.upper(): each.read_text() for each in (checkout / "secrets").iterdir()}


def test_there_is_a_fresh_secret_wherever_one_is_needed_and_the_settings_are_the_examples(checkout):
    ended = new_env(checkout)
    assert ended.returncode == 0, ended.stderr
    given = EXAMPLE.read_text().replace(
        "\nBRIDGE_ACTION_LOGINS=\n", "\nBRIDGE_ACTION_LOGINS=admin\n"
    )
    assert (checkout / ".env").read_text() == given
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    made = secrets_of(checkout)
    fresh = {name: made[name] for name in SECRETS}
    assert all(re.fullmatch("[A-Za-z0-9]{40}\n", each) for each in fresh.values())
    assert len(set(fresh.values())) == len(SECRETS)
    url = made.pop("POSTGRES_URL")
    assert (
        url == f"postgresql://traffic:{made['POSTGRES_PASSWORD'].strip()}@postgres:5432/traffic\n"
    )
    assert {name for name, each in made.items() if not each.strip()} == set(made) - SECRETS
    assert set(made) - SECRETS == {
        *("MARZBAN_PASSWORD", "MARZBAN_API_KEY", "COLLECTOR_REPORTER_KEYS"),
        *("ALERTS_TELEGRAM_TOKEN", "ALERTS_SMTP_PASSWORD", "ALERTS_WEBHOOK_TOKEN"),
    }


def test_containers_read_the_files_of_secrets_and_other_users_of_the_machine_do_not(checkout):
    new_env(checkout)
    folder = checkout / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o644}


def test_what_is_there_is_left_alone(checkout):
    new_env(checkout)
    before = (checkout / ".env").read_text(), secrets_of(checkout)
    answer = new_env(checkout)
    assert answer.returncode == 1
    assert "nothing was changed" in answer.stderr
    assert ((checkout / ".env").read_text(), secrets_of(checkout)) == before


def test_secrets_of_an_older_env_are_moved_into_files_and_no_other_is_made(checkout):
    text = EXAMPLE.read_text().replace(
        "\nCOLLECTOR_ADMIN_KEY=\n", "\nCOLLECTOR_ADMIN_KEY=an-old-key\n"
    )
    text = text.replace("\nMARZBAN_PASSWORD=\n", "\nMARZBAN_PASSWORD='pa$word #1'\n")
    text += "INFLUXDB_PASSWORD=old # of InfluxDB\nPOSTGRES_PASSWORD=oldpg\n"
    text = text.replace("\nINFLUXDB_ADMIN_TOKEN=\n", '\nINFLUXDB_ADMIN_TOKEN="old-operator"\n')
    (checkout / ".env").write_text(text)
    assert new_env(checkout, volumes="external-traffic_influxdb\n").returncode == 0
    made = secrets_of(checkout)
    assert made["COLLECTOR_ADMIN_KEY"] == "an-old-key\n"
    assert made["MARZBAN_PASSWORD"] == "pa$word #1\n"
    assert made["INFLUXDB_PASSWORD"] == "old\n"
    assert made["INFLUXDB_ADMIN_TOKEN"] == "old-operator\n"
    assert made["POSTGRES_URL"] == "postgresql://traffic:oldpg@postgres:5432/traffic\n"
    left = dotenv_values(checkout / ".env")
    assert not any(left[name] for name in made if name in left)
    assert left["COLLECTOR_PORT"] == "8080"


def test_new_secrets_for_kept_volumes_are_refused_until_it_is_said_anyway(checkout):
    kept = "external-traffic_ledger\nexternal-traffic_influxdb\n"
    answer = new_env(checkout, volumes=kept)
    assert answer.returncode == 1
    assert "would refuse" in answer.stderr
    assert not (checkout / ".env").exists()
    assert not (checkout / "secrets").exists()
    assert new_env(checkout, "--anyway", volumes=kept).returncode == 0
    assert new_env(checkout, volumes=kept).returncode == 1, "it is made already"


def test_on_a_terminal_it_asks_for_what_only_you_know(checkout):
    shown = new_env_on_a_terminal(checkout, "https://panel.test:8000", "me & co|$x", "pa$word '#1 ")
    made = dotenv_values(checkout / ".env", interpolate=False)
    assert made["MARZBAN_URL"] == "https://panel.test:8000"
    assert made["MARZBAN_USERNAME"] == "me & co|$x"
    assert secrets_of(checkout)["MARZBAN_PASSWORD"] == "pa$word '#1 \n"
    assert "pa$word" not in shown
    assert "Now set" not in shown


def test_what_is_not_typed_is_said_to_be_missing(checkout):
    shown = new_env_on_a_terminal(checkout, "", "o'brien", "")
    assert dotenv_values(checkout / ".env")["MARZBAN_URL"] == ""
    assert "it has a quote" in shown
    assert "Now set MARZBAN_URL" in shown
