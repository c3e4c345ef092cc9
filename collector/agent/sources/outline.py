"""Outline: `shadowsocks_data_bytes` on the metrics page of its Shadowsocks server.

`/metrics/transfer` of the management API is not a counter but a sliding window of 30 days, so its
differences are not traffic. A user's name is the id of the access key.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from collector.agent.errors import SourceError
from collector.agent.requests import HttpGet, Parse, SourceRequest
from collector.agent.state.counters import Life, Sample, Tally
from collector.runtime.config.tables import Table
from collector.runtime.config.values import EXACT_URL

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?"
)
_LABEL = re.compile(r'(?P<name>[a-zA-Z_]\w*)="(?P<value>(?:[^"\\]|\\.)*)"')
_UP, _DOWN = "c>p", "c<p"
"""Traffic between client and proxy; that between proxy and target is the same bytes again."""


def build(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the request for the metrics page."""
    url = table.get("url", EXACT_URL, "http://127.0.0.1:9092/metrics")
    if urlsplit(url).path.rstrip("/").endswith("/metrics/transfer"):
        raise table.error(
            "url",
            "/metrics/transfer is a sliding window of 30 days, not a counter; give the metrics "
            "page of the Shadowsocks server, such as http://127.0.0.1:9092/metrics",
        )
    return HttpGet(url), parse


def parse(body: bytes) -> Sample:
    """Decode a page in Prometheus's text format; traffic without an access key is skipped."""
    tally = Tally()
    is_outline = False
    started = None
    for line in body.decode(errors="replace").splitlines():
        is_outline = is_outline or "shadowsocks_" in line
        found = None if line.startswith("#") else _SAMPLE.fullmatch(line.strip())
        if found is None:
            continue
        if found["name"] == "process_start_time_seconds":
            started = found["value"]
        elif found["name"] == "shadowsocks_data_bytes":
            _add(tally, found["labels"] or "", found["value"])
    if not is_outline:
        raise SourceError("there is no shadowsocks_data_bytes: is this Outline's metrics page?")
    return tally.sample(Life(started=started))


def _add(tally: Tally, labels: str, text: str) -> None:
    named = {each["name"]: _unescaped(each["value"]) for each in _LABEL.finditer(labels)}
    user, direction = named.get("access_key", ""), named.get("dir", "")
    if not user or direction not in {_UP, _DOWN}:
        return
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if direction == _UP:
        tally.add(user, upload=value)
    else:
        tally.add(user, download=value)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
