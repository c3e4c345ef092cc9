"""The status of an agent, from what its state says and what it said itself last; pure.

The state is what outlives the agent. What the agent says itself is newer, and true on a full disk
as well, where nothing can be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from collector.agent.state.lock import RUN, Signs
from collector.agent.state.state import SourceStatus


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The status of an agent: what its process does, which lanes and sources have a problem."""

    process: str | None
    """Whether it runs, for people; None where that is not known."""
    is_running: bool
    """False for an agent that was to run on, and ended or hangs."""
    lanes: Mapping[str, str]
    statuses: Sequence[SourceStatus]
    relay: str | None

    @property
    def is_wrong(self) -> bool:
        """Tell whether an operator has something to do."""
        has_problem = bool(self.lanes) or any(each.problem for each in self.statuses)
        return has_problem or not self.is_running or self.relay is not None


def agent_status(
    signs: Signs | None,
    *,
    lanes: Mapping[str, str],
    statuses: Sequence[SourceStatus],
    now: datetime,
) -> AgentStatus:
    """Return the status of an agent, given its last signs of life and what its state says."""
    if signs is None:
        return AgentStatus(None, is_running=True, lanes=lanes, statuses=statuses, relay=None)
    seen = f"{signs.seen_at:%Y-%m-%d %H:%M:%S} UTC"
    if signs.purpose != RUN:
        return AgentStatus(
            f"It was run once, the last time at {seen}." if signs.has_ended else None,
            is_running=True,
            lanes=lanes,
            statuses=statuses,
            relay=None,
        )
    if signs.has_ended or signs.hangs(now):
        said = (
            f"No agent runs: the last one (pid {signs.pid}) was there at {seen}. No source is "
            "read, and nothing is sent."
            if signs.has_ended
            else f"The agent (pid {signs.pid}) hangs, it gave no sign of life since {seen}: "
            "restart it."
        )
        return AgentStatus(said, is_running=False, lanes=lanes, statuses=statuses, relay=None)
    return AgentStatus(
        f"The agent runs (pid {signs.pid}).",
        is_running=True,
        lanes=_with_said(lanes, signs.lanes),
        statuses=_with_problems(statuses, signs.sources),
        relay=signs.relay,
    )


def _with_said(lanes: Mapping[str, str], problems: Mapping[str, str | None]) -> Mapping[str, str]:
    """Return the problems of lanes as the agent says them, or kept ones where it tried none yet."""
    merged = {**lanes, **problems}
    return {name: problem for name, problem in merged.items() if problem is not None}


def _with_problems(
    statuses: Sequence[SourceStatus], problems: Mapping[str, str | None]
) -> Sequence[SourceStatus]:
    """Return statuses with the problems that the agent says itself, newer than theirs."""
    known = {each.name for each in statuses}
    told = [replace(each, problem=problems.get(each.name, each.problem)) for each in statuses]
    unread = [
        SourceStatus(name, None, 0, 0, 0, 0, 0, (), problem)
        for name, problem in problems.items()
        if name not in known and problem is not None
    ]
    return [*told, *unread]
