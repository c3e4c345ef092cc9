"""What may be wrong with a ledger's file, and that a ledger is never begun anew silently."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from collector.errors import DiskFullError, LedgerError, NotStoredError, SettingsError
from collector.ledger import ExportState
from collector.ledger.corrections import Kind, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.sqlite import file as sqlite_file
from collector.ledger.sqlite import key_index
from collector.ledger.sqlite.file import APPLICATION_ID, LEDGER, MIGRATIONS, connect
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.ledger.url import ledger_path
from collector.reports.billing import Ratio
from collector.reports.reporters import KeyRing
from tests.support.collector.ledgers import DAY, NOON_MILLIS, batch, beside, report

VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE series (
    id INTEGER PRIMARY KEY, username TEXT NOT NULL, server TEXT NOT NULL, port INTEGER NOT NULL,
    protocol TEXT NOT NULL, upload_bytes INTEGER NOT NULL DEFAULT 0,
    download_bytes INTEGER NOT NULL DEFAULT 0, connections INTEGER NOT NULL DEFAULT 0,
    reports INTEGER NOT NULL DEFAULT 0, last_used_at INTEGER NOT NULL DEFAULT 0,
    UNIQUE (username, server, port, protocol)
) STRICT;
CREATE TABLE report (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, report_key BLOB UNIQUE,
    series_id INTEGER NOT NULL REFERENCES series (id), upload_bytes INTEGER NOT NULL,
    download_bytes INTEGER NOT NULL, connections INTEGER NOT NULL, reported_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL, reporter TEXT NOT NULL
) STRICT;
CREATE TABLE usage_day (
    day INTEGER NOT NULL, series_id INTEGER NOT NULL REFERENCES series (id),
    upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL, connections INTEGER NOT NULL,
    reports INTEGER NOT NULL, last_used_at INTEGER NOT NULL, change_seq INTEGER NOT NULL,
    PRIMARY KEY (day, series_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE user_total (
    username TEXT PRIMARY KEY, upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL,
    reports INTEGER NOT NULL, last_used_at INTEGER NOT NULL, change_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX user_total_change ON user_total (change_seq);
CREATE TABLE reporter (
    name TEXT PRIMARY KEY, key_hash BLOB NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('ledger_id', '0123456789abcdef0123456789abcdef');
INSERT INTO series VALUES (1, 'alice', 'de-1', 443, 'vless', 10, 20, 1, 1, 1728000000000);
INSERT INTO report VALUES (41, NULL, 1, 10, 20, 1, 1728000000000, 1728000000000, 'reporter:r');
INSERT INTO usage_day VALUES (20000, 1, 10, 20, 1, 1, 1728000000000, 41);
INSERT INTO user_total VALUES ('alice', 10, 20, 1, 1728000000000, 41);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite3"


def store(ledger: SqliteLedger, *reports) -> None:
    ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)


def filled(path: Path) -> None:
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *(report(f"user{number}", key=str(number)) for number in range(500)))


def test_a_ledger_file_of_the_first_version_opens_with_all_it_holds(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        db.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
    with closing(SqliteLedger(path)) as ledger, closing(SqliteReader(path)) as reader:
        store(ledger, report())
        page, audit = reader.changes(after=0, limit=10), reader.audit()
        state = reader.export_state("raw")
        reports, days = reader.reports_after(0, limit=10), reader.days_after(0, limit=10)
    assert page.ledger_id == "0123456789abcdef0123456789abcdef"
    (change,) = page.changes
    assert (change.upload_bytes, change.download_bytes, change.change_seq) == (11, 22, 42)
    assert audit.problems == []
    assert state == ExportState("raw"), "an export begins at the beginning"
    assert reports[-1].seq == 42
    assert days[-1].change_seq == 42
    assert [each.after_seq for each in page.runs] == [41], "who stored the first is not known"


@pytest.mark.parametrize(
    "first_that_is_new",
    ["report_key_recent", "TABLE imported", "ADD COLUMN billed_bytes"],
)
def test_before_ratios_everything_counted_as_it_was_reported(path, first_that_is_new):
    """A file of a version before, in the middle of its work: some reports in no sum yet."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        before = next(n for n, script in enumerate(MIGRATIONS) if first_that_is_new in script)
        for script in MIGRATIONS[:before]:
            db.executescript(script)
        db.executescript(
            f"""
            PRAGMA application_id = {APPLICATION_ID};
            PRAGMA user_version = {before};
            INSERT INTO meta VALUES ('ledger_id', '0123456789abcdef0123456789abcdef');
            INSERT INTO series VALUES (1, 'alice', 'de-1', 443, 'vless', 10, 20, 1, 1, 1728000000000);
            INSERT INTO report VALUES
                (41, NULL, 1, 10, 20, 1, 1728000000000, 1728000000000, 'reporter:r'),
                (42, NULL, 1, 1, 2, 1, 1728000000000, 1728000000000, 'reporter:r');
            INSERT INTO usage_day VALUES (20000, 1, 10, 20, 1, 1, 1728000000000, 41);
            INSERT INTO user_total VALUES ('alice', 10, 20, 1, 1728000000000, 41);
            INSERT INTO reporter VALUES ('r', x'00', 1, NULL);
            INSERT INTO export VALUES ('raw', 41, 1, 1, NULL), ('daily', 41, 1, 1, NULL);
            UPDATE meta SET value = '41' WHERE key = 'folded_seq';
            """
        )
    with closing(SqliteLedger(path)) as ledger, closing(SqliteReader(path)) as reader:
        store(ledger, report(up=0, down=1, billed=5))
        (change,) = reader.changes(after=0, limit=10).changes
        assert (change.upload_bytes, change.download_bytes, change.billed_bytes) == (11, 23, 38)
        assert [each.billed_bytes for each in reader.reports_after(0, limit=9)] == [30, 3, 5]
        assert reader.last_reports() == {"reporter:r": NOON_MILLIS}
        assert reader.sender_bytes("reporter:r", hour=20_000 * 24 + 12) == (1, 34)
        assert [each.billed_bytes for each in reader.servers_of(None, since_day=None)] == [38]
        (day,) = reader.days_after(0, limit=9)
        assert (day.billed_bytes, day.connections, day.reports) == (38, 3, 3)
        assert reader.audit().problems == []
        assert reader.audit().day_bytes == 34
        assert [each.counts_toward_quota for each in reader.reporters()] == [True]
        assert reader.export_state("raw").seq == 41
        assert reader.export_state("daily").seq == 0, (
            "days are written again, with what they billed"
        )


def make_before(path, first_that_is_new):
    """Make a ledger file of the last version before a migration with this text."""
    before = next(n for n, script in enumerate(MIGRATIONS) if first_that_is_new in script)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite_file, "LEDGER", replace(LEDGER, migrations=MIGRATIONS[:before]))
        connect(path).close()


def test_a_file_from_before_senders_were_noted_knows_who_reported_last(path):
    make_before(path, "TABLE heard ")
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(
            """
            INSERT INTO series VALUES (1, 'alice', 'de-1', 443, 'vless', 10, 20, 1, 1, 5, 45);
            INSERT INTO report VALUES
                (41, NULL, 1, 4, 6, 1, 1728000000000, 1728000000005, 'reporter:a', NULL),
                (42, NULL, 1, 1, 2, 1, 1728000000000, 1728000000007, 'reporter:a', NULL),
                (43, NULL, 1, 1, 2, 1, 1728000000000, 1728000000009, 'user:alice', NULL),
                (44, NULL, 1, 0, 0, 0, 1728000000000, 1728000000010, 'correction:1', NULL),
                (45, NULL, 1, 1, 2, 1, 1728000000000, 1728000000011, 'reporter:b', NULL);
            UPDATE meta SET value = '44' WHERE key = 'folded_seq';
            """
        )
    last = {
        "reporter:a": 1728000000007,
        "user:alice": 1728000000009,
        "reporter:b": 1728000000011,
    }
    with closing(connect(path)), closing(SqliteReader(path)) as reader:
        assert reader.last_reports() == last, "before the last is added up"
    with closing(SqliteLedger(path)), closing(SqliteReader(path)) as reader:
        assert reader.last_reports() == last


def test_a_file_from_before_corrections_opens_with_all_it_holds_and_can_be_corrected(path):
    make_before(path, "TABLE correction ")
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(
            """
            INSERT INTO series VALUES (1, 'alice', 'de-1', 443, 'vless', 10, 20, 1, 1, 5, 45);
            INSERT INTO report VALUES
                (41, NULL, 1, 10, 20, 1, 1728000000000, 1728000000000, 'reporter:r', 45);
            INSERT INTO usage_day VALUES (20000, 1, 10, 20, 1, 1, 1728000000000, 41, 45);
            INSERT INTO user_total VALUES ('alice', 10, 20, 1, 1728000000000, 41, 45);
            UPDATE meta SET value = '41' WHERE key = 'folded_seq';
            """
        )
    wanted = Wanted(
        kind=Kind.VOID,
        reason="",
        actor="a",
        scope="reporter:r",
        since_millis=0,
        until_millis=2**60,
    )
    backend_of(f"sqlite:///{path}").ask_correction(wanted, asked_at_millis=1)
    with closing(SqliteLedger(path)) as ledger, closing(SqliteReader(path)) as reader:
        assert not ledger.correct(now_millis=2)
        (change,) = reader.changes(after=0, limit=10).changes
        assert (change.billed_bytes, change.corrected_billed_bytes) == (45, -45)
        assert (change.change_seq, change.corrected_seq) == (42, 42)
        assert reader.facts().billed_bytes == 0
        assert reader.audit().problems == []


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path):
    filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"newer version.*upgrade"):
        SqliteLedger(path)
    assert path.read_bytes() == before


def overwrite_middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xa5" * (size // 2))


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // 4096 * 4096)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"not a database " * 500), "restore a backup"),
        (lambda path: path.write_bytes(b""), "empty file.*restore a backup"),
        (overwrite_middle, "restore a backup"),
        (cut_in_half, "restore a backup"),
    ],
    ids=["garbage", "emptied", "overwritten", "cut"],
)
def test_a_damaged_ledger_is_an_error_that_names_the_way_out_and_is_left_alone(path, damage, words):
    filled(path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=words) as raised:
        SqliteLedger(path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "words", "not_words"),
    [
        (sqlite3.SQLITE_IOERR_READ, "full or failing.*start again", "restore"),
        (sqlite3.SQLITE_FULL, "full or failing.*make room", "restore"),
        (sqlite3.SQLITE_CORRUPT, "damaged.*restore a backup", "make room"),
    ],
)
def test_a_failing_disk_is_not_taken_for_a_damaged_ledger(
    path, monkeypatch, code, words, not_words
):
    """A ledger behind a broken disk is whole: restoring a backup would lose what came since."""
    filled(path)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code

    class FailingCheck(sqlite3.Connection):
        def execute(self, statement, *arguments):
            if "quick_check" in statement:
                raise error
            return super().execute(statement, *arguments)

    monkeypatch.setattr(
        "collector.runtime.sqlite.file.open_in_place",
        lambda path: sqlite3.connect(path, isolation_level=None, factory=FailingCheck),
    )
    with pytest.raises(LedgerError, match=words) as raised:
        SqliteLedger(path)
    assert not_words not in str(raised.value)
    monkeypatch.undo()
    SqliteLedger(path).close()


def test_somebody_elses_database_is_refused_and_left_alone(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    for open_it in (
        SqliteLedger,
        connect,
        lambda path: beside(path).add_reporter("r", now_millis=0),
    ):
        with pytest.raises(LedgerError, match="not a ledger"):
            open_it(path)
    assert path.read_bytes() == before


def test_a_journal_without_its_ledger_is_not_begun_anew_over(path):
    path.parent.mkdir()
    journal = path.with_name(path.name + "-wal")
    journal.write_bytes(b"what was not yet moved into the ledger")
    with pytest.raises(LedgerError, match="restore both"):
        SqliteLedger(path)
    assert not path.exists()


def test_a_reader_never_makes_a_ledger(path):
    with pytest.raises(LedgerError, match="there is no ledger"):
        SqliteReader(path).facts()
    assert not path.parent.exists()


def test_a_ledger_that_is_removed_while_a_reader_opens_it_is_not_made_anew(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite3"
    SqliteLedger(path).close()
    opens = sqlite3.connect

    def is_removed_before(*arguments, **options):
        path.unlink()
        return opens(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", is_removed_before)
        with pytest.raises(LedgerError, match="cannot open the ledger"):
            connect(path, read_only=True)
    assert not path.exists()


def test_a_new_ledger_leaves_no_drafts_behind(path):
    filled(path)
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, path.name + ".lock"]


def test_a_second_process_is_refused_and_told_who_has_the_ledger(path):
    script = "import sys, pathlib, collector.ledger.sqlite.writer as s; s.SqliteLedger(pathlib.Path(sys.argv[1]))"
    with closing(SqliteLedger(path)) as ledger:
        second = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
        store(ledger, report())
    assert second.returncode != 0
    assert "is in use by another collector (pid " in second.stderr
    with closing(SqliteLedger(path)):
        pass


def test_two_writers_in_one_process_are_refused_as_well(path):
    with closing(SqliteLedger(path)), pytest.raises(LedgerError, match="in use"):
        SqliteLedger(path)


def test_a_full_disk_stores_nothing_of_the_group_and_what_fits_later_is_stored(path):
    """The page limit of the file stands in for the disk's: the same error by the same way."""
    with closing(SqliteLedger(path)) as ledger, closing(SqliteReader(path)) as reader:
        store(ledger, report("early", key="e"))
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        many = [report(f"user{number}", server="s" * 200, key=str(number)) for number in range(500)]
        with pytest.raises(DiskFullError):
            store(ledger, *many)
        assert [each.username for each in reader.changes(after=0, limit=9).changes] == ["early"]
        ledger._db.execute("PRAGMA max_page_count = 1000000")
        store(ledger, *many)
        store(ledger, *many)
        audit = reader.audit()
        assert (audit.reports, audit.problems) == (501, [])


def test_what_cannot_be_stored_leaves_the_ledger_usable(path):
    with closing(SqliteLedger(path)) as ledger, closing(SqliteReader(path)) as reader:
        with pytest.raises(NotStoredError):
            store(ledger, report(), report("broken \ud800"))
        store(ledger, report(server="nl-1"))
        assert reader.audit().reports == 1
        assert [each.server for each in reader.servers_of(None, since_day=None)] == ["nl-1"]


def test_durability_is_set_to_what_an_acknowledgement_promises(path):
    with closing(SqliteLedger(path)) as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_dropping_the_ids_of_a_window_writes_far_less_than_they_take(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 1)
    ids = [f"{number * 7919 % 20_000:016}" for number in range(20_000)]
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        ledger.record([batch(*(report(key=each) for each in ids))], received_at_millis=NOON_MILLIS)
        forget = {"limit": 1, "keeps_unexported": False}
        ledger.forget_reports(before_millis=1, **forget)  # the other table becomes the current one
        beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.forget_reports(before_millis=NOON_MILLIS + 1, **forget)
        written_bytes = path.with_name(path.name + "-wal").stat().st_size
        (left,) = beside.execute("SELECT count(*) FROM report_key_0").fetchone()
    assert left == 0
    assert written_bytes < 100_000, "20,000 ids take about 600,000"


def test_a_users_statistics_do_not_read_everybodys_rows(path):
    stored = [
        report(f"u{number}", at=NOON_MILLIS - days_ago * 86_400_000)
        for number in range(2_000)
        for days_ago in range(7)
    ]
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(*stored)], received_at_millis=NOON_MILLIS)
    with closing(SqliteReader(path)) as reader:
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        with reader._connections.use() as db:
            db.set_progress_handler(count, 10)
            for since_day in (None, DAY - 6):
                assert len(reader.servers_of("u7", since_day=since_day)) == 1
            assert steps[0] * 10 < 2_000
            db.set_progress_handler(None, 0)


def test_who_reported_last_is_known_without_reading_the_reports(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *(report(f"u{number % 50}") for number in range(5_000)))
    with closing(SqliteReader(path)) as reader:
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        with reader._connections.use() as db:
            db.set_progress_handler(count, 10)
            assert reader.last_reports() == {"reporter:r": NOON_MILLIS}
            assert steps[0] * 10 < 500
            db.set_progress_handler(None, 0)


def test_a_reader_cannot_write(path):
    filled(path)
    with (
        closing(connect(path, read_only=True)) as db,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        db.execute("DELETE FROM user_total")


def test_the_audit_finds_sums_that_disagree(path):
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE user_total SET upload_bytes = upload_bytes + 1 WHERE username = 'user7'")
    with closing(SqliteReader(path)) as reader:
        (problem,) = reader.audit().problems
    assert "users sum to 1501 bytes in 500 reports, series to 1500 bytes" in problem


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE series SET billed_bytes = billed_bytes - 1 WHERE username = 'user7'",
            "users sum to 1500 billed bytes, series to 1499 billed bytes",
        ),
        (
            "UPDATE usage_day SET billed_bytes = billed_bytes + 1 WHERE series_id = 7",
            "days sum to 1501 billed bytes, more than the users' 1500",
        ),
    ],
)
def test_the_audit_finds_billed_sums_that_disagree(path, statement, words):
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    with closing(SqliteReader(path)) as reader:
        assert reader.audit().problems == [words]


def test_reporters_come_and_go_beside_a_running_writer_and_only_hashes_are_kept(path):
    with closing(SqliteLedger(path)), closing(SqliteReader(path)) as reader:
        key = beside(path).add_reporter("agent-1", now_millis=1)
        assert KeyRing(reader.reporters(), now_millis=0).by_key(key) is not None
        with pytest.raises(LedgerError, match="already"):
            beside(path).add_reporter("agent-1", now_millis=2)
        beside(path).revoke_reporter("agent-1", now_millis=3)
        assert KeyRing(reader.reporters(), now_millis=0).by_key(key) is None
        with pytest.raises(LedgerError, match="no reporter"):
            beside(path).revoke_reporter("agent-1", now_millis=4)
        renewed = beside(path).add_reporter("agent-1", now_millis=5)
        assert renewed != key
        (reporter,) = reader.reporters()
        assert (reporter.name, reporter.created_at_millis) == ("agent-1", 5)
    everything = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert key.encode() not in everything
    assert renewed.encode() not in everything


def test_whether_a_reporter_counts_outlives_its_key_and_can_be_changed(path):
    with closing(SqliteLedger(path)), closing(SqliteReader(path)) as reader:

        def counts() -> dict[str, bool]:
            return {each.name: each.counts_toward_quota for each in reader.reporters()}

        beside(path).add_reporter("counts", now_millis=1)
        beside(path).add_reporter("outside", now_millis=1, counts_toward_quota=False)
        assert counts() == {"counts": True, "outside": False}
        for name in counts():
            beside(path).revoke_reporter(name, now_millis=2)
            beside(path).add_reporter(name, now_millis=3)
        assert counts() == {"counts": True, "outside": False}
        beside(path).change_reporter("counts", counts_toward_quota=False)
        beside(path).change_reporter("outside", counts_toward_quota=True)
        assert counts() == {"counts": False, "outside": True}
        beside(path).revoke_reporter("outside", now_millis=4)
        for name in ("outside", "nobody"):
            with pytest.raises(LedgerError, match="no reporter"):
                beside(path).change_reporter(name, counts_toward_quota=False)
        beside(path).add_reporter("outside", now_millis=5, counts_toward_quota=False)
        assert counts() == {"counts": False, "outside": False}


def test_ratios_come_and_go_beside_a_running_writer(path):
    with closing(SqliteLedger(path)), closing(SqliteReader(path)) as reader:
        assert beside(path).set_ratio(Ratio("de-1", 2000, 1)) is None
        assert beside(path).set_ratio(Ratio("de-1", 0, 2)) == 2000
        beside(path).set_ratio(Ratio("Ü 🚀", 1500, 3))
        assert reader.ratios() == [Ratio("de-1", 0, 2), Ratio("Ü 🚀", 1500, 3)]
        beside(path).clear_ratio("de-1")
        with pytest.raises(LedgerError, match="has no ratio"):
            beside(path).clear_ratio("de-1")
        assert reader.ratios() == [Ratio("Ü 🚀", 1500, 3)]


@pytest.mark.parametrize("name", ["", "s" * 256, "a\n", "a\\", "\ud800"])
def test_a_ratio_is_of_a_server_that_reports_can_name(path, name):
    SqliteLedger(path).close()
    with pytest.raises(LedgerError, match="no report names the server"):
        beside(path).set_ratio(Ratio(name, 2000, 1))


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "ü", "a/b", "a\n"])
def test_a_reporters_name_is_plain(path, name):
    with pytest.raises(LedgerError, match="name"):
        beside(path).add_reporter(name, now_millis=0)


@pytest.mark.parametrize(
    "url", ["postgres://h/db", "ledger.sqlite3", "sqlite://host/x", "sqlite:///", "", "mysql:///x"]
)
def test_a_ledger_url_of_another_kind_is_refused(url):
    with pytest.raises(SettingsError, match="LEDGER_URL"):
        ledger_path(url)


def test_a_ledger_url_is_a_relative_or_an_absolute_path():
    assert ledger_path("sqlite:///./data/x.sqlite3") == Path("./data/x.sqlite3")
    assert ledger_path("sqlite:////var/lib/x.sqlite3") == Path("/var/lib/x.sqlite3")
