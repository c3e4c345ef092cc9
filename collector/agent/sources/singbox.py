"""sing-box: the statistics of its Shadowsocks manager, `GET /server/v1/stats`, without `clear`."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from collector.agent.errors import SourceError
from collector.agent.requests import HttpGet, Parse, SourceRequest
from collector.agent.sources.xray import read_object
from collector.agent.state.counters import Life, Sample, Tally, amount
from collector.runtime.config.tables import Table
from collector.runtime.config.values import EXACT_URL

_SUMS = (
    "uplinkBytes",
    "downlinkBytes",
    "uplinkPackets",
    "downlinkPackets",
    "tcpSessions",
    "udpSessions",
)
"""The sums over all users, including removed ones."""


def build(table: Table) -> tuple[SourceRequest, Parse]:
    """Return how to ask for the statistics."""
    url = table.get("url", EXACT_URL, "http://127.0.0.1:9000/server/v1/stats")
    if "clear" in parse_qs(urlsplit(url).query, keep_blank_values=True):
        raise table.error(
            "url", "leave out `clear`: it resets the counters, also for other readers"
        )
    return HttpGet(url), parse


def parse(body: bytes) -> Sample:
    """Decode the list of users; the sums over all users show a restart of the process."""
    answer = read_object(body)
    users = answer.get("users")
    if users is None:  # there is no user yet
        users = []
    if not isinstance(users, list):
        raise SourceError('"users" is no list: is this /server/v1/stats of a sing-box?')
    tally = Tally()
    for each in users:
        name = each.get("username") if isinstance(each, dict) else None
        if not isinstance(name, str):
            tally.skipped += 1
            continue
        tally.add(name, upload=each.get("uplinkBytes", 0), download=each.get("downlinkBytes", 0))
    sums = [amount(answer.get(name)) for name in _SUMS]
    known = tuple(each for each in sums if each is not None)
    return tally.sample(Life(sums=known if len(known) == len(sums) else ()))
