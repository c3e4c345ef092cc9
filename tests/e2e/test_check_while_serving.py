"""A ledger is checked while its collector serves: damage ends it, a kill in between loses nothing."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from contextlib import closing

import pytest

from collector.errors import LedgerError
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.runtime.sqlite.background_check import note_of
from tests.support import programs
from tests.support.collector.collector_process import KEY, CollectorProcess, poll
from tests.support.collector.collectors import wire
from tests.support.collector.ledgers import damage

NEVER_CHECKED = """
import time
from collector.runtime.sqlite import background_check
background_check.damage_of = lambda db: time.sleep(600)
from collector.cli.main import main
raise SystemExit(main(["serve"]))
"""


@pytest.fixture
def collector(tmp_path):
    collector = CollectorProcess(tmp_path)
    yield collector
    collector.kill()


@pytest.mark.parametrize("program", ["collector serve", "marzban_bridge up"])
def test_a_damaged_ledger_ends_the_program_as_if_it_had_been_checked_first(
    program, collector, tmp_path
):
    SqliteLedger(collector.ledger).close()
    damage(collector.ledger)
    with pytest.raises(LedgerError) as at_the_start:
        SqliteLedger(collector.ledger)
    environment = os.environ | {
        "LEDGER_URL": f"sqlite:///{collector.ledger}",
        "COLLECTOR_PORT": "0",
        "BRIDGE_PORT": "0",
        "BRIDGE_STORE": str(tmp_path / "bridge.sqlite3"),
        "MARZBAN_URL": "http://127.0.0.1:1",
        "MARZBAN_USERNAME": "admin",
        "MARZBAN_PASSWORD": "none",
        "COLUMNS": "80",
    }
    for what in ("found while it serves", "noted by the start before"):
        ended = programs.run(*program.split(), env=environment, cwd=tmp_path)
        last = ended.stderr.strip().splitlines()[-1]
        assert (ended.returncode, last) == (1, f"error: {at_the_start.value}"), what
        assert "Traceback" not in ended.stderr
    assert note_of(collector.ledger).exists()


def test_a_kill_in_the_middle_of_the_check_loses_nothing_and_the_next_start_checks(collector):
    with collector.log.open("ab") as log:
        collector._process = subprocess.Popen(
            [sys.executable, "-c", NEVER_CHECKED], env=collector._environment, stderr=log
        )
    poll("a collector that is ready", collector.is_ready)
    with closing(http.client.HTTPConnection("127.0.0.1", collector.port, timeout=60)) as connection:
        for number in range(50):
            body = json.dumps([wire(report_id=f"{number}-{each}") for each in range(20)])
            connection.request("POST", "/v1/reports", body, {"Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
    assert "is whole" not in collector.log.read_text()
    collector.kill()
    collector.start()
    poll("all is in the sums", lambda: collector.totals() == {"alice": 30 * 1000})
    poll("it is checked", lambda: "is whole: read in" in collector.log.read_text())
    collector.terminate()
    with closing(SqliteReader(collector.ledger)) as reader:
        assert (reader.audit().reports, reader.audit().problems) == (1000, [])
