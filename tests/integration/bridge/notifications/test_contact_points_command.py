"""`marzban-bridge contact-points`: what it writes and says, and that a bad value ends nothing."""

from __future__ import annotations

import json

import pytest

from marzban_bridge.cli.main import main
from tests.support.grafana.grafana_files import RULES


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def set_all(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"ALERTS_{name}", value)

    return set_all


def run(tmp_path, *more):
    return main(
        ["contact-points", "--rules", str(RULES.parent), "--to", str(tmp_path / "to"), *more]
    )


def test_it_says_where_alerts_go(settings, tmp_path, capsys):
    settings(WEBHOOK_URL="https://alerts.example.com")
    assert run(tmp_path, "--smtp", str(tmp_path / "smtp")) == 0
    assert capsys.readouterr().out == "alerts are sent by webhook\n"
    content = json.loads((tmp_path / "to" / "contact-points.yaml").read_text())
    [point] = content["contactPoints"]
    assert [each["type"] for each in point["receivers"]] == ["webhook"]
    assert (tmp_path / "smtp" / "enabled").read_text() == "false"


def test_a_bad_value_is_said_and_grafana_starts_all_the_same(settings, tmp_path, capsys):
    settings(TELEGRAM_TOKEN="a bot", TELEGRAM_CHAT="-1")
    assert run(tmp_path) == 0
    said = capsys.readouterr()
    assert "ALERTS_TELEGRAM_TOKEN: expected" in said.err
    assert "in Grafana only" in said.out
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"rules.yaml", "templates.yaml"}


def test_a_folder_that_cannot_be_written_is_an_error(settings, tmp_path, capsys):
    (tmp_path / "to").write_text("a file")
    assert run(tmp_path) == 1
    assert str(tmp_path / "to") in capsys.readouterr().err
