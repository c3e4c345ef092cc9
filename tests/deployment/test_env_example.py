"""`.env.example` says what the settings are, all of them and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

import collector.settings
import marzban_bridge.config.settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE_ALONE = {
    "INFLUXDB_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
    "POSTGRES_PASSWORD",
    "POSTGRES_SHARED_BUFFERS",
    "GRAFANA_ROOT_URL",
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
    shutil.copy(ROOT / "scripts" / "new-env.sh", tmp_path / "scripts")
    return tmp_path


def new_env(checkout):
    script = checkout / "scripts" / "new-env.sh"
    return subprocess.run(["sh", script], capture_output=True, text=True, check=False)


def test_a_new_env_has_a_fresh_secret_wherever_one_is_needed_and_nothing_else_changed(checkout):
    assert new_env(checkout).returncode == 0
    made = dotenv_values(checkout / ".env")
    example = dotenv_values(EXAMPLE)
    assert {name for name in made if made[name] != example[name]} == SECRETS
    assert all(re.fullmatch("[A-Za-z0-9]{40}", made[name]) for name in SECRETS)
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    assert list(made) == list(example)
    collector.settings.Settings.from_env(made)
    marzban_bridge.config.settings.Settings.from_env(made)


def test_an_env_that_is_there_is_left_alone(checkout):
    (checkout / ".env").write_text("MINE=1")
    answer = new_env(checkout)
    assert answer.returncode == 1
    assert "nothing was changed" in answer.stderr
    assert (checkout / ".env").read_text() == "MINE=1"
