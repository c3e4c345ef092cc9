"""The lock of a state file, for one agent at a time, and the agent's heartbeat in the lock file.

Each heartbeat overwrites the previous one, in space that was allocated when the file was created,
so that it also works on a full disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from collector.agent.errors import AgentError
from collector.client.sending.process_identity import has_ended, this_process
from collector.runtime import file_lock
from collector.runtime.file_lock import FileLock

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0
"""An agent that has not ended and whose last heartbeat is older than this hangs."""
HEARTBEAT_BYTES = 16_384
LONGEST_TEXT = 300
RUN, ONCE = "run", "once"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last heartbeat of an agent.

    `lanes` and `sources` have those that were tried, with the problem of each or None. `relay` is
    why the relay refuses posts; None if it accepts them.
    """

    pid: int
    purpose: str
    has_ended: bool
    seen_at: datetime
    lanes: Mapping[str, str | None] = field(default_factory=dict)
    sources: Mapping[str, str | None] = field(default_factory=dict)
    relay: str | None = None
    refused: str | None = None
    """A sentence on posts that the relay refused in the last hour for a wrong secret."""

    def hangs(self, now: datetime) -> bool:
        """Tell whether the agent runs, but its heartbeat is too old."""
        return not self.has_ended and (now - self.seen_at).total_seconds() > DEAD_AFTER_SECONDS


class StateLock:
    """The lock of a state file; it is released when the process ends."""

    def __init__(self, taken: FileLock, purpose: str) -> None:
        self._lock = taken
        self._purpose = purpose
        self.write_heartbeat(lanes={}, sources={}, relay=None)

    def write_heartbeat(
        self,
        *,
        lanes: Mapping[str, str | None],
        sources: Mapping[str, str | None],
        relay: str | None,
        refused: str | None = None,
    ) -> None:
        """Write a heartbeat with the present problems."""
        told = {
            "purpose": self._purpose,
            "process": this_process(),
            "lanes": _cut(lanes),
            "sources": _cut(sources),
            "relay": relay and relay[:LONGEST_TEXT],
            "refused": refused and refused[:LONGEST_TEXT],
        }
        text = json.dumps(told)
        if len(text) > HEARTBEAT_BYTES - 64:  # too many sources for the allocated space
            text = json.dumps(told | {"sources": {}})
        written = f"{os.getpid()}\n{text}".ljust(HEARTBEAT_BYTES).encode()
        with contextlib.suppress(OSError):  # the first one may fail on a full disk
            os.pwrite(self._lock.descriptor, written[:HEARTBEAT_BYTES], 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._lock.close()


def lock(state: Path, *, purpose: str = RUN) -> StateLock:
    """Lock a state file; AgentError names the process that has the lock.

    The lock is released when the process ends.
    """
    taken = file_lock.take(
        state,
        name="state",
        program="agent",
        reason="only one agent may use a state file",
        error=AgentError,
    )
    return StateLock(taken, purpose)


def heartbeat_of(state: Path) -> Heartbeat | None:
    """Return the last heartbeat in the lock file of a state file; None if there is none.

    An agent of an older version writes none.
    """
    for _ in range(3):
        try:
            written, seen_seconds = _read(file_lock.path_of(state))
        except OSError:
            return None
        pid, _, text = written.partition("\n")
        try:
            return _heartbeat(int(pid), json.loads(text), seen_seconds)
        except (ValueError, KeyError, TypeError):
            time.sleep(0.01)  # it was read while it was being written
    return None


def _read(path: Path) -> tuple[str, float]:
    return path.read_bytes()[:HEARTBEAT_BYTES].decode(errors="replace"), path.stat().st_mtime


def _heartbeat(pid: int, told: dict[str, Any], seen_seconds: float) -> Heartbeat:
    return Heartbeat(
        pid=pid,
        purpose=told["purpose"],
        has_ended=has_ended(told["process"]),
        seen_at=datetime.fromtimestamp(seen_seconds, UTC),
        lanes=dict(told["lanes"]),
        sources=dict(told["sources"]),
        relay=told["relay"],
        refused=told.get("refused"),
    )


def _cut(problems: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: problem and problem[:LONGEST_TEXT] for name, problem in problems.items()}
