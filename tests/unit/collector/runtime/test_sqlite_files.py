"""Ledger and store are opened alike: what is said of a file is true of it, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from collector.errors import LedgerError
from collector.ledger.sqlite import file as ledger_file
from collector.runtime.sqlite import file as sqlite_file
from collector.runtime.sqlite.backup import back_up
from collector.runtime.sqlite.file import migrate, open_to_read, open_to_write
from marzban_bridge.errors import StoreError
from marzban_bridge.store import sqlite as store_file

LEDGER = pytest.param(ledger_file, LedgerError, id="ledger")
STORE = pytest.param(store_file, StoreError, id="store")
both = pytest.mark.parametrize(("module", "error"), [LEDGER, STORE])


@both
def test_one_that_is_in_use_just_now_is_not_called_damaged(module, error, tmp_path, monkeypatch):
    path = tmp_path / "file"
    module.connect(path).close()
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(error, match=r"cannot be used now .*locked.*; try again") as raised:
            module.connect(path)
    assert "restore" not in str(raised.value)


@both
@pytest.mark.parametrize("read_only", [True, False])
def test_one_that_is_removed_while_it_is_opened_is_not_made_anew(
    module, error, read_only, tmp_path, monkeypatch
):
    path = tmp_path / "file"
    module.connect(path).close()
    opens = sqlite3.connect

    def is_removed_before(*arguments, **options):
        path.unlink(missing_ok=True)
        return opens(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", is_removed_before)
        with pytest.raises(error, match="cannot open the"):
            module.connect(path, read_only=read_only)
    assert not path.exists()


@both
def test_a_folder_that_cannot_be_made_is_said_with_the_file(module, error, tmp_path):
    (tmp_path / "folder").touch()
    path = tmp_path / "folder" / "file"
    with pytest.raises(error, match=f"cannot open the .*{path}"):
        module.connect(path)
    with pytest.raises(error, match=f"cannot write beside the .*{path}.*own the folder"):
        module.lock(path)


@both
def test_an_empty_database_is_nothing_of_ours(module, error, tmp_path):
    path = tmp_path / "file"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    before = path.read_bytes()
    with pytest.raises(error, match="not a"):
        module.connect(path)
    assert path.read_bytes() == before


@both
def test_the_log_of_a_lost_file_is_kept_and_the_ways_out_are_named(module, error, tmp_path):
    remains = tmp_path / "file-wal"
    remains.write_bytes(b"what was not yet moved into the file")
    with pytest.raises(error, match=r"restore both from a backup; to begin .* remove file-wal"):
        module.connect(tmp_path / "file")
    assert [each.name for each in tmp_path.iterdir()] == ["file-wal"]


@both
def test_the_process_that_has_the_right_to_write_is_named_and_then_another_has_it(
    module, error, tmp_path
):
    lock = module.lock(tmp_path / "file")
    with pytest.raises(error, match=rf"in use by another \w+ \(pid {os.getpid()}\)"):
        module.lock(tmp_path / "file")
    lock.close()
    lock.close()
    module.lock(tmp_path / "file").close()


KIND = replace(
    store_file.STORE,
    migrations=(
        "CREATE TABLE a (x); CREATE TABLE b (x)",
        "INSERT INTO a VALUES (1)",
        "DROP TABLE b",
    ),
    steps={},
)


def versions(path) -> tuple[int, list[int]]:
    with closing(sqlite3.connect(path)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return version, [row[0] for row in db.execute("SELECT x FROM a")]


def test_a_migration_is_taken_whole_or_not_at_all_and_the_next_start_goes_on(tmp_path):
    path = tmp_path / "file"
    open_to_write(replace(KIND, migrations=KIND.migrations[:1]), path).close()

    def fail(db):
        db.execute("INSERT INTO a VALUES (99)")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_to_write(replace(KIND, steps={2: fail}), path)
    assert versions(path) == (1, [])
    open_to_write(KIND, path).close()
    assert versions(path) == (3, [1])


def test_two_processes_that_migrate_at_once_take_each_step_once(tmp_path):
    path = tmp_path / "file"
    open_to_write(replace(KIND, migrations=KIND.migrations[:1]), path).close()

    class Overtaken(sqlite3.Connection):
        """Another process migrates between this one's look at the version and its transaction."""

        def execute(self, statement, *values):
            if statement == "BEGIN IMMEDIATE" and versions(path)[0] == 1:
                open_to_write(KIND, path).close()
            return super().execute(statement, *values)

    with closing(sqlite3.connect(path, isolation_level=None, factory=Overtaken)) as db:
        migrate(KIND, db)
    assert versions(path) == (3, [1])


def test_an_older_file_is_backed_up_as_it_is(tmp_path):
    path, older = tmp_path / "file", replace(KIND, migrations=KIND.migrations[:2])
    open_to_write(older, path).close()
    made = back_up(
        KIND,
        path,
        tmp_path / "copy",
        finish=lambda db: db.execute("SELECT count(*) FROM a").fetchone()[0],
        on_progress=lambda *_: None,
    )
    assert (made.users, versions(tmp_path / "copy")) == (1, (2, [1]))
    with closing(open_to_read(KIND, path)) as db, pytest.raises(sqlite3.OperationalError):
        db.execute("DROP TABLE a")
