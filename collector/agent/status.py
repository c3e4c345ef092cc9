"""The status of an agent, from its state and its last heartbeat; pure.

The state survives the agent. The heartbeat is newer, and is also written on a full disk, where the
state cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from collector.agent.state.lock import RUN, Heartbeat
from collector.agent.state.relay_posts import RouteStatus
from collector.agent.state.state import SourceStatus


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The status of an agent: its process, and the lanes and sources with a problem."""

    process: str | None
    """A sentence on whether it runs; None if that is not known."""
    is_running: bool
    """False if the agent should run, but ended or hangs."""
    lanes: Mapping[str, str]
    statuses: Sequence[SourceStatus]
    relay: str | None
    """Why the relay refuses posts."""
    refused: str | None = None
    """A sentence on posts that the relay refused in the last hour for a wrong secret."""
    routes: Sequence[RouteStatus] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether an operator has to act."""
        has_problem = bool(self.lanes) or any(each.problem for each in self.statuses)
        has_problem = has_problem or self.relay is not None or self.refused is not None
        return has_problem or not self.is_running


def agent_status(
    heartbeat: Heartbeat | None,
    *,
    lanes: Mapping[str, str],
    statuses: Sequence[SourceStatus],
    now: datetime,
    routes: Sequence[RouteStatus] = (),
) -> AgentStatus:
    """Return the status of an agent, from its last heartbeat and its state."""
    found = _status(heartbeat, lanes=lanes, statuses=statuses, now=now)
    return replace(found, routes=routes)


def _status(
    heartbeat: Heartbeat | None,
    *,
    lanes: Mapping[str, str],
    statuses: Sequence[SourceStatus],
    now: datetime,
) -> AgentStatus:
    if heartbeat is None:
        return AgentStatus(None, is_running=True, lanes=lanes, statuses=statuses, relay=None)
    seen = f"{heartbeat.seen_at:%Y-%m-%d %H:%M:%S} UTC"
    if heartbeat.purpose != RUN:
        return AgentStatus(
            f"It was last run with --once, at {seen}." if heartbeat.has_ended else None,
            is_running=True,
            lanes=lanes,
            statuses=statuses,
            relay=None,
        )
    if heartbeat.has_ended or heartbeat.hangs(now):
        said = (
            f"No agent runs: the last heartbeat, of pid {heartbeat.pid}, was at {seen}. No source "
            "is polled, and nothing is sent."
            if heartbeat.has_ended
            else f"The agent (pid {heartbeat.pid}) hangs, its last heartbeat was at {seen}: "
            "restart it."
        )
        return AgentStatus(said, is_running=False, lanes=lanes, statuses=statuses, relay=None)
    return AgentStatus(
        f"The agent runs (pid {heartbeat.pid}).",
        is_running=True,
        lanes=_with_said(lanes, heartbeat.lanes),
        statuses=_with_problems(statuses, heartbeat.sources),
        relay=heartbeat.relay,
        refused=heartbeat.refused,
    )


def _with_said(lanes: Mapping[str, str], problems: Mapping[str, str | None]) -> Mapping[str, str]:
    """Return the problems of lanes from the heartbeat; from the state if not tried yet."""
    merged = {**lanes, **problems}
    return {name: problem for name, problem in merged.items() if problem is not None}


def _with_problems(
    statuses: Sequence[SourceStatus], problems: Mapping[str, str | None]
) -> Sequence[SourceStatus]:
    """Return statuses with the problems of the heartbeat, which are newer."""
    known = {each.name for each in statuses}
    told = [replace(each, problem=problems.get(each.name, each.problem)) for each in statuses]
    unread = [
        SourceStatus(name, None, 0, 0, 0, 0, 0, (), problem)
        for name, problem in problems.items()
        if name not in known and problem is not None
    ]
    return [*told, *unread]
