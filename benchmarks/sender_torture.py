"""Senders behind a proxy that answers anything: is what they took in the ledger, once, and told?

    uv run --group bench python benchmarks/sender_torture.py [--minutes 10] [--seed N] [--quick]

Runs a collector, an agent with a `command` source and a relay, and a program with the client's
spool, as processes; between them and the collector a proxy (lying_proxy.py in
tests/support/collector) that answers as other programs do, cuts answers off, trickles them, mixes
them up, or is not there. At random times the programs are killed with SIGKILL and the disks under
the spools are filled (as root). In each phase
`traffic-agent status` and the client's `problem` must say what is wrong, and that all is well soon
after it. At no time may the ledger hold more than was counted. After quiet it must hold each byte
that the source counted, that the relay answered for and that the client queued, once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from collector.agent.state.lock import heartbeat_of  # noqa: E402
from tests.support.agent.agent_process import AgentProcess  # noqa: E402
from tests.support.collector.collector_process import KEY, CollectorProcess  # noqa: E402
from tests.support.collector.lying_proxy import LIES, PASS, Lie, LyingProxy  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.soak.soak_chaos import fill  # noqa: E402
from tests.support.soak.torture_books import Bounds, Row, more_than_counted, not_balanced, table_of  # noqa: E402
from tests.support.soak.torture_load import CountingSource, PostingPanel, queued, spool_disks  # noqa: E402

SECRET = "panel-secret-0123456789"  # noqa: S105 - of a panel of this harness
LANES = ("reports", "relay:panel")
TOLD_SECONDS, WELL_SECONDS, QUIET_SECONDS = 25.0, 90.0, 180.0
POLL_SECONDS = 0.1
FEW_ITEMS = 3
FULL_SECONDS = 10.0
ACCIDENTS = ("none", "none", "agent killed", "client killed", "collector killed", "both killed")
CONFIG = """
[[source]]
name = "counted"
kind = "command"
command = ["cat", "{counters}"]
count_first = true
interval_seconds = 0.3

[relay]
listen = "127.0.0.1:{port}"
[[relay.route]]
name = "panel"
kind = "3x-ui"
secret = "{secret}"
"""
console = Console(soft_wrap=True)


def main() -> int:
    """Run the torture and print its table; 1 when anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="leave out what shows after a while")
    parser.add_argument("--only", action="append", help="of the lies, these alone")
    parser.add_argument("--accident", action="append", help="of the accidents, these alone")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to leave it all in")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed  # noqa: S311
    lies = [each for each in LIES if not (arguments.quick and each.seconds)]
    if arguments.only:
        lies = [each for each in lies if each.name in arguments.only]
    console.print(f"seed {seed}")
    with _folder(arguments.keep) as folder, spool_disks(folder) as disks:
        if not disks:
            console.print("the spools' disks are not filled: that needs root")
        torture = Torture(folder, disks, seed=seed)
        torture.accidents = arguments.accident or torture.accidents
        try:
            torture.run(lies, seconds=arguments.minutes * 60)
            return torture.show()
        finally:
            torture.close()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class Torture:
    """The programs, what is counted, and what was found."""

    def __init__(self, folder: Path, disks: dict[str, Path], *, seed: int) -> None:
        self._folder = folder
        self._disks = disks
        self._dice = random.Random(seed)  # noqa: S311 - accidents
        self._stop = threading.Event()
        self._rows: dict[str, Row] = defaultdict(Row)
        self._faults: list[str] = []
        self._began_seconds = time.monotonic()
        self.collector = CollectorProcess(folder)
        proxy_port, relay_port = free_port(), free_port()
        self.proxy = LyingProxy(proxy_port, self.collector.port, key=KEY)
        url = f"http://127.0.0.1:{proxy_port}"
        counters = folder / "counters.json"
        text = CONFIG.format(counters=counters, port=relay_port, secret=SECRET)
        self.agent = AgentProcess(folder, url, text)
        self.source = CountingSource(counters, self._stop, seed=f"{seed}/source")
        self.panel = PostingPanel(relay_port, f"/3x-ui/{SECRET}", self._stop)
        self.notes, self._standing = folder / "notes", folder / "standing.json"
        spool = folder / "client" / "spool.sqlite3"
        script = ROOT / "tests" / "support" / "soak" / "torture_client.py"
        places = [str(each) for each in (spool, self.notes, self._standing)]
        self._client_command = [sys.executable, str(script), url, KEY, *places]
        self._client: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self.accidents = [*ACCIDENTS, *(f"{name}'s disk full" for name in disks)]

    def run(self, lies: list[Lie], *, seconds: float) -> None:
        """Go through the lies again and again, then wait for quiet and compare."""
        (self._folder / "client").mkdir(exist_ok=True)
        self.collector.start()
        self.agent.start()
        self._start_client()
        self.source.start()
        self.panel.start()
        self._until(WELL_SECONDS, lambda: bool(self._ledger()), "something is in the ledger")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for lie in self._dice.sample(lies, len(lies)):
                if time.monotonic() > ends:
                    break
                self._phase(lie)
        self._settle()

    def _phase(self, lie: Lie) -> None:
        row, before = self._rows[lie.name], self.proxy.answered[lie.name]
        faults = len(self._faults)
        row.phases += 1
        self.proxy.mode = lie.name
        began = time.monotonic()
        accident = self._accident()
        row.accidents[accident] += 1
        deadline = TOLD_SECONDS + lie.seconds
        for who, said in self._sayers().items():
            if self._is_told(f"{lie.name}, {accident}", who, said, lie.says, deadline):
                row.told_seconds[who].append(time.monotonic() - began)
        full = accident.partition("'")[0] if accident.endswith("disk full") else None
        ballast = None if full is None else self._fill(full, lie)
        self._check_status(lie, accident)
        self._never_more(lie.name)
        self.proxy.mode = PASS
        if ballast is not None:
            said = f"{lie.name}, {accident}: the spool does not empty on a full disk"
            if not self._until(WELL_SECONDS, lambda: self._is_empty(full), said):
                self._fault(f"{said}: {self._all_said()}")
            ballast.unlink()
        mended = time.monotonic()
        if self._until(WELL_SECONDS, self._is_well, "all to be well"):
            row.well_seconds.append(time.monotonic() - mended)
            done = self.agent.run("status")
            if done.returncode and self._is_well():
                self._fault(f"{lie.name}: status ends with {done.returncode}:\n{done.stdout}")
        else:
            self._fault(f"{lie.name}, {accident}: {WELL_SECONDS:g} s after: {self._all_said()}")
        if self._dice.random() < 0.3:
            self._restarts += self.source.renew(self.agent.state)
        row.requests += self.proxy.answered[lie.name] - before
        row.faults += len(self._faults) - faults
        at_seconds = time.monotonic() - self._began_seconds
        verdict = "well" if len(self._faults) == faults else "WRONG"
        console.print(f"{at_seconds:6.0f} s  {lie.name}, {accident}: {verdict}", highlight=False)

    def _is_told(
        self, where: str, who: str, said: Callable[[], str], pattern: str, seconds: float
    ) -> bool:
        is_told = self._until(
            seconds, lambda: re.search(pattern, said()) is not None, f"{who} to say {pattern!r}"
        )
        if not is_told:
            self._fault(f"{where}: {who} said {said()!r}, not {pattern!r}")
        return is_told

    def _fill(self, name: str, lie: Lie) -> Path:
        """Fill the disk under a spool that holds something; it is to be told."""
        ballast = fill(self._disks[name])
        if self._dice.random() < 0.5:
            self._kill_agent() if name == "agent" else self._kill_client()
        said = self._agent_says_of_disk if name == "agent" else lambda: self._client_says("refused")
        taken = self._taken(name)
        self._until(FULL_SECONDS, lambda: "full" in said(), f"{name}'s disk to be told")
        if "full" not in said() and self._taken(name) == taken:
            self._fault(f"{lie.name}: {name} takes nothing on a full disk, and says {said()!r}")
        return ballast

    def _taken(self, name: str) -> int:
        """Return how much a sender took so far: its spool's files may have room of their own."""
        return len(queued(self.notes)[0] if name == "client" else self.panel.taken)

    def _is_empty(self, name: str | None) -> bool:
        if name == "client":
            items = self._client_says("items") or "0"  # one or two were queued just now
            return not self._client_says("problem") and int(items) <= FEW_ITEMS
        signs = heartbeat_of(self.agent.state)
        return signs is not None and all(signs.lanes.get(each, "") is None for each in LANES)

    def _accident(self) -> str:
        chosen = self._dice.choice(self.accidents)
        if chosen in {"agent killed", "both killed"}:
            self._kill_agent()
        if chosen in {"client killed", "both killed"}:
            self._kill_client()
        if chosen == "collector killed":
            self.collector.kill()
            self.collector.start()
        return chosen

    def _kill_agent(self) -> None:
        self.agent.kill()
        done = self.agent.run("status")
        if "No agent runs" not in done.stdout or done.returncode != 1:
            self._fault(f"an agent that was killed is not told: {done.stdout}{done.stderr}")
        self.agent.start()

    def _kill_client(self) -> None:
        assert self._client is not None
        self._client.kill()
        self._client.wait()
        self._start_client()

    def _start_client(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self._folder / "client.log").open("ab") as log:
            self._client = subprocess.Popen(  # noqa: S603 - this project's program
                self._client_command, env=environment, stdout=log, stderr=log
            )

    def _sayers(self) -> dict[str, Callable[[], str]]:
        """Return who is to say what is wrong, and how it is heard."""
        sayers: dict[str, Callable[[], str]] = {}
        for lane in LANES:
            sayers[f"agent {lane}"] = lambda lane=lane: self._agent_says(lane)  # type: ignore[misc]
        sayers["client"] = lambda: self._client_says("problem")
        return sayers

    def _agent_says(self, lane: str) -> str:
        signs = heartbeat_of(self.agent.state)
        return "" if signs is None or signs.has_ended else signs.lanes.get(lane) or ""

    def _agent_says_of_disk(self) -> str:
        signs = heartbeat_of(self.agent.state)
        if signs is None or signs.has_ended:
            return ""
        return f"{signs.sources.get('counted') or ''} {signs.relay or ''}"

    def _client_says(self, what: str) -> str:
        try:
            return str(json.loads(self._standing.read_text())[what] or "")
        except (OSError, ValueError):
            return ""

    def _all_said(self) -> str:
        signs = heartbeat_of(self.agent.state)
        return f"agent {signs}, client {self._client_says('problem')!r}"

    def _check_status(self, lie: Lie, accident: str) -> None:
        was_full = "full" in self._agent_says_of_disk()
        done = self.agent.run("status")
        is_told = re.search(lie.says, done.stdout) is not None
        if was_full and "full" in self._agent_says_of_disk():
            is_told = is_told and "full" in done.stdout
        if not is_told or done.returncode != 1:
            self._fault(f"{lie.name}, {accident}: status: {done.stdout}{done.stderr}")

    def _is_well(self) -> bool:
        signs = heartbeat_of(self.agent.state)
        if signs is None or signs.has_ended or signs.relay is not None:
            return False
        tried = {*signs.lanes, *signs.sources} >= {*LANES, "counted"}
        is_well = tried and not any([*signs.lanes.values(), *signs.sources.values()])
        return is_well and not self._client_says("problem") and not self._client_says("refused")

    def _until(self, seconds: float, is_so: Callable[[], bool], what: str) -> bool:
        deadline = time.monotonic() + seconds
        while not is_so():
            self.agent.is_running()
            if self._client is not None and self._client.poll() is not None:
                said = (self._folder / "client.log").read_text()[-2000:]
                self._fault(f"the client ended by itself, waiting for {what}: {said}")
                self._start_client()
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _fault(self, text: str) -> None:
        self._faults.append(text)
        console.print(f"FAULT {text}", markup=False, highlight=False)

    def _ledger(self) -> dict[str, int]:
        address = f"file:{self.collector.ledger}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as db:
            rows = db.execute("SELECT username, upload_bytes + download_bytes FROM user_total")
            return dict(rows.fetchall())

    def _bounds(self) -> Bounds:
        sure, unsure, _ = queued(self.notes)
        least = {**self.source.used(), **dict(self.panel.taken), **sure}
        return Bounds(least, {**unsure, **dict(self.panel.unsure), **least})

    def _never_more(self, when: str) -> None:
        found = self._ledger()
        if more := more_than_counted(found, self._bounds()):
            self._fault(f"{when}: more than was counted: {'; '.join(more[:5])}")

    def _balance(self) -> list[str]:
        return not_balanced(self._ledger(), self._bounds())

    def _settle(self) -> None:
        self._stop.set()
        self.source.join(10)
        self.panel.join(10)
        self.source.settle()
        assert self._client is not None
        self._client.kill()
        self._client.wait()
        spool = str(self._folder / "client" / "spool.sqlite3")
        drained = self._drain(spool)
        self._client = None
        self._until(QUIET_SECONDS, lambda: not self._balance(), "the books to balance")
        wrong = self._balance()
        if drained or wrong:
            left = self.agent.run("status").stdout
            self._fault(f"{len(wrong)} users do not balance: {wrong[:8]}; {drained} left; {left}")
        letters = self.agent.run("dead-letters").stdout
        if "relay:panel" in letters or "reports" in letters:
            self._fault(f"set aside: {letters[:500]}")

    def _drain(self, spool: str) -> int:
        """Send what the killed client left; return what could not be."""
        from collector.client import Client  # noqa: PLC0415 - the last of its processes

        with Client(f"http://127.0.0.1:{self.proxy.port}", key=KEY, spool=spool) as client:
            return client.flush(timeout_seconds=QUIET_SECONDS).items + len(client.dead_letters())

    def show(self) -> int:
        """Print what was found; return the exit code."""
        console.print(table_of(self._rows))
        sure, unsure, refused = queued(self.notes)
        console.print(
            f"{sum(self.source.used().values())} bytes counted by the source through "
            f"{self._restarts} restarts; {len(self.panel.taken)} posts the relay answered for, "
            f"{len(self.panel.unsure)} without an answer, {len(self.panel.refused)} refused; "
            f"{len(sure)} reports queued by the client, {len(unsure)} killed amid it, "
            f"{len(refused)} refused",
            highlight=False,
        )
        for each in self._faults:
            console.print(f"FAULT {each}", markup=False, highlight=False)
        console.print(
            "balanced" if not self._faults else f"NOT AS IT SHOULD BE: {len(self._faults)}"
        )
        return int(bool(self._faults))

    def close(self) -> None:
        """End all programs."""
        self._stop.set()
        if self._client is not None:
            self._client.kill()
            self._client.wait()
        self.agent.kill()
        self.collector.kill()
        self.proxy.close()


if __name__ == "__main__":
    sys.exit(main())
