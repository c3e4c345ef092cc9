"""Moving an embedded ledger to PostgreSQL: to the byte, in pieces, and never half."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from collector.cli import main as cli
from collector.errors import LedgerError, LedgerInUseError, LedgerUnavailableError
from collector.ledger import DeadLetter, Progress
from collector.ledger.corrections import Kind, Stretch, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.import_amounts import Amounts
from collector.ledger.migration.run import Migration
from collector.ledger.readers import ReaderPosition
from collector.ledger.sql.imports import noting
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.billing import Ratio
from collector.reports.report import DAY_MILLIS
from marzban_bridge.feed.ledger_runs import WriterRun, learn, went_back
from tests.support.collector.collectors import CollectorWorld, running, wire
from tests.support.collector.ledgers import (
    DAY,
    NOON_MILLIS,
    PostgresPlace,
    SqlitePlace,
    batch,
    report,
)
from tests.support.engines.postgres_server import PASSWORD
from tests.support.tcp_proxy import TcpProxy

NAMES = [
    "alice",
    "Alice",
    "bob",
    "юзер",
    "用户",
    "🦊🏳️‍🌈",
    "a b",
    "o'brien",
    "z\\y",
    "é",
    "e\u0301",
    "|,\t.",
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def url(postgres):
    return postgres.url(postgres.new_database())


@pytest.fixture
def full(path):
    """A ledger with something of everything: purged from the front, two runs, a crash's remains."""
    file = backend_of(f"sqlite:///{path}")
    with closing(SqliteLedger(path)) as ledger:
        for turn in range(60):
            ledger.record(
                [
                    batch(
                        *(
                            report(
                                name,
                                up=turn,
                                down=number,
                                server=NAMES[turn % 3],
                                at=NOON_MILLIS - turn % 4 * DAY_MILLIS,
                                key=f"{turn}-{name}",
                                billed=None if turn % 3 else turn * 2,
                            )
                            for number, name in enumerate(NAMES)
                        ),
                        report("without an id"),
                        reporter=f"reporter:r{turn % 2}",
                    )
                ],
                received_at_millis=NOON_MILLIS + turn,
            )
        old = {"before_millis": NOON_MILLIS + 10, "limit": 37, "keeps_unexported": False}
        assert ledger.forget_reports(**old) == 37
        assert ledger.forget_days(before_day=DAY - 2, limit=5) == 5
        letters = [DeadLetter("raw", "a line", "why", 0)]
        ledger.note_progress(Progress("raw", 0, 700, 700, letters), at_millis=5)
        ledger.record(
            [batch(report("imported"), reporter="import:o")],
            received_at_millis=7,
            alongside=noting({b"x" * 16: {"vless": Amounts(1, 2)}}, {}),
        )
    file.add_reporter("node", now_millis=3, counts_toward_quota=False)
    file.rotate_reporter("node", now_millis=NOON_MILLIS, grace_millis=10**9)
    file.add_reporter("gone", now_millis=4)
    file.revoke_reporter("gone", now_millis=5)
    file.set_ratio(Ratio("de-1", 1500, 6))
    file.report_position("1" * 32, ReaderPosition(7, "aa", "cc"))
    with closing(SqliteLedger(path)) as ledger:
        ledger.record(
            [batch(report("late", key="late"))],
            received_at_millis=NOON_MILLIS + 99,
            defers_sums=True,
        )
    return path


VOID = Wanted(
    kind=Kind.VOID,
    reason="x",
    actor="a",
    scope="reporter:r1",
    since_millis=0,
    until_millis=2 * NOON_MILLIS,
)


def move(path, url, *, restarts=False, page_rows=50, tell=lambda *_: None):
    return Migration(path, url, tell=tell, page_rows=page_rows).run(restarts=restarts)


def everything(reader):
    """Return all that anybody can read of a ledger."""
    page = reader.changes(after=0, limit=1000)
    facts, audit = reader.facts(), reader.audit()
    return {
        "changes": (page.ledger_id, page.head, page.changes, page.runs),
        "reporters": reader.reporters(),
        "ratios": reader.ratios(),
        "heard": reader.last_reports(),
        "reports": reader.reports_after(0, limit=10_000),
        "days": reader.days_after(0, limit=10_000),
        "export": [reader.export_state(each) for each in ("raw", "daily")],
        "backlog": [reader.backlog(each) for each in ("raw", "daily")],
        "letters": reader.dead_letters(limit=9),
        "corrections": reader.corrections(limit=9),
        "corrected": [reader.corrected_sum(Stretch(username=name, after_seq=0, through_seq=10**6, period_seq=None, period_since_millis=NOON_MILLIS)) for name in NAMES],
        "servers": [reader.servers_of(name, since_day=day) for name in (None, "bob") for day in (None, DAY)],
        "summary": [reader.summary(since_day=day) for day in (None, 0, DAY)],
        "facts": (facts.records, facts.day_rows, facts.users, facts.servers, facts.billed_bytes),
        "audit": (audit.user_bytes, audit.series_bytes, audit.day_bytes, audit.billed_bytes,
                  audit.reports, audit.unfolded, audit.problems),
    }  # fmt: skip


def in_file(path):
    with closing(SqlitePlace(path=path).reader()) as reader:
        return everything(reader)


def in_database(url):
    with closing(PostgresPlace(url=url).reader()) as reader:
        return everything(reader)


def test_all_that_can_be_read_is_the_same_and_the_file_stays_as_it_is(full, url):
    moved = move(full, url)
    before = in_file(full)
    assert in_database(url) == before
    assert (moved.reports, moved.users) == (60 * 13 + 2, len(NAMES) + 3)
    assert moved.rows["report"] == moved.reports - 37
    place = backend_of(url)
    assert place.reader_positions() == {"1" * 32: ReaderPosition(7, "aa", "cc")}
    with psycopg.connect(url) as db:
        assert db.execute("SELECT * FROM traffic.imported").fetchall() == [
            (b"x" * 16, "vless", 1, 2)
        ]


def test_a_ledger_goes_on_where_it_was(full, url):
    """Ids are known, numbers follow on, new series get new ids, and readers notice nothing."""
    move(full, url)
    before = in_file(full)
    with (
        closing(PostgresPlace(url=url).open()) as ledger,
        closing(PostgresPlace(url=url).reader()) as reader,
    ):
        receipts = ledger.record(
            [
                batch(
                    report("bob", up=59, down=2, server="юзер", key="59-bob"),
                    report("new", server="new"),
                )
            ],
            received_at_millis=NOON_MILLIS + 1000,
        )
        assert [(each.accepted, each.duplicates) for each in receipts] == [(1, 1)]
        head = before["changes"][1]
        page = reader.changes(after=head, limit=9)
        assert [(each.username, each.change_seq) for each in page.changes] == [("new", head + 1)]
        known = learn(
            [],
            [WriterRun(each.after_seq, each.token) for each in before["changes"][3]],
            cursor=head,
        )
        runs = [WriterRun(each.after_seq, each.token) for each in page.runs]
        assert not went_back(known, runs, cursor=head, head=page.head)
        old = {"before_millis": NOON_MILLIS + 10, "limit": 1000, "keeps_unexported": False}
        assert ledger.forget_reports(**old) == 10 * 13 - 37
        assert reader.audit().problems == []


def test_corrections_move_too_and_what_was_voided_is_not_voided_again(full, url):
    old = backend_of(f"sqlite:///{full}")
    old.ask_correction(VOID, asked_at_millis=1)
    old.ask_correction(
        Wanted(
            kind=Kind.ADJUST, reason="y", actor="a", username="bob", raw_bytes=-1, billed_bytes=2
        ),
        asked_at_millis=2,
    )
    with closing(SqlitePlace(path=full).open()) as ledger:
        while ledger.correct(now_millis=NOON_MILLIS + 5000, limit=100):
            pass
    old.ask_correction(VOID, asked_at_millis=3)  # still open
    moved = move(full, url)
    before = in_file(full)
    assert in_database(url) == before
    assert moved.rows["correction"] == 3
    assert moved.rows["correction_line"] == before["corrections"][2].reports + 1 > 300
    with (
        closing(PostgresPlace(url=url).open()) as ledger,
        closing(PostgresPlace(url=url).reader()) as reader,
    ):
        while ledger.correct(now_millis=NOON_MILLIS + 6000):
            pass
        last = reader.corrections(limit=1)[0]
        assert (last.number, last.reports, last.done_at_millis) == (3, 0, NOON_MILLIS + 6000)
        assert reader.audit().problems == []
        assert backend_of(url).ask_correction(VOID, asked_at_millis=4) == 4


def test_an_empty_ledger_moves_too(path, url):
    SqliteLedger(path).close()
    assert move(path, url).reports == 0
    assert in_database(url) == in_file(path)


def test_a_move_that_is_cut_short_anywhere_goes_on_and_is_no_ledger_before_its_end(full, postgres):
    database = postgres.new_database()
    direct = postgres.url(database)
    cuts = 0
    while True:
        proxy = TcpProxy(postgres.port)
        told = []

        def tell(*progress, proxy=proxy, told=told):
            told.append(progress)
            if len(told) == 2 and "compared" not in progress[0]:
                proxy.cut()

        try:
            move(full, postgres.url(database, port=proxy.port), tell=tell, page_rows=40)
        except LedgerUnavailableError:
            cuts += 1
            assert cuts < 40
            with pytest.raises(LedgerError, match="is being moved"):
                PostgresPlace(url=direct).open()
        else:
            break
        finally:
            proxy.close()
    assert cuts > 5
    assert in_database(direct) == in_file(full)


def test_what_the_file_was_before_it_went_on_is_not_gone_on_with(full, url):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(full, url, tell=stop)
    with closing(SqliteLedger(full)) as ledger:
        ledger.record([batch(report("bob"))], received_at_millis=NOON_MILLIS)
    with pytest.raises(LedgerError, match="--restart"):
        move(full, url)
    move(full, url, restarts=True)
    assert in_database(url) == in_file(full)


def test_a_database_that_holds_a_ledger_is_left_alone(full, url):
    with closing(PostgresPlace(url=url).open()) as ledger:
        ledger.record([batch(report("theirs"))], received_at_millis=NOON_MILLIS)
    for restarts in (False, True):
        with pytest.raises(LedgerError, match="holds a ledger already"):
            move(full, url, restarts=restarts)
    assert [each.username for each in in_database(url)["changes"][2]] == ["theirs"]


def test_a_moved_ledger_is_not_moved_over_again(full, url):
    move(full, url)
    with pytest.raises(LedgerError, match="holds a ledger already"):
        move(full, url)


def test_a_row_that_is_not_the_same_on_both_sides_is_found(full, url, monkeypatch):
    def tamper(what, *_):
        if what == "imported":
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(
                    "UPDATE traffic.usage_day SET upload_bytes = upload_bytes + 1 WHERE series_id = 3"
                )

    with pytest.raises(LedgerError, match="usage_day is not the same"):
        move(full, url, tell=tamper)
    with pytest.raises(LedgerError, match="is being moved"):
        PostgresPlace(url=url).open()


def test_a_file_that_a_collector_has_open_is_not_moved(full, url):
    with closing(SqliteLedger(full)), pytest.raises(LedgerInUseError):
        move(full, url)


async def test_the_command_moves_a_ledger_that_a_collector_then_serves(
    path, url, monkeypatch, capsys
):
    async with running(CollectorWorld(path=path)) as world:
        await world.send([wire("alice", report_id="a"), wire("bob", report_id="b")])
    monkeypatch.setenv("LEDGER_URL", url)
    assert cli.main(["migrate-ledger", "--from", f"sqlite:///{path}"]) == 0
    said = capsys.readouterr()
    assert "2 reports of 2 users: 60 bytes" in said.out
    assert PASSWORD not in said.out + said.err
    async with running(CollectorWorld(path=path, environment={"LEDGER_URL": url})) as world:
        answer = await world.send([wire("alice", report_id="a"), wire("bob", report_id="c")])
        assert (answer.json()["accepted"], answer.json()["duplicates"]) == (1, 1)
        assert await world.totals() == {"alice": 30, "bob": 60}
    for arguments, said in (
        (["--from", f"sqlite:///{path}", "--to", "sqlite:///x"], "must name the database"),
        ([], "--from takes an embedded ledger"),
        (["--from", f"sqlite:///{path}.not-there"], "there is no ledger at"),
    ):
        assert cli.main(["migrate-ledger", *arguments]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
