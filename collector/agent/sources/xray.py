"""Xray: its metrics page `/debug/vars`, or the output of `xray api statsquery`.

Both have cumulative bytes by the user's `email`, if `policy` and `stats` are enabled. Nothing is
reset.
"""

from __future__ import annotations

import json
import re
from typing import Any

from collector.agent.errors import SourceError
from collector.agent.requests import (
    SEPARATOR,
    CommandRequest,
    HttpGet,
    Parse,
    SourceRequest,
)
from collector.agent.state.counters import Collections, Life, Sample, Tally, amount
from collector.runtime.config.tables import Table
from collector.runtime.config.values import EXACT_URL

_STAT = re.compile(r"user>>>(?P<user>.+)>>>traffic>>>(?P<direction>uplink|downlink)", re.DOTALL)
DEFAULT_COMMAND = ("xray", "api", "statsquery", "--server=127.0.0.1:10085", "-pattern", "user>>>")


def build_vars(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the request for `/debug/vars`."""
    return HttpGet(table.get("url", EXACT_URL, "http://127.0.0.1:11111/debug/vars")), parse_vars


def build_command(table: Table) -> tuple[SourceRequest, Parse]:
    """Return how to run `xray api statsquery`."""
    words = table.words("command", DEFAULT_COMMAND)
    if any(word.lstrip("-").startswith("reset") for word in words):
        raise table.error(
            "command", "leave out -reset: it resets the counters, also for other readers"
        )
    return CommandRequest(words, _uptime_words(words)), parse_statsquery


def _uptime_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command for the uptime of the same Xray; empty if `words` has no `statsquery`."""
    if "statsquery" not in words:
        return ()
    at = words.index("statsquery")
    asked = []
    rest = iter(words[at + 1 :])
    for word in rest:
        if word.lstrip("-") == "pattern":
            next(rest, None)
        elif not word.lstrip("-").startswith("pattern="):
            asked.append(word)
    return (*words[:at], "statssys", *asked)


def parse_vars(body: bytes) -> Sample:
    """Decode `/debug/vars`; Go's memory statistics in it show a restart of the process."""
    page = read_object(body)
    stats = page.get("stats")
    if not isinstance(stats, dict):
        raise SourceError('there is no "stats" in it: is this the metrics page of an Xray?')
    tally = Tally()
    users = stats.get("user")
    for user, directions in users.items() if isinstance(users, dict) else ():
        if isinstance(directions, dict):
            up, down = directions.get("uplink", 0), directions.get("downlink", 0)
            tally.add(user, upload=up, download=down)
        else:
            tally.skipped += 1
    memory = page.get("memstats")
    allocated = memory.get("TotalAlloc") if isinstance(memory, dict) else None
    life = Life(ticks=amount(allocated), collections=_collections(memory))
    return tally.sample(life, is_of_one_process=True)


def _collections(memory: object) -> Collections | None:
    """Return the garbage collections in Go's memory statistics; None if they are not there."""
    if not isinstance(memory, dict):
        return None
    count, last = amount(memory.get("NumGC")), amount(memory.get("LastGC"))
    if count is None or last is None:
        return None
    ends = memory.get("PauseEnd")
    recent = filter(None, map(amount, ends)) if isinstance(ends, list) else ()
    return Collections(count, last, frozenset(recent))


def parse_statsquery(body: bytes) -> Sample:
    """Decode the output of `xray api statsquery`; values are strings in newer versions.

    The outputs of `xray api statssys` before and after it may surround it. Raises SourceError if
    Xray was restarted in between.
    """
    uptime_seconds = None
    if SEPARATOR in body:
        before, body, after = body.split(SEPARATOR, 2)
        uptime_seconds = _uptime_seconds(before)
        if uptime_seconds is not None and (_uptime_seconds(after) or 0) < uptime_seconds:
            raise SourceError("it was restarted during the poll")
    stats = read_object(body).get("stat", [])
    if not isinstance(stats, list):
        raise SourceError('"stat" is no list')
    tally = Tally()
    for each in stats:
        if not isinstance(each, dict):
            tally.skipped += 1
            continue
        add_stat(tally, each.get("name"), each.get("value", 0))
    life = Life(ticks=uptime_seconds, uptime_seconds=uptime_seconds)
    return tally.sample(life, is_of_one_process=True)


def _uptime_seconds(printed: bytes) -> int | None:
    """Return the uptime in the output of `xray api statssys`; None if the output lacks it.

    Xray leaves out an uptime of zero, so that a missing uptime is no proof of a restart.
    """
    if not printed.strip():
        return None
    system = read_object(printed)
    return amount(system.get("Uptime", system.get("uptime")))


def add_stat(tally: Tally, name: object, value: object) -> None:
    """Add one named counter; counters that are not a user's are skipped."""
    found = _STAT.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        return
    if found["direction"] == "uplink":
        tally.add(found["user"], upload=value)
    else:
        tally.add(found["user"], download=value)


def read_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object; SourceError if the answer is none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError("the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise SourceError("the answer is not a JSON object")
    return answer
