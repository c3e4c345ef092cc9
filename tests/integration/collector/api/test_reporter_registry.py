"""One list of reporters, whatever made their keys; whoever is revoked there is refused."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from collector.reports.reporters import (
    Configured,
    format_configured,
    hash_key,
    merge_configured,
    parse_configured,
    revoke_configured,
)
from tests.support import programs
from tests.support.collector.collector_process import KEY, CollectorProcess, poll
from tests.support.collector.collectors import wire

ELSEWHERE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("COLLECTOR", "LEDGER"))
} | {"COLUMNS": "160"}
"""A shell that knows nothing of the collector's environment but where the ledger is."""


def reporters(ledger: Path, *arguments: str) -> str:
    done = programs.run(
        *("collector", "reporters", *arguments),
        env=ELSEWHERE | {"LEDGER_URL": f"sqlite:///{ledger}"},
        cwd=ledger.parent,
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def row_of(name: str, listed: str) -> str:
    (row,) = (line for line in listed.splitlines() if f" {name} " in line)
    return row


def status(url: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/reports", json=wire(), headers=headers).status_code


@pytest.fixture
def collector(tmp_path) -> Iterator[CollectorProcess]:
    collector = CollectorProcess(tmp_path)
    collector.start()
    yield collector
    collector.kill()


def test_a_key_of_the_environment_is_listed_and_revoked_from_any_shell(collector):
    url = f"http://127.0.0.1:{collector.port}"
    assert status(url, KEY) == 200
    listed = row_of("load", reporters(collector.ledger, "list"))
    assert "COLLECTOR_REPORTER_KEYS" in listed
    assert "valid" in listed
    said = reporters(collector.ledger, "revoke", "load")
    assert "Remove it there" in said
    poll("a key that is refused", lambda: status(url, KEY) == 401)
    assert "revoked" in row_of("load", reporters(collector.ledger, "list"))
    collector.terminate()
    collector.start()
    assert status(url, KEY) == 401
    assert "reporter_key_is_revoked name=load" in collector.log.read_text()
    assert KEY not in collector.log.read_text()


def test_who_is_not_there_cannot_be_revoked_and_that_is_said(collector):
    assert "there is no reporter 'nobody'" in reporters(collector.ledger, "revoke", "nobody")
    reporters(collector.ledger, "revoke", "load")
    assert "there is no reporter 'load'" in reporters(collector.ledger, "revoke", "load")


def test_a_name_with_two_keys_is_refused_by_both(collector):
    url = f"http://127.0.0.1:{collector.port}"
    (other,) = re.findall(r"^  (rk_\S+)$", reporters(collector.ledger, "add", "load"), re.MULTILINE)
    poll("both keys", lambda: {status(url, KEY), status(url, other)} == {200})
    reporters(collector.ledger, "revoke", "load")
    poll("neither key", lambda: {status(url, KEY), status(url, other)} == {401})


def key_in(said: str) -> str:
    (key,) = re.findall(r"^  (rk_\S+)$", said, re.MULTILINE)
    return key


def test_a_key_is_replaced_under_its_name_and_what_is_sent_again_counts_once(collector):
    url = f"http://127.0.0.1:{collector.port}/v1/reports"
    old = key_in(reporters(collector.ledger, "add", "de-1"))
    poll("the key", lambda: status(url.removesuffix("/v1/reports"), old) == 200)

    def send(key: str, report_id: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(url, json=wire(report_id=report_id), headers=headers)

    assert send(old, "in-flight").json()["accepted"] == 1
    said = reporters(collector.ledger, "rotate", "de-1")
    assert "stays valid until" in said
    new = key_in(said)
    poll("the new key", lambda: send(new, "in-flight").status_code == 200)
    assert send(new, "in-flight").json()["duplicates"] == 1
    assert send(old, "in-flight").json()["duplicates"] == 1
    assert "the old key until" in row_of("de-1", reporters(collector.ledger, "list"))
    last = key_in(reporters(collector.ledger, "rotate", "de-1", "--at-once"))
    poll("the last key", lambda: send(last, "in-flight").status_code == 200)
    assert {send(old, "x").status_code, send(new, "x").status_code} == {401}
    assert old not in collector.log.read_text()


def test_what_cannot_be_rotated_is_said(collector):
    assert "COLLECTOR_REPORTER_KEYS" in reporters(collector.ledger, "rotate", "load")
    assert "no reporter 'nobody'" in reporters(collector.ledger, "rotate", "nobody")
    assert "number of hours" in reporters(collector.ledger, "rotate", "x", "--grace-hours", "0")


class Up:
    """`marzban-bridge up`, against no panel."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.sqlite3"
        with (folder / "out").open("ab") as out, (folder / "log").open("ab") as log:
            self.process = programs.start(
                *("marzban_bridge", "up"),
                env=ELSEWHERE
                | {
                    "LEDGER_URL": f"sqlite:///{self.ledger}",
                    "BRIDGE_STORE": str(folder / "bridge.sqlite3"),
                    "COLLECTOR_PORT": "0",
                    "BRIDGE_PORT": "0",
                    "MARZBAN_URL": "http://127.0.0.1:1",
                    "MARZBAN_USERNAME": "root",
                    "MARZBAN_PASSWORD": "a-password",
                },
                stdout=out,
                stderr=log,
                cwd=folder,
            )
        self._log = folder / "log"
        self._seen = self._log.stat().st_size
        self.url = ""
        poll("up", self._is_up)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        found = re.search(r"up: collector (\S+),", self._log.read_text()[self._seen :])
        self.url = found[1] if found else ""
        return bool(found)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def test_the_key_that_up_made_is_listed_and_revoked_while_it_runs_and_for_good(tmp_path):
    up = Up(tmp_path)
    (key,) = re.findall(r"^  (rk_\S+)$", (tmp_path / "out").read_text(), re.MULTILINE)
    assert status(up.url, key) == 200
    assert "valid" in row_of("first", reporters(up.ledger, "list"))
    reporters(up.ledger, "revoke", "first")
    poll("a key that is refused", lambda: status(up.url, key) == 401)
    up.end()
    up = Up(tmp_path)
    assert status(up.url, key) == 401
    assert (tmp_path / "out").read_text().count("rk_") == 2  # the key, and how to use it
    up.end()


def test_the_key_that_an_older_up_kept_in_a_file_stays_good_and_can_be_revoked(tmp_path):
    former = tmp_path / "first-reporter.key"
    former.write_text("rk_the-key-of-an-older-version\n")
    up = Up(tmp_path)
    assert status(up.url, "rk_the-key-of-an-older-version") == 200
    assert not former.exists()
    reporters(up.ledger, "revoke", "first")
    reporters(up.ledger, "add", "first")
    up.end()
    former.write_text("rk_the-key-of-another-version\n")  # as from a backup
    up = Up(tmp_path)
    assert status(up.url, "rk_the-key-of-an-older-version") == 401
    assert status(up.url, "rk_the-key-of-another-version") == 200
    assert "first-of-up" in reporters(up.ledger, "list")
    up.end()


def test_what_was_revoked_stays_so_and_the_rest_is_as_it_is_configured():
    one = Configured("one", hash_key("a"), 1, None, counts_toward_quota=True)
    two = Configured("two", hash_key("b"), 1, None, counts_toward_quota=True)
    kept = revoke_configured([one, two], "one", now_millis=5)
    now = [one._replace(created_at_millis=9), two._replace(created_at_millis=9)]
    merged = merge_configured(parse_configured(format_configured(kept)), now)
    assert merged == kept
    assert merge_configured(kept, []) == [one._replace(revoked_at_millis=5)]
    again = Configured("one", hash_key("c"), 9, None, counts_toward_quota=False)
    assert merge_configured(kept, [again]) == [again, one._replace(revoked_at_millis=5)]
