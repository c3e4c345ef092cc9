"""`traffic-collector import` counts the same on both engines, each row once, at once or in turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import collector.importing.run as importing
from collector.cli.main import main
from collector.errors import LedgerError
from collector.ledger.backend import LedgerBackend
from collector.ledger.engines import backend_of
from collector.ledger.import_amounts import Amounts, Grown
from collector.reports.billing import Ratio
from collector.reports.report import DAY_MILLIS, MAX_AMOUNT_BYTES
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.engines.postgres_server import PostgresServer

HEADER = "user_token,server,port,protocol,bytes_uploaded,bytes_downloaded,date_collected"


@dataclass
class Home:
    """A ledger that a command is given."""

    backend: LedgerBackend
    folder: Path
    kind: str

    def write(self, *rows: str) -> str:
        file = self.folder / "old.csv"
        file.write_text("\n".join([HEADER, *rows]) + "\n")
        return str(file)

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return raw and billed bytes by user, all added up, from a ledger that is whole."""
        with closing(self.backend.open()) as ledger:
            ledger.fold()
        with closing(self.backend.reader()) as reader:
            assert reader.audit().problems == []
            page = reader.changes(after=0, limit=1000)
        return {
            each.username: (each.upload_bytes + each.download_bytes, each.billed_bytes)
            for each in page.changes
        }


@pytest.fixture(params=["sqlite", "postgres"])
def home(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    return Home(backend_of(url), tmp_path, request.param)


def do(*arguments: str, code: int = 0) -> None:
    assert main(["import", *arguments]) == code


def test_a_file_is_counted_once_on_its_own_days_and_bills_nothing(home, capsys):
    file = home.write("alice,de-1,443,vless,10,100,2026-01-05", "bob,de-1,443,vless,1,2,2026-01-06")
    do(file, "--all", "--dry-run")
    assert "Nothing was changed" in capsys.readouterr().out
    assert not home.backend.remembers_imports()
    do(file, "--all")
    assert "The sums agree." in capsys.readouterr().out
    assert home.totals() == {"alice": (110, 0), "bob": (3, 0)}
    with closing(home.backend.reader()) as reader:
        days = {each.username: each.day * DAY_MILLIS for each in reader.days_after(0, limit=9)}
    assert days == {"alice": 1767571200000, "bob": 1767657600000}
    do(file, "--all")
    do(file, "--all", "--dry-run")
    assert home.totals() == {"alice": (110, 0), "bob": (3, 0)}


def test_a_row_that_grew_counts_its_growth_alone(home):
    do(home.write("alice,de-1,443,vless,10,100,2026-01-05"), "--all")
    do(home.write("alice,de-1,443,vmess,15,100,2026-01-05"), "--all")
    assert home.totals() == {"alice": (115, 0)}
    do(home.write("alice,de-1,443,vmess,9,100,2026-01-05"), "--all")
    assert home.totals() == {"alice": (115, 0)}
    do(home.write("alice,de-1,443,vmess,15,101,2026-01-05"), "--all", "--origin", "second")
    assert home.totals() == {"alice": (231, 0)}


def test_what_counts_toward_quotas_is_billed_by_the_ratios_of_now(home, capsys):
    home.backend.prepare()
    home.backend.set_ratio(Ratio("de-1", 2000, 0))
    do(home.write("alice,de-1,443,vless,10,100,2026-01-05"), "--all", "--toward-quota")
    assert "The sums agree." in capsys.readouterr().out
    assert home.totals() == {"alice": (110, 220)}


def test_an_import_that_was_cut_short_is_finished_by_the_next(home, monkeypatch):
    monkeypatch.setattr(importing, "STATEMENTS_PER_COMMIT", 2)
    file = home.write(*(f"user-{n},de-1,443,vless,10,100,2026-01-05" for n in range(7)))
    whole, calls = importing.noting, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(importing, "noting", dies)
    do(file, "--all", code=130)
    assert len(home.totals()) == 4
    do(file, "--all")
    assert home.totals() == {f"user-{n}": (110, 0) for n in range(7)}


def test_reports_and_that_they_are_counted_are_one_commit(home, monkeypatch):
    file = home.write("alice,de-1,443,vless,10,100,2026-01-05")

    def fails(*arguments):
        whole = noting(*arguments)

        def note(db, receipts):
            whole(db, receipts)
            raise LedgerError("cut off")

        return note

    noting = importing.noting
    with monkeypatch.context() as patched:
        patched.setattr(importing, "noting", fails)
        do(file, "--all", code=1)
    assert home.totals() == {}
    do(file, "--all")
    assert home.totals() == {"alice": (110, 0)}


def test_a_user_whose_total_is_full_has_nothing_of_the_commit_stored(home, capsys):
    most = MAX_AMOUNT_BYTES - 50
    with closing(home.backend.open()) as ledger:
        ledger.record([batch(report(up=most, down=0))], received_at_millis=NOON_MILLIS)
    do(
        home.write("alice,de-1,443,vless,10,100,2026-01-05", "bob,x,1,y,1,1,2026-01-05"),
        "--all",
        code=1,
    )
    assert "exceed what the ledger can count" in capsys.readouterr().err
    assert home.totals() == {"alice": (most, most)}
    with closing(home.backend.reader()) as reader:
        assert reader.imported_since("original", after_seq=0) == Grown(0, 0)


def test_a_database_is_imported_into_beside_its_collectors(home, capsys):
    file = home.write("alice,de-1,443,vless,10,100,2026-01-05")
    with closing(home.backend.open()) as ledger:
        ledger.record([batch(report(up=1, down=1))], received_at_millis=NOON_MILLIS)
        if home.kind == "sqlite":
            do(file, "--all", code=1)
            assert "Stop the collector for the import" in capsys.readouterr().err
            return
        do(file, "--all")
        assert "The sums agree." in capsys.readouterr().out
        ledger.record([batch(report(up=1, down=1))], received_at_millis=NOON_MILLIS)
    assert home.totals() == {"alice": (114, 4)}


@pytest.mark.parametrize("home", ["postgres"], indirect=True)
def test_of_two_imports_at_once_each_row_is_counted_by_one(home, monkeypatch, capsys):
    file = home.write("alice,de-1,443,vless,10,100,2026-01-05", "bob,de-1,443,vless,1,2,2026-01-05")
    noting = importing.noting

    def meanwhile(*arguments):
        monkeypatch.setattr(importing, "noting", noting)
        do(file, "--all")
        return noting(*arguments)

    monkeypatch.setattr(importing, "noting", meanwhile)
    do(file, "--all", code=1)
    assert "another import has counted some of the same rows" in capsys.readouterr().err
    assert home.totals() == {"alice": (110, 0), "bob": (3, 0)}
    do(file, "--all")
    assert home.totals() == {"alice": (110, 0), "bob": (3, 0)}


@pytest.mark.parametrize("home", ["postgres"], indirect=True)
def test_imports_that_commit_at_the_same_moment_wait_for_each_other(home):
    """Each works its growth out of nothing counted yet; all but one find that out."""
    home.backend.prepare()
    key, sums = b"k" * 16, {"vless": Amounts(10, 100)}
    gate, refused = threading.Barrier(4), []

    def count() -> None:
        with closing(home.backend.open()) as ledger:
            gate.wait(120)
            try:
                ledger.record(
                    [batch(report(up=10, down=100), reporter="import:original")],
                    received_at_millis=NOON_MILLIS,
                    alongside=importing.noting({key: sums}, {}),
                )
            except LedgerError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(40)
    assert len(refused) == 3
    assert home.totals() == {"alice": (110, 110)}
    with closing(home.backend.reader()) as reader:
        assert reader.imported([key]) == {key: sums}
