"""`command`: any program that prints cumulative counters as JSON.

    {"started": "optional, differs after a restart, and only then",
     "counters": [{"user": "alice", "upload_bytes": 1, "download_bytes": 2}]}

or the list alone. If a user has several counters, each has another `counter`.
"""

from __future__ import annotations

import json

from collector.agent.errors import SourceError
from collector.agent.requests import CommandRequest, Parse, SourceRequest
from collector.agent.state.counters import Life, Sample, Tally
from collector.runtime.config.tables import Table

_AMOUNTS = {"upload_bytes", "download_bytes"}


def build(table: Table) -> tuple[SourceRequest, Parse]:
    """Return how to run the command."""
    return CommandRequest(table.words("command")), parse


def parse(body: bytes) -> Sample:
    """Decode the command's output."""
    try:
        printed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError("its output is not JSON") from error
    started = None
    if isinstance(printed, dict):
        started = printed.get("started")
        printed = printed.get("counters")
    if not isinstance(printed, list):
        raise SourceError('its output is not a list of counters, nor an object with "counters"')
    tally = Tally()
    for each in printed:
        user = each.get("user") if isinstance(each, dict) else None
        if not isinstance(user, str) or not _AMOUNTS & each.keys():
            tally.skipped += 1
            continue
        name = each.get("counter")
        tally.add(
            user,
            upload=each.get("upload_bytes", 0),
            download=each.get("download_bytes", 0),
            name=f"{user}\x1f{name}" if isinstance(name, str | int) else "",
        )
    return tally.sample(Life(started=None if started is None else str(started)))
