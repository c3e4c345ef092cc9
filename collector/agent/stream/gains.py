"""Computes the traffic of a page of a stream's messages; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from collector.agent.config.settings import Source
from collector.agent.errors import SourceError
from collector.agent.polling import Gain, Unreadable
from collector.agent.requests import ReadStream
from collector.agent.sources.remnawave import Usage, report_id, usages
from collector.agent.state.counters import Life
from collector.agent.state.deltas import Advance, Known
from collector.agent.stream.messages import Message
from collector.client.errors import ReportError
from collector.client.report import Report


@dataclass(frozen=True, slots=True)
class Page:
    """Messages that follow a position, and the position after them."""

    messages: Sequence[Message]
    position: str
    is_first: bool
    has_gap: bool = False
    """The message read last was trimmed: unread ones may be, too."""
    is_anew: bool = False
    """The stream was replaced: nothing of this page is queued, the stream's start is next."""
    first_id: str | None = None
    """The stream's oldest id; records of messages before it can be deleted."""


def joined(one: Gain, other: Gain) -> Gain:
    """Return the sum of two pages, the later one second."""
    restarts = one.advance.restarts + other.advance.restarts
    names = dict.fromkeys(one.unmapped_names + other.unmapped_names)
    return Gain(
        one.reports + other.reports,
        tuple(names),
        Advance((), other.advance.known, restarts),
        one.is_first,
        skipped=one.skipped + other.skipped,
        is_anew=one.is_anew or other.is_anew,
        set_aside=one.set_aside + other.set_aside,
    )


def note_of(page: Page) -> str | None:
    """Return what the operator should know of a page; None if nothing."""
    if page.is_anew:
        return "the stream was replaced, or restored: it was read from its start"
    if page.has_gap:
        return "the stream has a gap: unread messages were trimmed"
    return None


def gain_of(source: Source, request: ReadStream, page: Page, *, now: datetime) -> Gain:
    """Return the reports of a page, the names that match no user, and undecodable messages."""
    reports: list[Report] = []
    unmapped: dict[str, None] = {}
    set_aside: list[Unreadable] = []
    skipped = 0
    for message in page.messages:
        try:
            found, odd = usages(message.name, _text_of(message), now=now)
        except SourceError as error:
            set_aside.append(Unreadable(message.message_id, str(error)))
            continue
        skipped += odd
        for usage in found:
            try:
                reports.append(_report(source, request, usage))
            except ReportError:  # the name matches no user, or is one that no collector accepts
                unmapped[usage.user] = None
    step = Advance((), Known({}, Life()), int(page.has_gap or page.is_anew))
    return Gain(
        tuple(reports),
        tuple(unmapped),
        step,
        page.is_first,
        skipped=skipped,
        is_anew=page.is_anew,
        set_aside=tuple(set_aside),
    )


def _text_of(message: Message) -> dict[str, str]:
    """Return a message's fields as texts; SourceError if one is not UTF-8."""
    try:
        return {name.decode(): value.decode() for name, value in message.fields.items()}
    except UnicodeDecodeError:
        raise SourceError("it is not UTF-8") from None


def _report(source: Source, request: ReadStream, usage: Usage) -> Report:
    return Report(
        user=source.users.username(usage.user) or "",
        server=request.nodes.get(usage.node, f"{source.server}-{usage.node}"),
        port=source.port,
        protocol=source.protocol,
        upload_bytes=0,
        download_bytes=usage.amount_bytes,
        reported_at=usage.used_at,
        report_id=report_id(usage),
    )
