"""Accidents by the dice: killed programs, a slow panel, a full disk, a clock that steps."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tests.support.engines.influx_engine import InfluxEngine
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack
from tests.support.soak.soak_lies import LyingPanel
from tests.support.soak.soak_load import Books

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
PROGRAMS = (COLLECTOR, BRIDGE, PANEL)
HALF_OPEN = 40
UP_SECONDS = 180


class SteppedClock:
    """The wall clock of the programs, which can be put forward and back."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.offset_seconds = 0
        self.step_to(0)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def step_to(self, offset_seconds: int) -> None:
        self.offset_seconds = offset_seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_seconds:+d}\n")
        new.replace(self._file)


@contextlib.contextmanager
def small_disk(place: Path, *, mebibytes: int) -> Iterator[Path | None]:
    """Yield a folder on a small disk of its own; None where none can be mounted."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is free on a disk; return the file to remove for it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    return ballast


class Supervisor(threading.Thread):
    """Starts a program again that has ended by itself, as systemd and Docker do."""

    def __init__(self, stack: Stack, stop: threading.Event) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._stack = stack
        self._stop_asked = stop
        self.guard = threading.RLock()
        self.ended: Counter[str] = Counter()

    def run(self) -> None:
        while not self._stop_asked.wait(0.5):
            with self.guard:
                for name in PROGRAMS:
                    if (code := self._stack.exit_code(name)) is not None:
                        self.ended[f"{name} ({code})"] += 1
                        self._stack.start(name)


class Chaos:
    """Causes one accident after the other, and times how long each program needs to be back."""

    def __init__(
        self,
        stack: Stack,
        *,
        influx: InfluxEngine | None,
        disk: Path | None,
        clock: SteppedClock | None,
        faults: Path,
        supervisor: Supervisor,
        books: Books,
        dice: random.Random,
        slow_seconds: float,
        slow_for_seconds: float,
        lies: LyingPanel,
        has_late_writes: bool,
    ) -> None:
        self._has_late_writes = has_late_writes
        self._stack = stack
        self._influx = influx
        self._disk = disk
        self.has_disk = disk is not None
        self._clock = clock
        self._faults = faults
        self._supervisor = supervisor
        self._books = books
        self._dice = dice
        self._slow = {"delay_seconds": slow_seconds}
        self._slow_for_seconds = slow_for_seconds
        self._lies = lies
        self._sockets: list[socket.socket] = []
        self._timers: list[threading.Timer] = []
        self.counts: Counter[str] = Counter()
        self.recovery_seconds: defaultdict[str, list[float]] = defaultdict(list)

    def cause(self, *, kills: bool) -> str:
        """Cause an accident and say which; without `kills` the three programs live on."""
        accidents: list[Callable[[], str]] = [
            *(self.slow_panel, self.half_open),
            *(self._lies.empty, self._lies.restore, self._lies.refuse_lists),
        ]
        if self._has_late_writes:
            accidents.append(self._lies.carry_out_late)
        if self._clock:
            accidents.append(self.step_clock)
        if self._influx:
            accidents.append(self.kill_influx)
        if kills:
            accidents += [self.kill] * 5
            if self._disk:
                accidents.append(self.fill_disk)
        accident = self._dice.choice(accidents)
        told = accident()
        self.counts[accident.__name__] += 1
        return told

    def kill(self) -> str:
        name = self._dice.choice((COLLECTOR, COLLECTOR, BRIDGE, BRIDGE, PANEL))
        with self._supervisor.guard:
            self._stack.stop(name, signal.SIGKILL)
            time.sleep(self._dice.uniform(0, 1.5))
            self._stack.start(name)
            started_at = time.monotonic()
            self._until_up(name, started_at)
        return f"kill -9 of the {name}"

    def _until_up(self, name: str, started_at: float) -> None:
        while not self._stack.is_up(name):
            if time.monotonic() - started_at > UP_SECONDS:
                self._books.note(f"{name} was not back within {UP_SECONDS} s")
                break
            time.sleep(0.05)
        self.recovery_seconds[name].append(time.monotonic() - started_at)

    def kill_influx(self) -> str:
        assert self._influx is not None
        self._influx.stop()
        seconds = self._dice.uniform(1, self._slow_for_seconds)
        time.sleep(seconds)
        started_at = time.monotonic()
        self._influx.start()
        self.recovery_seconds["influxd"].append(time.monotonic() - started_at)
        return f"kill -9 of InfluxDB, away for {seconds:.0f} s"

    def slow_panel(self) -> str:
        self._faults.write_text(json.dumps(self._slow))
        time.sleep(self._slow_for_seconds)
        self._faults.unlink()
        return f"a panel that answers after {self._slow['delay_seconds']:.0f} s"

    def half_open(self) -> str:
        """Leave requests half sent, and those of last time to their fate."""
        self._drop_sockets()
        for name in (COLLECTOR, BRIDGE):
            port = int(self._stack.urls[name].rsplit(":", 1)[1])
            for number in range(HALF_OPEN):
                with contextlib.suppress(OSError):
                    opened = socket.create_connection(("127.0.0.1", port), timeout=2)
                    self._sockets.append(opened)
                    head = b"POST /v1/reports HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                    opened.sendall(head[: 20 + number] if number % 2 else head + b'\r\n[{"user')
        return f"{HALF_OPEN} half-open connections to collector and bridge"

    def _drop_sockets(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def step_clock(self) -> str:
        assert self._clock is not None
        self._clock.step_to(self._dice.choice((-7200, -600, -30, 0, 30, 600, 7200)))
        return f"the clock is {self._clock.offset_seconds:+d} s off"

    def fill_disk(self) -> str:
        assert self._disk is not None
        ballast = fill(self._disk)
        time.sleep(self._dice.uniform(2, 6))
        ballast.unlink()
        started_at = time.monotonic()
        ready = self._stack.urls[COLLECTOR] + "/readyz"
        while not self._is_ready(ready):
            if time.monotonic() - started_at > UP_SECONDS:
                self._books.note(f"the collector was not ready {UP_SECONDS} s after a full disk")
                break
            time.sleep(0.05)
        self.recovery_seconds["full disk"].append(time.monotonic() - started_at)
        return "a full disk under ledger and store"

    def _is_ready(self, url: str) -> bool:
        try:
            return self._stack.client.get(url).status_code == 200
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        """Let everything be well again."""
        self._drop_sockets()
        self._faults.unlink(missing_ok=True)
        if self._clock:
            self._clock.step_to(0)
        if self._influx:
            self._influx.start()


def rss_mib(pid: int | None) -> float | None:
    """Return how much memory a process holds; None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
