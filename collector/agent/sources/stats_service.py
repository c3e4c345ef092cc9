"""The gRPC StatsService of Xray, and the same under V2Ray's name in sing-box.

sing-box has it only when built with `with_v2ray_api`, and counts only the users that its
configuration lists. The uptime is requested before and after the counters, to notice a restart in
between.
"""

from __future__ import annotations

from collector.agent.errors import SourceError
from collector.agent.requests import GrpcCalls, Parse, SourceRequest
from collector.agent.sources.protobuf import fields, text_field, unframed
from collector.agent.sources.xray import add_stat
from collector.agent.state.counters import Life, Sample, Tally
from collector.runtime.config.tables import Table
from collector.runtime.config.values import ADDRESS, line

XRAY = "xray.app.stats.command.StatsService"
SING_BOX = "v2ray.core.app.stats.command.StatsService"
_PATTERN, _PATTERNS = 1, 3
_UPTIME = 10


def build_xray(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the calls to Xray's API inbound."""
    return _build(table, "127.0.0.1:10085", XRAY, text_field(_PATTERN, "user>>>"))


def build_singbox(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the calls to sing-box's V2Ray API."""
    return _build(table, "127.0.0.1:8080", SING_BOX, text_field(_PATTERNS, "user>>>"))


def _build(table: Table, address: str, service: str, query: bytes) -> tuple[SourceRequest, Parse]:
    host, port = table.get("address", ADDRESS, ADDRESS.of_text(address))
    service = table.get("service", line(255), service)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    calls = (("GetSysStats", b""), ("QueryStats", query), ("GetSysStats", b""))
    return GrpcCalls(url, service, calls), parse


def parse(body: bytes) -> Sample:
    """Decode the three answers."""
    messages = unframed(body)
    if len(messages) != 3:
        raise SourceError("it did not answer all of the calls")
    before, stats, after = messages
    if (_uptime(after) or 0) < (_uptime(before) or 0):
        raise SourceError("it was restarted during the poll")
    tally = Tally()
    for number, stat in fields(stats):
        if number == 1 and isinstance(stat, bytes):
            named = dict(fields(stat))
            name = named.get(1, b"")
            if isinstance(name, bytes):
                add_stat(tally, name.decode(errors="replace"), named.get(2, 0))
    uptime_seconds = _uptime(before)
    life = Life(ticks=uptime_seconds, uptime_seconds=uptime_seconds)
    return tally.sample(life, is_of_one_process=True)


def _uptime(message: bytes) -> int | None:
    """Return the uptime in seconds; None if the answer lacks it.

    An uptime of zero is not encoded, so in its first second the answer lacks it. A missing uptime
    is therefore no proof of a restart.
    """
    value = dict(fields(message)).get(_UPTIME)
    return value if isinstance(value, int) else None
