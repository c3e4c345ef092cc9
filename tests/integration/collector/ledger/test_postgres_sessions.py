"""What a session with PostgreSQL relies on holds whatever an operator has set, or is refused."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import pytest

import collector.cli.main
import marzban_bridge.cli.main
from collector.errors import LedgerUnavailableError, NotStoredError
from collector.ledger import Receipt
from collector.ledger.postgres.backend import PostgresBackend
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Link
from collector.ledger.postgres.reader import MAX_CONNECTIONS, PostgresReader
from collector.ledger.postgres.writer import PostgresLedger
from collector.runtime.postgres.connection import BoundedConnection
from marzban_bridge.errors import NotLeadingError, StoreAwayError, StoreError
from marzban_bridge.quota.account import Event
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.link import PostgresLink
from marzban_bridge.store.postgres.replica import PostgresReplica
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import NOW, account
from tests.support.bridge.shared_stores import assert_written_through, lead, open_shared
from tests.support.collector.collector_process import poll
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.engines import pgbouncer
from tests.support.engines.pgbouncer import PgBouncer
from tests.support.engines.postgres_server import PASSWORD, PostgresServer

HELLO = Event(kind="adopted", text="hello")
ODD = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'Asia/Tehran'",
    "array_nulls": "off",
    "bytea_output": "'escape'",
    "client_encoding": "'LATIN1'",
    "client_min_messages": "'error'",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "'serializable'",
    "extra_float_digits": "-15",
    "row_security": "on",
    "search_path": "pg_temp",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
}
LIMITS = {
    "idle_in_transaction_session_timeout": "5s",
    "idle_session_timeout": "0",
    "lock_timeout": "3s",
    "statement_timeout": "9s",
}


def execute(url, statement):
    with psycopg.connect(url, autocommit=True) as db:
        cursor = db.execute(statement)
        return cursor.fetchall() if cursor.description else []


def store(ledger, *reports):
    return ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)


def use_ledger(url):
    with closing(PostgresLedger(url)) as ledger, closing(PostgresReader(url)) as reader:
        assert store(ledger, report("Зоя", key="a"), report("Зоя")) == [Receipt(2, 0)]
        assert store(ledger, report("Зоя", key="a")) == [Receipt(0, 1)]
        ledger.lead()
        assert ledger.leads
        (change,) = reader.changes(after=0, limit=9).changes
        assert (change.username, change.reports) == ("Зоя", 2)
        assert reader.audit().problems == []


def use_store(url):
    opened, _ = open_shared(url)
    with closing(opened) as books:
        books.accounts.save(account(), [HELLO], at=NOW)
        assert_written_through(books, url)
        assert [each.event.text for each in books.events.newest()] == ["hello"]


class TestSettings:
    @pytest.mark.parametrize("name", [*ODD, "all"])
    def test_what_is_set_for_a_database_is_overridden(self, postgres, url, database, name):
        for each in ODD if name == "all" else [name]:
            execute(postgres.url("postgres"), f"ALTER DATABASE {database} SET {each} = {ODD[each]}")
        use_ledger(url)
        use_store(url)

    def test_our_own_limits_hold(self, postgres, url, database):
        for name in LIMITS:
            statement = f"ALTER DATABASE {database} SET {name} = '300ms'"
            execute(postgres.url("postgres"), statement)
        with closing(Link(url)) as link:
            shown = [
                link.ask(lambda db, name=name: db.execute(f"SHOW {name}").fetchone()[0])
                for name in LIMITS
            ]
        assert shown == list(LIMITS.values())
        with closing(PostgresLink(url)) as link:
            assert link.ask(lambda db: db.execute("SHOW idle_session_timeout").fetchone()) == ("0",)
            shown = link.ask(lambda db: db.execute("SHOW statement_timeout").fetchone())
            assert shown == ("3600ms",)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"),
         ("remote_apply", "remote_apply")],
    )  # fmt: skip
    def test_commits_wait_for_what_the_server_has_them_wait_for_or_more(
        self, postgres, url, database, proxy, given, kept
    ):
        statement = f"ALTER DATABASE {database} SET synchronous_commit = {given}"
        execute(postgres.url("postgres"), statement)
        through = postgres.url(database, port=proxy.port)
        for link in (Link(through), PostgresLink(through)):
            for _ in range(2):
                shown = link.ask(lambda db: db.execute("SHOW synchronous_commit").fetchone())
                assert shown == (kept,)
                proxy.cut()
                link._used_at_seconds = 0.0  # as if it had been idle: it is connected anew
            link.close()


class TestRefusals:
    @pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
    def test_a_database_that_is_not_utf8(self, postgres, encoding):
        name = f"encoded_{encoding.lower()}_{time.monotonic_ns()}"
        execute(
            postgres.url("postgres"),
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' "
            "LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        self.refused(
            postgres.url(name), f"encoding is {encoding}.*ENCODING 'UTF8'", is_for_good=True
        )

    def test_one_that_is_not_utf8_is_one_line_of_each_program(
        self, postgres, monkeypatch, capsys, tmp_path
    ):
        name = f"latin_{time.monotonic_ns()}"
        execute(
            postgres.url("postgres"),
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' "
            "LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        monkeypatch.chdir(tmp_path)
        for program, setting, command in (
            (collector.cli.main, "LEDGER_URL", "serve"),
            (collector.cli.main, "LEDGER_URL", "check"),
            (marzban_bridge.cli.main, "BRIDGE_STORE", "events"),
        ):
            monkeypatch.setenv(setting, postgres.url(name))
            monkeypatch.setenv("COLLECTOR_PORT", "0")
            assert program.main([command]) == 1
            said = capsys.readouterr()
            assert "the database's encoding is LATIN1" in said.err
            assert said.err.count("\n") == 1

    def test_a_database_that_is_set_read_only(self, postgres, url, database):
        statement = f"ALTER DATABASE {database} SET default_transaction_read_only = on"
        execute(postgres.url("postgres"), statement)
        self.refused(url, "default_transaction_read_only is on", is_for_good=False)

    @pytest.mark.skipif(pgbouncer.BINARY is None, reason="no PgBouncer: apt-get install pgbouncer")
    @pytest.mark.parametrize("robin", [0, 1])
    @pytest.mark.parametrize("mode", ["transaction", "statement"])
    def test_a_pooler_that_mixes_sessions_up(self, postgres, url, database, mode, robin):
        pooler = PgBouncer(postgres, mode, f"server_round_robin = {robin}")
        with closing(pooler):
            pooled = postgres.url(database, port=pooler.port)
            with contextmanager(busy)(pooled):
                self.refused(pooled, "PgBouncer: pool_mode", is_for_good=True)

    def refused(self, url, words, *, is_for_good):
        with pytest.raises(NotStoredError, match=words) as raised:
            PostgresBackend(url).prepare()
        assert isinstance(raised.value, LedgerUnavailableError) != is_for_good
        assert PASSWORD not in str(raised.value)
        with pytest.raises(NotStoredError, match=words):
            PostgresBackend(url).reader()
        with pytest.raises(StoreError, match=words) as raised:
            shared_schema.prepare(url)
        assert isinstance(raised.value, StoreAwayError) != is_for_good
        assert PASSWORD not in str(raised.value)


def use_all_connections(reader):
    """Have a reader open as many connections as it may have."""
    gate = threading.Barrier(MAX_CONNECTIONS)
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        asked = [
            threads.submit(reader._ask, lambda _: gate.wait(120)) for _ in range(MAX_CONNECTIONS)
        ]
        assert sorted(each.result() for each in asked) == list(range(MAX_CONNECTIONS))


def until_added_up(ledger, reader, *, reports):
    deadline = time.monotonic() + 20
    while reader.changes(after=0, limit=1).head < reports:
        assert time.monotonic() < deadline
        with suppress(LedgerUnavailableError):
            ledger.lead()


def restarting(server):
    """Have it come back while it is asked for something."""
    server.crash()
    starting = threading.Thread(target=server.start)
    starting.start()
    yield
    starting.join()


def busy(url):
    """Have other clients of the pooler leave it with sessions to choose from."""
    others = [psycopg.connect(url, autocommit=True) for _ in range(3)]
    for each in others:
        with each.cursor() as cursor:
            cursor.execute("SELECT 1")
    yield
    for each in others:
        each.close()


@pytest.mark.skipif(pgbouncer.BINARY is None, reason="no PgBouncer: apt-get install pgbouncer")
def test_a_pooler_that_keeps_sessions_is_used(postgres, database):
    pooler = PgBouncer(postgres, "session")
    with closing(pooler):
        pooled = postgres.url(database, port=pooler.port)
        use_ledger(pooled)
        use_store(pooled)


@pytest.mark.skipif(pgbouncer.BINARY is None, reason="no PgBouncer here: apt-get install pgbouncer")
def test_of_several_poolers_the_one_whose_server_takes_writes_now_is_used(postgres):
    """A pooler tells new clients what its server was when it was reached first."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(PostgresServer()))
        server.start()
        begun_as_primary = stack.enter_context(closing(PgBouncer(server, "session")))
        urls = [hosts(server, begun_as_primary.port, postgres.port)]
        assert [ports_behind(each) for each in urls] == [{str(server.port)}]
        take_writes(server, False)
        assert [ports_behind(each) for each in urls] == [{str(postgres.port)}]
        begun_as_standby = stack.enter_context(closing(PgBouncer(server, "session")))
        urls.append(hosts(server, begun_as_standby.port, postgres.port))
        assert [ports_behind(each) for each in urls] == [{str(postgres.port)}] * 2
        take_writes(server, True)
        assert [ports_behind(each) for each in urls] == [{str(server.port)}] * 2


def hosts(server, *ports):
    named = ",".join(f"127.0.0.1:{port}" for port in ports)
    return server.url("postgres").replace(f"127.0.0.1:{server.port}", named)


def take_writes(server, takes_writes):
    url, value = server.url("postgres"), "off" if takes_writes else "on"
    execute(url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    execute(url, "SELECT pg_reload_conf()")
    query = "SHOW default_transaction_read_only"
    poll("the setting", lambda: execute(url, query) == [(value,)])


def ports_behind(url):
    """Return the ports of the servers that collectors and bridges use."""
    show = "SHOW port"
    with closing(Link(url)) as ours, closing(PostgresLink(url)) as bridges:
        found = {each.ask(lambda db: db.execute(show).fetchone()[0]) for each in (ours, bridges)}
    with closing(PostgresReader(url)) as reader:
        return found | {reader.read(lambda db: db.rows(show))[0][0]}


class TestConnectionsThatAreCut:
    def test_the_first_report_after_it_is_taken(self, postgres, database, proxy):
        through = postgres.url(database, port=proxy.port)
        with closing(PostgresLedger(through)) as ledger, closing(PostgresReader(through)) as reader:
            assert store(ledger, report()) == [Receipt(1, 0)]
            use_all_connections(reader)
            proxy.cut()
            assert store(ledger, report()) == [Receipt(1, 0)]
            started_at = time.monotonic()
            assert reader.reporters() == []
            assert time.monotonic() - started_at < 20, "however many connections were cut"
            proxy.cut()
            assert reader.reporters() == []
            until_added_up(ledger, reader, reports=2)

    def test_a_commit_that_is_answered_twice_is_looked_up(self, url, monkeypatch):
        """A pooler whose server ends adds an error of its own, and the driver raises another.

        Without an id the report would count twice if it were stored again.
        """
        original, answered_twice = BoundedConnection.transaction, []

        @contextmanager
        def transaction(db):
            with original(db) as found:
                yield found
            if not answered_twice:
                answered_twice.append(db)
                raise psycopg.InternalError("received 2 results from command 'COMMIT'")

        with closing(PostgresLedger(url)) as ledger, closing(PostgresReader(url)) as reader:
            monkeypatch.setattr(BoundedConnection, "transaction", transaction)
            assert store(ledger, report()) == [Receipt(1, 0)]
            assert answered_twice[0].closed, "which answer is the next one is unknown"
            until_added_up(ledger, reader, reports=1)

    def test_a_server_that_is_back_within_seconds_is_waited_for(self):
        """As one that another takes the place of, or a pooler that is restarted."""
        server = PostgresServer()
        server.start()
        url = server.url(server.new_database())
        with (
            closing(server),
            closing(PostgresLedger(url)) as ledger,
            closing(PostgresReader(url)) as reader,
        ):
            store(ledger, report(key="a"))
            with contextmanager(restarting)(server):
                assert store(ledger, report(key="b")) == [Receipt(1, 0)]
            with contextmanager(restarting)(server):
                assert reader.reporters() == []

    def test_a_bridge_goes_on_at_the_server_its_store_was_read_from(
        self, postgres, url, database, proxy
    ):
        lease = lead(url)
        handle = PostgresReplica(postgres.url(database, port=proxy.port), lease)
        with closing(Store(handle)) as books:
            books.set_meta("a", "1")
            proxy.cut()
            handle._link._used_at_seconds = handle._trail._link._used_at_seconds = 0.0
            books.set_meta("a", "2")
            assert books.events.newest() == []
            assert_written_through(books, url)

    def test_a_bridge_reads_its_store_anew_once_the_server_was_restarted(self):
        """Another server, or this one restored, may have an older store than the copy in memory."""
        server = PostgresServer()
        server.start()
        url = server.url(server.new_database())
        with closing(server):
            handle = PostgresReplica(url, lead(url))
            with closing(Store(handle)) as books:
                books.set_meta("a", "1")
                server.crash()
                server.start()
                handle._link._used_at_seconds = 0.0
                with pytest.raises(NotLeadingError, match="read again"):
                    books.set_meta("a", "2")


def test_a_process_that_freezes_amid_many_rows_loses_its_session_and_its_locks(url):
    """A driver that flushes after its last statement stops the server's clock for the session."""
    link = Link(url)

    def stand_still(db):
        db.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        # Each row takes so long to be inserted that its answer is not there at once.
        db.execute("CREATE TEMP TABLE slow (wait float8 CHECK (pg_sleep(wait) IS NOT NULL))")
        PostgresDatabase(db).insert_all("slow", [{"wait": 0.05}, {"wait": 0.05}])
        pid = db.info.backend_pid
        ours = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"
        poll("a session that the server has ended", lambda: not execute(url, ours))

    ended = "idle-in-transaction timeout|server closed the connection"
    with closing(link), pytest.raises(NotStoredError, match=ended):
        link.run(stand_still)


@pytest.mark.parametrize("kind", [Link, PostgresLink])
def test_a_connection_is_closed_after_the_call_that_is_running_on_it(url, kind):
    """The driver reads on without the interpreter's lock: what is freed then crashes the process."""
    link, has_begun = kind(url), threading.Event()

    def answer_late(db):
        has_begun.set()
        return db.execute("SELECT pg_sleep(0.3), 7").fetchone()[1]

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(link.ask, answer_late)
        assert has_begun.wait(120)
        link.close()
        assert answer.done()
        assert answer.result() == 7
