"""The command line: what an operator types and reads."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from collector.cli.main import main
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.reporters import KeyRing, hash_key, signing_secret
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a ledger, which the environment names; no `.env` is near."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLLECTOR_REPORTER_KEYS", "COLLECTOR_ADMIN_KEY", "MARZBAN_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ledger.sqlite3"
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{path}")
    monkeypatch.setenv("COLUMNS", "200")
    return path


def test_a_new_reporters_key_is_shown_once_and_works(path, capsys):
    assert main(["reporters", "add", "agent-1"]) == 0
    out = capsys.readouterr().out
    key = re.search(r"rk_[A-Za-z0-9_-]{43}", out)[0]
    assert signing_secret(hash_key(key)) in out
    assert f"-H 'Authorization: Bearer {key}'" in out
    with closing(SqliteReader(path)) as reader:
        assert KeyRing(reader.reporters(), now_millis=0).by_key(key).name == "agent-1"
    assert main(["reporters", "list"]) == 0
    listed = capsys.readouterr().out
    assert "agent-1" in listed
    assert key not in listed


@pytest.mark.parametrize(
    ("settings", "url", "is_remarked"),
    [
        ({"COLLECTOR_HOST": "0.0.0.0"}, "http://127.0.0.1:8080", True),
        ({"COLLECTOR_HOST": "10.0.0.5", "COLLECTOR_PORT": "81"}, "http://10.0.0.5:81", False),
        ({"COLLECTOR_PUBLIC_URL": "https://traffic.test/"}, "https://traffic.test", False),
        ({"COLLECTOR_PUBLIC_URL": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080", True),
    ],
)
def test_a_new_reporter_is_told_an_address_that_a_sender_can_use(
    path, capsys, monkeypatch, settings, url, is_remarked
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(["reporters", "add", "agent-1"]) == 0
    out = capsys.readouterr().out
    assert f"curl -sS {url}/v1/reports" in out
    assert f"{url}/v1/sources/3x-ui/rk_" in out
    assert ("COLLECTOR_PUBLIC_URL" in out) == is_remarked


def test_scripts_read_what_is_shown_as_json(path, capsys):
    main(["reporters", "add", "heard"])
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(report(), reporter="reporter:heard")], received_at_millis=NOON_MILLIS)

    def printed(*command):
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    page = printed("reporters", "list")
    (heard,) = page["reporters"]
    assert (heard["name"], heard["last_report_at"]) == ("heard", "2024-10-04T12:00:00+00:00")
    assert page["refused"] == []
    checked = printed("check")
    assert (checked["reports_counted"], checked["user_bytes"], checked["problems"]) == (1, 3, [])
    assert printed("ratios", "list")[0]["ratio"] == 1.0
    assert printed("corrections") == []
    assert {each["reports_behind"] for each in printed("export", "status")} == {1}


def test_the_list_tells_who_is_revoked_who_is_configured_and_who_was_heard(
    path, capsys, monkeypatch
):
    main(["reporters", "add", "heard"])
    main(["reporters", "add", "gone"])
    assert main(["reporters", "revoke", "gone"]) == 0
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(report(), reporter="reporter:heard")], received_at_millis=NOON_MILLIS)
    monkeypatch.setenv("COLLECTOR_REPORTER_KEYS", "configured:a-key-of-twenty-chars")
    capsys.readouterr()
    assert main(["reporters", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (heard,) = (line for line in lines if "heard" in line)
    (gone,) = (line for line in lines if "gone" in line)
    (configured,) = (line for line in lines if "configured" in line)
    assert "2024-10-04 12:00" in heard
    assert "revoked" in gone
    assert "COLLECTOR_REPORTER_KEYS" in configured
    assert "a-key-of-twenty-chars" not in "".join(lines)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["reporters", "add", "bad name"], "name"),
        (["reporters", "add", "taken"], "reporters rotate taken"),
        (["reporters", "revoke", "nobody"], "no reporter"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(path, capsys, monkeypatch, command, words):
    main(["reporters", "add", "taken"])
    monkeypatch.setenv("COLLECTOR_REPORTER_KEYS", "configured:a-key-of-twenty-chars")
    capsys.readouterr()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["check"], ["reporters", "list"]])
def test_reading_commands_never_make_a_ledger(path, capsys, command):
    assert main(command) == 1
    assert "there is no ledger" in capsys.readouterr().err
    assert not path.exists()


def test_a_malformed_setting_is_named(path, capsys, monkeypatch):
    monkeypatch.setenv("COLLECTOR_PORT", "eighty")
    assert main(["check"]) == 1
    assert "COLLECTOR_PORT" in capsys.readouterr().err


def test_a_whole_ledger_checks_out_and_sums_that_disagree_do_not(path, capsys):
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(report(), report("bob"))], received_at_millis=NOON_MILLIS)
    assert main(["check"]) == 0
    assert "is whole" in capsys.readouterr().out
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE series SET upload_bytes = 0")
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "is NOT whole" in out
    assert "users sum to 6 bytes in 2 reports, series to 4 bytes" in out


def test_a_check_says_of_each_panel_whether_it_answers(path, capsys, monkeypatch):
    with closing(SqliteLedger(path)):
        pass
    assert main(["check"]) == 0
    assert re.search(r"panel +│ +MARZBAN_URL is not set", capsys.readouterr().out)
    monkeypatch.setenv("MARZBAN_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("COLLECTOR_SUBSCRIPTION_URLS", "two=http://127.0.0.1:1/my/own")
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    for name in ("panel", "panel two"):
        assert re.search(rf"{name} +│ +does not answer \(ConnectError\)", out)


def test_a_ledger_in_use_can_be_checked_but_not_served_again(path, capsys, monkeypatch):
    monkeypatch.setenv("COLLECTOR_PORT", "0")  # another program may listen on 8080
    with closing(SqliteLedger(path)):
        assert main(["check"]) == 0
        assert main(["serve"]) == 1
    assert "is in use by another collector" in capsys.readouterr().err
