"""One look at a source: what it brings is queued in the transaction that moves its baselines."""

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
    """A message of a stream that cannot be read, and why."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gain:
    """What a sample brings."""

    reports: tuple[Report, ...]
    unmapped_names: tuple[str, ...]
    advance: Advance
    is_first: bool
    usernames: tuple[str, ...] = ()
    """Whose counters there are."""
    skipped: int = 0
    """Rows that made no sense."""
    is_anew: bool = False
    """It is another stream than before."""
    set_aside: tuple[Unreadable, ...] = ()
    """Messages that were passed over."""


def gain(source: Source, state: State, sample: Sample) -> Gain:
    """Work out what a sample would bring, and change nothing."""
    with state.spool.reading() as db:
        known = state.known(db, source.name, source.fingerprint)
    step = advance(known, sample, count_first=source.count_first)
    return _gain(source, step, sample, is_first=known is None)


def absorb(source: Source, state: State, sample: Sample) -> Gain:
    """Queue what a sample brings and move the baselines, both on disk or neither.

    Raises SourceError for a sample that cannot be compared with the one before, and
    SpoolFullError: then the source goes on counting, and the next look brings it all.
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
    """Return reports as they are queued, under their ids: the same for each attempt to send one."""
    return [(each.report_id, encode(each, report_id=each.report_id)) for each in reports]


def _gain(source: Source, step: Advance, sample: Sample, *, is_first: bool) -> Gain:
    everybody = dict.fromkeys(each.user for each in sample.counters)
    usernames = {each: source.users.username(each) for each in everybody}
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
        except ReportError:  # no user's, or a name no collector takes
            usernames[delta.counter.user] = None
        else:
            reports.append(report)
    unmapped = tuple(name for name, username in usernames.items() if username is None)
    known = tuple(dict.fromkeys(filter(None, usernames.values())))
    return Gain(tuple(reports), unmapped, step, is_first, known, sample.skipped)
