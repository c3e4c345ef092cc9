"""What is counted while senders are tortured: a source's counters, and a panel that posts."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.support.soak.soak_chaos import small_disk
from tests.support.soak.torture_client import amount_of

USERS = tuple(f"a-{number}" for number in range(6))
TURN_SECONDS = 0.15
POST_SECONDS = 0.25
DISK_MIB = 24


class CountingSource(threading.Thread):
    """Counters in a file, as a `command` prints them; now and then one is misread."""

    def __init__(self, file: Path, stop: threading.Event, *, seed: str) -> None:
        super().__init__(name="source", daemon=True)
        self.guard = threading.Lock()
        self._file = file
        self._stop_asked = stop
        self._dice = random.Random(seed)
        self._life = 0
        self._before = dict.fromkeys(USERS, 0)
        self._now = dict.fromkeys(USERS, 0)
        self._write({})

    def run(self) -> None:
        """Count until told to stop."""
        while not self._stop_asked.wait(TURN_SECONDS):
            with self.guard:
                user = self._dice.choice(USERS)
                self._now[user] += self._dice.randrange(1, 10_000)
                misread = {user: self._dice.randrange(1, 500)} if self._dice.random() < 0.1 else {}
                self._write(misread)

    def used(self) -> dict[str, int]:
        """Return what each user has used since for ever."""
        with self.guard:
            return {user: self._before[user] + self._now[user] for user in USERS}

    def settle(self) -> None:
        """Show the true values."""
        with self.guard:
            self._write({})

    def renew(self, state: Path) -> bool:
        """Be restarted, if the agent has read all there is; return whether it was."""
        with self.guard:
            if _baselines(state) != {name: each for name, each in self._now.items() if each}:
                return False
            self._life += 1
            for user in USERS:
                self._before[user] += self._now[user]
                self._now[user] = 0
            self._write({})
        return True

    def _write(self, misread: dict[str, int]) -> None:
        counters = [
            {"user": user, "upload_bytes": max(0, used - misread.get(user, 0))}
            for user, used in self._now.items()
            if used
        ]
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps({"started": f"life-{self._life}", "counters": counters}))
        beside.replace(self._file)


def _baselines(state: Path) -> dict[str, int]:
    try:
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT counter, upload_bytes FROM baseline"))
    except sqlite3.Error:
        return {}


class PostingPanel(threading.Thread):
    """A 3x-ui: posts each of its users' traffic once, and never again."""

    def __init__(self, port: int, path: str, stop: threading.Event) -> None:
        super().__init__(name="panel", daemon=True)
        self._port = port
        self._path = path
        self._stop_asked = stop
        self.taken: dict[str, int] = {}
        """Of each user whose post was answered with 200, its bytes."""
        self.unsure: dict[str, int] = {}
        """Where there was no answer: it may have been kept."""
        self.refused: set[str] = set()

    def run(self) -> None:
        """Post until told to stop."""
        number = 0
        while not self._stop_asked.wait(POST_SECONDS):
            number += 1
            user, used = f"r-{number}", amount_of(number)
            self.unsure[user] = used
            status = self._post(user, used)
            if status == 200:
                self.taken[user] = self.unsure.pop(user)
            elif status is not None:
                self.unsure.pop(user)
                self.refused.add(user)

    def _post(self, user: str, used: int) -> int | None:
        rows = [{"email": user, "up": used, "down": 0, "uuid": "", "total": 0}]
        body = json.dumps({"clientTraffics": rows, "inboundTraffics": []})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=3)
        with closing(connection):
            try:
                connection.request("POST", self._path, body, {"Connection": "close"})
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return None


def queued(notes: Path) -> tuple[dict[str, int], dict[str, int], set[str]]:
    """Return the client's reports that were queued, that may have been, and that were refused."""
    sure: dict[str, int] = {}
    unsure: dict[str, int] = {}
    refused: set[str] = set()
    for line in notes.read_text().splitlines():
        what, _, text = line.partition(" ")
        user, used = f"c-{text}", amount_of(int(text))
        if what == "try":
            unsure[user] = used
        else:
            unsure.pop(user, None)
            if what == "ok":
                sure[user] = used
            else:
                refused.add(user)
    return sure, unsure, refused


@contextlib.contextmanager
def spool_disks(folder: Path) -> Iterator[dict[str, Path]]:
    """Yield a small disk for each sender's spool; none where none can be mounted."""
    with (
        small_disk(folder / "agent", mebibytes=DISK_MIB) as agent,
        small_disk(folder / "client", mebibytes=DISK_MIB) as client,
    ):
        found = {"agent": agent, "client": client}
        yield {name: disk for name, disk in found.items() if disk is not None}
