"""What the command line shows: a dry run, the status, dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.agent.config.settings import Source
from collector.agent.polling import Gain
from collector.agent.requests import ReadStream
from collector.agent.sources.kinds import KINDS
from collector.agent.state.relay_posts import RouteStatus
from collector.agent.state.state import SourceStatus
from collector.agent.status import AgentStatus
from collector.client.outbox import Backlog, DeadLetter
from collector.runtime.logs import printable

MOST_SHOWN = 5
MOST_LISTED = 1000
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show_gains(
    console: Console,
    polled: Sequence[tuple[Source, Gain | str]],
    problems: Mapping[str, str | None],
) -> None:
    """Show the traffic that each source would add now, and which keys are valid."""
    table = Table(title="What would be sent", title_justify="left")
    for column in ("source", "user", "server", "port", "protocol"):
        table.add_column(column)
    table.add_column("up", justify="right")
    table.add_column("down", justify="right")
    for source, brought in polled:
        for each in () if isinstance(brought, str) else brought.reports:
            table.add_row(
                _text(source.name),
                _text(each.user or ""),
                _text(each.server),
                str(each.port or ""),
                _text(each.protocol),
                size(each.upload_bytes),
                size(each.download_bytes),
            )
    console.print(table)
    for source, brought in polled:
        console.print(_text(f"{source.name}: {_summary(source, brought)}"), soft_wrap=True)
        if not isinstance(brought, str):
            names = brought.unmapped_names
            _show_unmapped(console, source.name, names[:MOST_LISTED], count=len(names))
    for whose, problem in problems.items():
        said = "accepts it" if problem is None else problem
        console.print(_text(f"{whose}: the collector {said}"), soft_wrap=True)
    console.print("Nothing was sent, and nothing was changed.")


def _summary(source: Source, brought: Gain | str) -> str:
    if isinstance(brought, str):
        return brought
    parts = [f"{len(brought.reports)} reports"]
    if not isinstance(source.request, ReadStream):
        parts.insert(0, _counters(source, brought))
    if brought.is_first and not source.count_first:
        parts.append(f"never read before: these values would be the baseline{_of(brought)}")
    if brought.advance.restarts and not brought.is_anew:
        parts.append("its counters began at zero")
    if brought.unmapped_names:
        parts.append(f"{len(brought.unmapped_names)} names match no user (below)")
    if brought.skipped:
        parts.append(f"{brought.skipped} rows could not be parsed")
    if brought.advance.fallen:
        parts.append(f"{len(brought.advance.fallen)} counters are lower than before")
    if brought.set_aside:
        parts.append(f"{len(brought.set_aside)} messages cannot be decoded")
    if brought.is_anew:
        parts.append("the stream was replaced, or restored: it would be read from its start")
    return "; ".join(parts)


def _counters(source: Source, brought: Gain) -> str:
    count = len(brought.advance.known.baselines)
    if_empty = KINDS[source.kind].if_empty
    return f"{count} counters" + (f": {if_empty}" if not count and if_empty else "")


def _of(brought: Gain) -> str:
    """Name the users of the counters, or the first of them."""
    names = brought.usernames
    if not names:
        return ""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f", for {', '.join(names[:MOST_SHOWN])}{more}"


def show_status(
    console: Console,
    found: AgentStatus,
    *,
    backlog: Backlog,
    now: datetime,
    if_empty: Mapping[str, str],
) -> None:
    """Show whether the agent runs, the backlog, and the status of each source and route.

    `if_empty` has, by source, why it may show no counters.
    """
    if found.process is not None:
        console.print(_text(found.process), soft_wrap=True)
    waiting = f"{backlog.items} items are queued, {size(backlog.size_bytes)}"
    if backlog.oldest_at is not None:
        waiting += f", the oldest for {age(backlog.oldest_at, now)}"
    console.print(f"{waiting}.", highlight=False)
    if backlog.set_aside_total:
        console.print(
            f"{backlog.set_aside_total} were refused (dead letters), "
            f"{size(backlog.set_aside_bytes)} of them are kept: traffic-agent dead-letters",
            highlight=False,
        )
    for lane, problem in found.lanes.items():
        console.print(_text(f"{lane}: not delivered: the collector {problem}"), soft_wrap=True)
    if found.relay is not None:
        console.print(_text(f"relay: {found.relay}"), soft_wrap=True)
    if found.refused is not None:
        console.print(_text(f"relay: {found.refused}"), soft_wrap=True)
    if found.statuses or not found.routes:
        _show_sources(console, found.statuses, now=now, if_empty=if_empty)
    for each in found.statuses:
        _show_unmapped(console, each.name, each.unmapped_names, count=each.unmapped)
    if found.routes:
        _show_routes(console, found.routes, now)


def _show_sources(
    console: Console,
    statuses: Sequence[SourceStatus],
    *,
    now: datetime,
    if_empty: Mapping[str, str],
) -> None:
    table = Table(title="Sources", title_justify="left")
    for column in ("source", "last read", "counters", "reports", "restarts", "state"):
        table.add_column(column)
    for each in statuses:
        table.add_row(
            _text(each.name),
            "never" if each.read_at is None else f"{age(each.read_at, now)} ago",
            str(each.counters),
            str(each.reports_total),
            str(each.restarts_total),
            _text(_state(each, if_empty.get(each.name, ""))),
        )
    console.print(table)


def _show_unmapped(console: Console, source: str, names: Sequence[str], *, count: int) -> None:
    """Show names that match no user, each whole and on its own line, to be copied."""
    if not names:
        return
    console.print(_text(f"{source}: names that match no user, whose traffic is not counted:"))
    for name in names:
        console.print(_text(f"  {name}"), soft_wrap=True)
    if count > len(names):
        console.print(f"  and {count - len(names)} more: traffic-agent run --dry-run lists them")


def _show_routes(console: Console, routes: Sequence[RouteStatus], now: datetime) -> None:
    table = Table(title="Relay routes", title_justify="left")
    for column in ("route", "last post", "posts", "taken for retries"):
        table.add_column(column)
    for each in routes:
        table.add_row(
            _text(each.name),
            "never" if each.last_post_at is None else f"{age(each.last_post_at, now)} ago",
            str(each.posts),
            str(each.repeated),
        )
    console.print(table)


def _state(status: SourceStatus, if_empty: str) -> str:
    parts = [status.problem or "works"]
    if not status.counters and status.read_at is not None and not status.problem and if_empty:
        parts.append(f"it shows no counters: {if_empty}")
    if status.unmapped:
        parts.append(f"{status.unmapped} names match no user (below)")
    if status.skipped:
        parts.append(f"{status.skipped} rows could not be parsed")
    if status.set_aside_total:
        parts.append(
            f"{status.set_aside_total} messages could not be decoded, so not counted; the last: "
            f"{status.set_aside_last}"
        )
    if status.note is not None and status.noted_at is not None:
        parts.append(f"{status.noted_at:%Y-%m-%d %H:%M} UTC: {status.note}")
    if status.fallen:
        names = ", ".join(each.replace("\x1f", " ") for each in status.fallen_names[:MOST_SHOWN])
        parts.append(
            f"{status.fallen} counters are lower than before though it was not restarted, they "
            f"count again above their highest value: {names}"
        )
    return "; ".join(parts)


def show_dead_letters(console: Console, letters: Sequence[DeadLetter]) -> None:
    """Show the dead letters, newest first."""
    table = Table(title="Dead letters", title_justify="left")
    for column in ("when (UTC)", "lane", "reason", "what"):
        table.add_column(column)
    for each in letters:
        # The relay stores a compressed post after one line that describes it.
        what = each.body.partition(b"\n")[0][:200].decode(errors="replace")
        table.add_row(
            f"{each.set_aside_at.astimezone(UTC):%Y-%m-%d %H:%M}",
            _text(each.lane),
            _text(each.reason),
            _text(what),
        )
    console.print(table)


def size(amount_bytes: int) -> str:
    """Return an amount of bytes with a readable unit."""
    amount, unit = float(amount_bytes), UNITS[0]
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == UNITS[0] else f"{amount:.1f} {unit}"


def age(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, with a readable unit."""
    seconds = max(0, int((now - moment).total_seconds()))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _text(text: str) -> Text:
    return Text(printable(text))


def status_object(found: AgentStatus, backlog: Backlog) -> dict[str, object]:
    """Return the status of an agent."""
    return {
        "is_wrong": found.is_wrong,
        "is_running": found.is_running,
        "queued_items": backlog.items,
        "queued_bytes": backlog.size_bytes,
        "oldest_queued_at": backlog.oldest_at,
        "dead_letters_total": backlog.set_aside_total,
        "lane_problems": dict(found.lanes),
        "relay_problem": found.relay,
        "relay_wrong_secrets": found.refused,
        "sources": [asdict(each) for each in found.statuses],
        "routes": [asdict(each) for each in found.routes],
    }


def letter_object(letter: DeadLetter) -> dict[str, object]:
    """Return a dead letter; `what` is its first line, which describes a relayed post."""
    return {
        "set_aside_at": letter.set_aside_at,
        "lane": letter.lane,
        "reason": letter.reason,
        "what": letter.body.partition(b"\n")[0].decode(errors="replace"),
    }
