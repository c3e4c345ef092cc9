"""Files of ours: whose they are to read, and how they come into their place."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import collector.ledger.sqlite.backup
import marzban_bridge.store.backup
from collector.agent.state import lock as agent_lock
from collector.client.errors import SpoolError
from collector.client.spool.spool import Spool
from collector.errors import LedgerError
from collector.ledger.sqlite.writer import SqliteLedger
from collector.runtime.private_files import put_in_place
from marzban_bridge.cli.standalone import _kept_key
from marzban_bridge.errors import StoreError
from marzban_bridge.store.store import Store
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


def ledger(path: Path) -> SqliteLedger:
    opened = SqliteLedger(path)
    opened.record([batch(report())], received_at_millis=NOON_MILLIS)
    return opened


def store(path: Path) -> Store:
    opened = Store(path)
    opened.set_meta("a", "b")
    return opened


def spool(path: Path) -> Spool:
    opened = Spool(path)
    opened.put("reports", [("1", b"{}")])
    return opened


OPENERS: dict[str, Callable[[Path], SqliteLedger | Store | Spool]] = {
    "ledger": ledger,
    "store": store,
    "spool": spool,
}


@pytest.fixture(params=OPENERS)
def opened(request) -> Callable[[Path], SqliteLedger | Store | Spool]:
    return OPENERS[request.param]


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return what may be done with each file; a spool's reserve holds nothing but room."""
    return {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in folder.iterdir()
        if not path.name.endswith(".reserve")
    }


def loose(folder: Path) -> dict[str, int]:
    return {name: mode for name, mode in modes(folder).items() if mode != 0o600}


def test_a_new_file_and_all_beside_it_are_the_owner_s_alone(tmp_path, umask, opened):
    with closing(opened(tmp_path / "file")):
        assert {"file", "file-wal", "file-shm"} <= set(modes(tmp_path))
        assert loose(tmp_path) == {}


def test_one_that_others_could_read_is_taken_from_them(tmp_path, opened, caplog):
    path = tmp_path / "file"
    opened(path).close()
    beside = [*tmp_path.iterdir(), tmp_path / "file-wal", tmp_path / "file-shm"]
    for each in beside:
        each.touch()
        each.chmod(0o644)
    with closing(opened(path)):
        assert loose(tmp_path) == {}
    assert "file_was_readable_by_others" in caplog.text


def test_what_is_none_of_ours_is_left_as_it_is(tmp_path, opened):
    (tmp_path / "folder").mkdir(mode=0o755)
    with closing(sqlite3.connect(tmp_path / "another program's")) as db:
        db.execute("CREATE TABLE a (b)")
    (tmp_path / "garbage").write_bytes(b"\xff" * 8192)
    before = modes(tmp_path)
    for name in before:
        with pytest.raises((LedgerError, StoreError, SpoolError, sqlite3.Error)):
            opened(tmp_path / name)
    assert {name: modes(tmp_path)[name] for name in before} == before


def test_one_of_another_user_is_warned_about(tmp_path, opened, monkeypatch, caplog):
    path = tmp_path / "file"
    opened(path).close()
    path.chmod(0o644)

    def refuse(self, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "chmod", refuse)
    opened(path).close()
    assert f"file_is_readable_by_others file={path} mode=644" in caplog.text


def test_so_are_the_agent_s_lock_and_the_keys_that_up_makes(tmp_path, umask):
    with agent_lock.lock(tmp_path / "state"):
        _kept_key(tmp_path / "admin.key", "")
        assert loose(tmp_path) == {}
    for name in ("admin.key", "state.lock"):
        (tmp_path / name).chmod(0o644)
    with agent_lock.lock(tmp_path / "state"):
        _kept_key(tmp_path / "admin.key", "")
        assert loose(tmp_path) == {}


def back_up_ledger(source: Path, target: Path) -> None:
    ledger(source).close()
    collector.ledger.sqlite.backup.back_up(source, target, on_progress=lambda *_: None)


def back_up_store(source: Path, target: Path) -> None:
    store(source).close()
    marzban_bridge.store.backup.back_up(source, target, on_progress=lambda *_: None)


BACKUPS = pytest.mark.parametrize("back_up", [back_up_ledger, back_up_store])


@BACKUPS
def test_so_are_backups(tmp_path, umask, back_up):
    (tmp_path / "copies").mkdir(mode=0o755)
    (tmp_path / "copies").chmod(0o755)
    back_up(tmp_path / "file", tmp_path / "copies" / "copy")
    assert modes(tmp_path / "copies") == {"copy": 0o600}


class Synced:
    """The folders whose entries were brought to the disk, and what was in them then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[tuple[Path, set[str]]] = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_dir():
                self.folders.append((path, {each.name for each in path.iterdir()}))

        monkeypatch.setattr(os, "fsync", note)


@pytest.mark.parametrize("name", ["ledger", "store"])
def test_the_name_of_a_new_file_is_on_disk_before_anything_is_stored_in_it(
    tmp_path, monkeypatch, name
):
    synced = Synced(monkeypatch)
    OPENERS[name](tmp_path / "file").close()
    assert any(folder == tmp_path and "file" in names for folder, names in synced.folders)


@BACKUPS
def test_the_name_of_a_backup_is_on_disk_before_it_is_called_done(tmp_path, monkeypatch, back_up):
    (tmp_path / "copies").mkdir()
    synced = Synced(monkeypatch)
    back_up(tmp_path / "file", tmp_path / "copies" / "copy")
    assert (tmp_path / "copies", {"copy"}) in synced.folders


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "this file system has no links")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("has_links", [True, False])
class TestPuttingInPlace:
    @pytest.fixture(autouse=True)
    def file_system(self, has_links, monkeypatch):
        if not has_links:
            no_links(monkeypatch)

    def test_a_whole_file_gets_its_name(self, tmp_path):
        (tmp_path / "draft").write_text("whole")
        put_in_place(tmp_path / "draft", tmp_path / "file")
        assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"file": "whole"}

    def test_one_that_appeared_meanwhile_is_not_overwritten(self, tmp_path):
        (tmp_path / "draft").write_text("whole")
        (tmp_path / "file").write_text("another's")
        with pytest.raises(FileExistsError):
            put_in_place(tmp_path / "draft", tmp_path / "file")
        assert (tmp_path / "file").read_text() == "another's"

    @pytest.mark.parametrize("name", ["ledger", "store"])
    def test_a_ledger_or_store_that_appeared_meanwhile_is_the_one_that_is_opened(
        self, tmp_path, monkeypatch, name
    ):
        """As when two programs begin at once, or a backup is put back in that moment."""
        path, other = tmp_path / "file", tmp_path / "other"
        OPENERS[name](other).close()
        with closing(sqlite3.connect(other)) as db:
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('whose', 'another''s')")
            db.commit()

        def appear(draft: Path, target: Path) -> None:
            target.write_bytes(other.read_bytes())
            put_in_place(draft, target)

        monkeypatch.setattr("collector.runtime.sqlite.file.put_in_place", appear)
        OPENERS[name](path).close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT value FROM meta WHERE key = 'whose'").fetchone()
        assert not list(tmp_path.glob("*.new*"))


def test_a_file_system_that_syncs_no_folders_is_no_fault_and_a_failing_disk_is(
    tmp_path, monkeypatch
):
    fsync = os.fsync
    number = errno.EINVAL

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    (tmp_path / "draft").write_text("whole")
    put_in_place(tmp_path / "draft", tmp_path / "file")
    number = errno.EIO
    (tmp_path / "draft").write_text("whole")
    with pytest.raises(OSError, match="Input/output"):
        put_in_place(tmp_path / "draft", tmp_path / "second")
