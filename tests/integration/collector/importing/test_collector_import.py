"""`traffic-collector import`: what an original database says is counted once, on its own days."""

from __future__ import annotations

import io
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.cli.main import main
from collector.ledger.sqlite.file import connect
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.billing import Ratio
from collector.reports.report import DAY_MILLIS
from tests.support.collector.ledgers import NOON_MILLIS, batch, beside, report

OLD = """
    CREATE TABLE traffic_usage (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_token TEXT NOT NULL, config_server TEXT NOT NULL, config_port INTEGER NOT NULL,
        protocol TEXT NOT NULL, bytes_uploaded INTEGER DEFAULT 0, bytes_downloaded INTEGER DEFAULT 0,
        date_collected DATE NOT NULL, timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
        UNIQUE (user_token, config_server, config_port, date_collected)
    )
"""
ROW = ("alice", "de-1", 443, "vless", 10, 100, "2026-01-05", "2026-01-05 10:00:00.5")
HEADER = "user_token,server,port,protocol,bytes_uploaded,bytes_downloaded,reported_at"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ledger.sqlite3"
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{path}")
    monkeypatch.setenv("COLUMNS", "200")
    return path


def write_table(file, *rows, create=OLD):
    with closing(sqlite3.connect(file)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table'").fetchone():
            db.execute(create)
        db.execute("DELETE FROM traffic_usage")
        db.executemany(
            "INSERT INTO traffic_usage (user_token, config_server, config_port, protocol, "
            "bytes_uploaded, bytes_downloaded, date_collected, timestamp) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        db.commit()


def row(*, user="alice", protocol="vless", up=10, down=100, day="2026-01-05"):
    return (user, "de-1", 443, protocol, up, down, day, f"{day} 10:00:00")


def do(*arguments, code=0):
    assert main(["import", *arguments]) == code


def days(path):
    with closing(SqliteReader(path)) as reader:
        audit = reader.audit()
        assert audit.problems == []
        assert audit.user_bytes == audit.day_bytes
        rows = reader.days_after(0, limit=1000)
    return {
        (each.username, each.day * DAY_MILLIS, each.protocol): (
            each.upload_bytes,
            each.download_bytes,
        )
        for each in rows
    }


def at(day):
    return {"2026-01-05": 1767571200000, "2026-01-06": 1767657600000}[day]


def test_rows_are_counted_on_their_own_days_however_old(path, capsys):
    write_table("o.db", row(), row(day="2026-01-06", up=1, down=2), row(user="bob"))
    do("o.db", "--all")
    assert days(path) == {
        ("alice", at("2026-01-05"), "vless"): (10, 100),
        ("alice", at("2026-01-06"), "vless"): (1, 2),
        ("bob", at("2026-01-05"), "vless"): (10, 100),
    }
    out = capsys.readouterr().out
    assert "The sums agree." in out
    assert "Days 2026-01-05 to 2026-01-06; counted for 2 users" in out


def test_the_same_file_again_counts_nothing(path, capsys):
    write_table("o.db", row(), row(user="bob"))
    do("o.db", "--all")
    before = days(path)
    capsys.readouterr()
    do("o.db", "--all")
    assert days(path) == before
    out = " ".join(capsys.readouterr().out.split())
    assert "counted by an import before │ │ 220" in out


def test_a_row_that_grew_counts_its_growth_alone_whatever_became_of_its_number_and_protocol(path):
    write_table("o.db", row(up=10, down=100))
    do("o.db", "--all")
    write_table("o.db", row(up=15, down=100, protocol="trojan"), row(user="bob"))
    do("o.db", "--all")
    found = days(path)
    assert found == {
        ("alice", at("2026-01-05"), "vless"): (10, 100),
        ("alice", at("2026-01-05"), "trojan"): (5, 0),
        ("bob", at("2026-01-05"), "vless"): (10, 100),
    }
    with closing(SqliteReader(path)) as reader:
        servers = reader.servers_of("alice", since_day=None)
    assert sum(each.connections for each in servers) == 1, "growth is no further connection"


def test_a_row_that_shrank_is_refused_and_said_so_and_the_others_are_counted(path, capsys):
    write_table("o.db", row(up=10, down=100))
    do("o.db", "--all")
    write_table("o.db", row(up=20, down=90), row(user="bob"))
    do("o.db", "--all")
    assert days(path)[("alice", at("2026-01-05"), "vless")] == (10, 100)
    assert days(path)[("bob", at("2026-01-05"), "vless")] == (10, 100)
    out = capsys.readouterr().out
    assert "was the table emptied in between?" in out
    assert "The sums agree." in out


def test_two_panels_with_the_same_users_are_told_apart_by_their_origin(path):
    write_table("o.db", row())
    do("o.db", "--all")
    do("o.db", "--all", "--origin", "second")
    assert days(path) == {("alice", at("2026-01-05"), "vless"): (20, 200)}


def test_rows_before_a_day_are_left_out_and_may_be_had_later(path, capsys):
    write_table("o.db", row(), row(day="2026-01-06", up=1, down=2))
    do("o.db", "--since", "2026-01-06")
    assert days(path) == {("alice", at("2026-01-06"), "vless"): (1, 2)}
    assert "before 2026-01-06" in capsys.readouterr().out
    do("o.db", "--all")
    assert len(days(path)) == 2


def test_a_dry_run_says_what_would_be_counted_and_changes_nothing(path, capsys):
    write_table("o.db", row())
    do("o.db", "--all", "--dry-run")
    assert not path.exists()
    assert "Nothing was changed." in capsys.readouterr().out
    do("o.db", "--all")
    write_table("o.db", row(up=13))
    before = days(path)
    capsys.readouterr()
    do("o.db", "--all", "--dry-run")
    assert days(path) == before
    assert "alice: 3 bytes would be counted" in capsys.readouterr().out


def test_what_was_counted_is_remembered_when_the_reports_themselves_are_purged(path):
    write_table("o.db", row())
    do("o.db", "--all")
    with closing(SqliteLedger(path)) as ledger:
        assert ledger.forget_reports(before_millis=2**60, limit=100, keeps_unexported=False) == 1
        ledger.forget_reports(before_millis=2**60, limit=100, keeps_unexported=False)
    do("o.db", "--all")
    assert days(path) == {("alice", at("2026-01-05"), "vless"): (10, 100)}


def test_an_import_that_was_cut_short_is_finished_by_the_next(path, monkeypatch):
    monkeypatch.setattr("collector.importing.run.STATEMENTS_PER_COMMIT", 2)
    write_table("o.db", *(row(user=f"user-{number}") for number in range(7)))
    whole, calls = SqliteLedger.record, []

    def dies(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(SqliteLedger, "record", dies)
    do("o.db", "--all", code=130)
    assert len(days(path)) == 4
    do("o.db", "--all")
    assert {each[0] for each in days(path)} == {f"user-{number}" for number in range(7)}
    assert set(days(path).values()) == {(10, 100)}


def test_what_is_counted_and_that_it_is_are_one_commit(path, monkeypatch):
    write_table("o.db", row())

    def fails(growth, before):
        def note(db, receipts):
            raise sqlite3.OperationalError("disk I/O error")

        return note

    with monkeypatch.context() as patched:
        patched.setattr("collector.importing.run.noting", fails)
        do("o.db", "--all", code=1)
    assert days(path) == {}
    do("o.db", "--all")
    assert days(path) == {("alice", at("2026-01-05"), "vless"): (10, 100)}


def test_while_a_collector_has_the_ledger_an_import_is_refused_and_a_dry_run_is_not(path, capsys):
    write_table("o.db", row())
    with closing(SqliteLedger(path)):
        do("o.db", "--all", code=1)
        assert f"pid {os.getpid()}" in (said := capsys.readouterr().err)
        assert "Stop the collector for the import" in said
        do("o.db", "--all", "--dry-run")
    do("o.db", "--all")


def test_it_adds_to_what_was_reported_and_the_feed_tells_of_it(path):
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(report(up=1, down=1))], received_at_millis=NOON_MILLIS)
    write_table("o.db", row())
    do("o.db", "--all")
    with closing(SqliteReader(path)) as reader:
        page = reader.changes(after=1, limit=10)
    ((change),) = page.changes
    assert (change.upload_bytes, change.download_bytes) == (11, 101)
    assert change.change_seq == page.head == 2


def test_a_ledger_of_before_imports_is_brought_forward_and_a_dry_run_reads_it_as_it_is(
    path, monkeypatch
):
    import collector.ledger.sqlite.file as file  # noqa: PLC0415

    with monkeypatch.context() as patched:
        patched.setattr(file, "LEDGER", replace(file.LEDGER, migrations=file.MIGRATIONS[:3]))
        connect(path).close()
    assert not beside(path).remembers_imports()
    write_table("o.db", row())
    do("o.db", "--all", "--dry-run")
    do("o.db", "--all")
    assert days(path) == {("alice", at("2026-01-05"), "vless"): (10, 100)}


def test_subscription_tokens_of_the_table_become_the_names_in_them(path):
    token = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"
    write_table("o.db", row(user=token), row(user="alice"))
    do("o.db", "--all")
    assert days(path) == {("alice", at("2026-01-05"), "vless"): (20, 200)}


def test_a_table_with_other_columns_more_of_them_and_rubbish_in_them_is_read_all_the_same(
    path, capsys
):
    with closing(sqlite3.connect("o.db")) as db:
        db.execute(
            "CREATE TABLE traffic_usage (username, server, port, bytes_uploaded, "
            "bytes_downloaded, created_at, note)"
        )
        db.executemany(
            "INSERT INTO traffic_usage VALUES (?, ?, ?, ?, ?, ?, 'x')",
            [
                ("alice", "de-1", "443", "10", 100.0, 1767571200),
                ("alice", "de-1", None, None, None, 1767571200),
                ("bob", "de-1", -1, 5, 6, 1767571200),
                ("bob", "de-1", 1, 5, 6, "once"),
                (None, "de-1", 1, 5, 6, 1767571200),
                (b"\xff\xfe", "de-1", 1, 5, 6, 1767571200),
            ],
        )
        db.execute(
            "INSERT INTO traffic_usage VALUES (CAST(x'ff61' AS TEXT), 'x', 1, 5, 6, 1767571200, '')"
        )
        db.commit()
    do("o.db", "--all")
    assert days(path) == {("alice", at("2026-01-05"), "unknown"): (10, 100)}
    out = capsys.readouterr().out
    assert "refused: port expected" in out
    assert "refused: day cannot be parsed" in out
    assert "The sums agree." in out


def test_the_original_is_opened_for_reading_alone(path):
    write_table("o.db", row())
    before = Path("o.db").read_bytes()
    Path("o.db").chmod(0o400)
    do("o.db", "--all")
    assert Path("o.db").read_bytes() == before
    assert not list(Path().glob("o.db-*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"SQLite format 3\0 and then rubbish", "cannot be read"),
        (b"\x7fELF\x00\x01\x02", "has no column user_token"),
        (b"user_token,server,bytes_uploaded,bytes_downloaded\n", "has no column date_collected"),
        (f"{HEADER}\n".encode(), "has no rows"),
    ],
)
def test_a_file_that_is_no_use_is_one_clear_line_and_no_ledger(path, capsys, content, message):
    if content is not None:
        Path("o.db").write_bytes(content)
    do("o.db", "--all", code=1)
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not path.exists()


def test_a_database_without_the_table_says_which_it_has(path, capsys):
    write_table("o.db", row())
    do("o.db", "--all", "--table", "x", code=1)
    assert "has no table x: it has traffic_usage" in capsys.readouterr().err


def billed(path):
    with closing(SqliteReader(path)) as reader:
        return {
            each.username: each.billed_bytes for each in reader.changes(after=0, limit=9).changes
        }


def test_history_limits_nobody_unless_that_is_asked_for(path, capsys):
    write_table("o.db", row(), row(user="bob"))
    do("o.db")
    assert len(days(path)) == 2
    assert billed(path) == {"alice": 0, "bob": 0}
    out = " ".join(capsys.readouterr().out.split())
    assert "of it toward quotas │ │ 0" in out
    assert "It is stored and shown, and billed to no quota" in out


@pytest.mark.parametrize("which", [["--all"], ["--since", "2026-01-05"]])
def test_what_counts_toward_quotas_is_billed_by_the_ratios_of_now(path, capsys, which):
    SqliteLedger(path).close()
    beside(path).set_ratio(Ratio("de-1", 2000, 0))
    write_table("o.db", row(), (*row(user="bob")[:1], "nl-1", *row()[2:]))
    do("o.db", *which, "--toward-quota", "--dry-run")
    assert billed(path) == {}
    foreseen = capsys.readouterr().out
    do("o.db", *which, "--toward-quota")
    assert billed(path) == {"alice": 220, "bob": 110}
    for out in (foreseen, capsys.readouterr().out):
        assert "of it toward quotas │ │ 330" in " ".join(out.split())
    beside(path).set_ratio(Ratio("de-1", 5000, 1))
    do("o.db", *which, "--toward-quota")
    assert billed(path) == {"alice": 220, "bob": 110}, "what was counted stays as it was billed"
    write_table("o.db", row(up=20))
    do("o.db", *which, "--toward-quota")
    assert billed(path) == {"alice": 220 + 50, "bob": 110}


def test_from_which_day_on_has_to_be_said_of_what_counts_toward_quotas(path, capsys):
    write_table("o.db", row())
    do("o.db", "--toward-quota", code=1)
    assert "say from which day on" in capsys.readouterr().err
    assert not path.exists()


class TestCsv:
    def test_rows_of_one_user_server_port_and_day_are_added_up(self, path):
        Path("t.csv").write_text(
            f"{HEADER}\nalice,de-1,443,vless,1,2,2026-01-05T01:00:00Z\n"
            "alice,de-1,443,vless,10,20,2026-01-05T02:00:00Z\n\n"
        )
        do("t.csv", "--all")
        assert days(path) == {("alice", at("2026-01-05"), "vless"): (11, 22)}
        with Path("t.csv").open("a") as grown:
            grown.write("alice,de-1,443,vless,100,200,2026-01-05T03:00:00Z\n")
        do("t.csv", "--all")
        assert days(path) == {("alice", at("2026-01-05"), "vless"): (111, 222)}

    def test_rows_with_ids_are_counted_once_in_whichever_file_they_come(self, path):
        for name in ("a.csv", "b.csv"):
            Path(name).write_text(
                f"report_id,{HEADER}\nid-1,alice,de-1,443,vless,1,2,2026-01-05\n"
                f"id-{name},alice,de-1,443,vless,10,20,2026-01-05\n"
            )
            do(name, "--all")
        assert days(path) == {("alice", at("2026-01-05"), "vless"): (21, 42)}

    def test_standard_input_semicolons_quotes_and_a_byte_order_mark_are_read(
        self, path, monkeypatch
    ):
        text = HEADER.replace(",", ";") + '\n"al;ice";de-1;443;vless;1;2;2026-01-05\n'
        given_ = io.TextIOWrapper(io.BytesIO("\N{BYTE ORDER MARK}".encode() + text.encode()))
        monkeypatch.setattr("sys.stdin", given_)
        do("-", "--all")
        assert days(path) == {("al;ice", at("2026-01-05"), "vless"): (1, 2)}

    def test_a_line_too_long_to_be_one_is_named(self, path, capsys):
        Path("t.csv").write_text(f'{HEADER}\n"{"x" * 200_000}",de-1,1,v,1,2,2026-01-05\n')
        do("t.csv", "--all", code=1)
        assert "t.csv, line" in capsys.readouterr().err


changes = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["alice", "bob"]),
            st.sampled_from(["vless", "trojan"]),
            st.integers(0, 50),
            st.integers(0, 50),
            st.sampled_from(["2026-01-05", "2026-01-06"]),
        ),
        st.just("import"),
    ),
    max_size=25,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=changes)
def test_whenever_a_table_is_imported_while_it_grows_its_sums_are_the_ledgers(
    path, tmp_path_factory, steps
):
    """The table is kept as the original keeps it: one row a day, the last protocol wins."""
    folder = tmp_path_factory.mktemp("grown")
    os.environ["LEDGER_URL"] = f"sqlite:///{folder / 'ledger.sqlite3'}"
    file, kept = folder / "o.db", {}
    for step in [*steps, "import"]:
        if step == "import":
            if kept:
                rows = ((user, "de-1", 443, *each, day, None) for (user, day), each in kept.items())
                write_table(file, *rows)
                do(str(file), "--all")
            continue
        user, protocol, up, down, day = step
        _, old_up, old_down = kept.get((user, day), ("", 0, 0))
        kept[user, day] = (protocol, old_up + up, old_down + down)
    if not kept:
        return
    found: dict[tuple[str, int], list[int]] = {}
    for (user, millis, _), (up, down) in days(folder / "ledger.sqlite3").items():
        sums = found.setdefault((user, millis), [0, 0])
        sums[0] += up
        sums[1] += down
    assert found == {
        (user, at(day)): [up, down] for (user, day), (_, up, down) in kept.items() if up or down
    }
