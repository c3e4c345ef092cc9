"""One poll of a source: queues the traffic in the transaction that updates the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from collector.agent.config.settings import Source
from collector.agent.state.counters import Sample
from collector.agent.state.deltas import Advance, advance
from collector.agent.state.state import Seen, State
from collector.client.errors import ReportError
from collector.client.report import Report, encode
from collector.client.spool.spool import REPORTS


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message of a stream that cannot be decoded, and why."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gain:
    """The traffic that a sample adds, and what was notable about it."""

    reports: tuple[Report, ...]
    unmapped_names: tuple[str, ...]
    advance: Advance
    is_first: bool
    usernames: tuple[str, ...] = ()
    """The users that the sample's counters belong to."""
    skipped: int = 0
    """Rows that could not be parsed."""
    is_anew: bool = False
    """The stream was replaced by another one."""
    set_aside: tuple[Unreadable, ...] = ()
    """Messages that were skipped, since they cannot be decoded."""


def gain(source: Source, state: State, sample: Sample) -> Gain:
    """Compute the traffic that a sample would add; change nothing."""
    with state.spool.reading() as db:
        known = state.known(db, source.name, source.fingerprint)
    step = advance(known, sample, count_first=source.count_first)
    return _gain(source, step, sample, is_first=known is None)


def absorb(source: Source, state: State, sample: Sample) -> Gain:
    """Queue a sample's traffic and update the baselines, in one transaction.

    Raises SourceError for a sample that cannot be compared with the previous one, and
    SpoolFullError. Then the baselines stay, and the next poll queues all of the traffic.
    """
    with state.spool.transaction() as db:
        known = state.known(db, source.name, source.fingerprint)
        step = advance(known, sample, count_first=source.count_first)
        brought = _gain(source, step, sample, is_first=known is None)
        state.spool.put_within(db, REPORTS, queued(brought.reports))
        seen = Seen(
            step.known,
            counters=len(sample.counters),
            skipped=sample.skipped,
            restarts=step.restarts,
            reports=len(brought.reports),
            unmapped_names=brought.unmapped_names,
            fallen_names=step.fallen,
        )
        state.keep(db, source.name, source.fingerprint, known, seen)
    return brought


def queued(reports: Sequence[Report]) -> list[tuple[str, bytes]]:
    """Return reports as items of the spool, with their ids: each attempt sends the same ids."""
    return [(each.report_id, encode(each, report_id=each.report_id)) for each in reports]


def _gain(source: Source, step: Advance, sample: Sample, *, is_first: bool) -> Gain:
    names = dict.fromkeys(each.user for each in sample.counters)
    usernames = {each: source.users.username(each) for each in names}
    reports = []
    for delta in step.deltas:
        try:
            report = Report(
                user=usernames[delta.counter.user] or "",
                server=source.server,
                port=source.port,
                protocol=source.protocol,
                upload_bytes=delta.upload_bytes,
                download_bytes=delta.download_bytes,
            )
        except ReportError:  # the name matches no user, or is one that no collector accepts
            usernames[delta.counter.user] = None
        else:
            reports.append(report)
    unmapped = tuple(name for name, username in usernames.items() if username is None)
    known = tuple(dict.fromkeys(filter(None, usernames.values())))
    return Gain(tuple(reports), unmapped, step, is_first, known, sample.skipped)
