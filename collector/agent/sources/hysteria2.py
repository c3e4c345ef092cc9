"""Hysteria 2: `GET /traffic` of its traffic statistics API, without `clear`.

`tx` is what the server forwarded for the user (the user's upload); `rx` is the download.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from collector.agent.requests import HttpGet, Parse, SourceRequest
from collector.agent.sources.xray import read_object
from collector.agent.state.counters import Sample, Tally
from collector.runtime.config.tables import Table
from collector.runtime.config.values import EXACT_URL


def build(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the request; the secret is the whole value of `Authorization`."""
    url = table.get("url", EXACT_URL, "http://127.0.0.1:9999/traffic")
    if "clear" in parse_qs(urlsplit(url).query, keep_blank_values=True):
        raise table.error(
            "url", "leave out `clear`: it resets the counters, also for other readers"
        )
    if urlsplit(url).path in {"", "/"}:
        url = url.rstrip("/") + "/traffic"
    secret = table.secret("secret", default=None)
    return HttpGet(url, {} if secret is None else {"authorization": secret}), parse


def parse(body: bytes) -> Sample:
    """Read the answer of `/traffic`."""
    tally = Tally()
    for user, each in read_object(body).items():
        if isinstance(each, dict):
            tally.add(user, upload=each.get("tx", 0), download=each.get("rx", 0))
        else:
            tally.skipped += 1
    return tally.sample(is_of_one_process=True)
