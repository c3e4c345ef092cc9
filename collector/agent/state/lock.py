"""One agent per state file, and the signs of life it gives in the file that says so.

The signs are written over those before, in room that was taken when the file was made: an agent on
a full disk still says what is wrong.
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

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 60.0
"""An agent that gave no sign of life for so long hangs."""
SIGN_BYTES = 16_384
LONGEST_TEXT = 300
RUN, ONCE = "run", "once"


@dataclass(frozen=True, slots=True)
class Signs:
    """What an agent said of itself last.

    `lanes` and `sources` name those that were tried, with the problem of each or None. `relay` is
    why the relay refuses posts; None while it takes them.
    """

    pid: int
    purpose: str
    has_ended: bool
    seen_at: datetime
    lanes: Mapping[str, str | None] = field(default_factory=dict)
    sources: Mapping[str, str | None] = field(default_factory=dict)
    relay: str | None = None

    def hangs(self, now: datetime) -> bool:
        """Tell whether it runs, and gives no sign of it any more."""
        return not self.has_ended and (now - self.seen_at).total_seconds() > DEAD_AFTER_SECONDS


class StateLock:
    """The right to read sources into a state file; it ends with the process, however it ends."""

    def __init__(self, taken: FileLock, purpose: str) -> None:
        self._lock = taken
        self._purpose = purpose
        self.give_sign(lanes={}, sources={}, relay=None)

    def give_sign(
        self,
        *,
        lanes: Mapping[str, str | None],
        sources: Mapping[str, str | None],
        relay: str | None,
    ) -> None:
        """Say that the agent lives, and what is wrong."""
        signs = {
            "purpose": self._purpose,
            "process": this_process(),
            "lanes": _cut(lanes),
            "sources": _cut(sources),
            "relay": relay and relay[:LONGEST_TEXT],
        }
        text = json.dumps(signs)
        if len(text) > SIGN_BYTES - 64:  # more sources than anybody has
            text = json.dumps(signs | {"sources": {}})
        written = f"{os.getpid()}\n{text}".ljust(SIGN_BYTES).encode()
        with contextlib.suppress(OSError):  # the first ones, on a full disk: it works without
            os.pwrite(self._lock.descriptor, written[:SIGN_BYTES], 0)

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
    """Take the right to read sources into a state file; AgentError names the process that has it.

    The right ends with the process, however it ends.
    """
    taken = file_lock.take(
        state,
        name="state",
        program="agent",
        reason="one agent reads into a state",
        error=AgentError,
    )
    return StateLock(taken, purpose)


def signs_of(state: Path) -> Signs | None:
    """Return the last signs of life of who had a state file; None where there are none.

    An agent of an older version gives none.
    """
    for _ in range(3):
        try:
            written, seen_seconds = _read(file_lock.path_of(state))
        except OSError:
            return None
        pid, _, text = written.partition("\n")
        try:
            return _signs(int(pid), json.loads(text), seen_seconds)
        except (ValueError, KeyError, TypeError):
            time.sleep(0.01)  # it was being written just then
    return None


def _read(path: Path) -> tuple[str, float]:
    return path.read_bytes()[:SIGN_BYTES].decode(errors="replace"), path.stat().st_mtime


def _signs(pid: int, told: dict[str, Any], seen_seconds: float) -> Signs:
    return Signs(
        pid=pid,
        purpose=told["purpose"],
        has_ended=has_ended(told["process"]),
        seen_at=datetime.fromtimestamp(seen_seconds, UTC),
        lanes=dict(told["lanes"]),
        sources=dict(told["sources"]),
        relay=told["relay"],
    )


def _cut(problems: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: problem and problem[:LONGEST_TEXT] for name, problem in problems.items()}
