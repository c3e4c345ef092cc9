"""WireGuard and AmneziaWG: the output of `wg show all transfer` and `awg show all transfer`.

A user's name is the peer's public key. What the server received is the user's upload.
"""

from __future__ import annotations

import re

from collector.agent.errors import SourceError
from collector.agent.requests import CommandRequest, Parse, SourceRequest
from collector.agent.state.counters import Sample, Tally
from collector.runtime.config.tables import Table

_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


def build_wireguard(table: Table) -> tuple[SourceRequest, Parse]:
    """Return how to run `wg`."""
    return CommandRequest(table.words("command", ("wg", "show", "all", "transfer"))), parse


def build_amneziawg(table: Table) -> tuple[SourceRequest, Parse]:
    """Return how to run `awg`."""
    return CommandRequest(table.words("command", ("awg", "show", "all", "transfer"))), parse


def parse(body: bytes) -> Sample:
    """Decode lines of (interface,) public key, received bytes, sent bytes."""
    tally = Tally()
    for line in body.decode(errors="replace").splitlines():
        columns = line.split()
        if not columns:
            continue
        if len(columns) not in {3, 4} or not _KEY.fullmatch(columns[-3]):
            raise SourceError(
                'a line is not "interface, public key, received, sent": '
                "the command must be `show all transfer`"
            )
        key, received, sent = columns[-3:]
        tally.add(key, upload=received, download=sent, name=" ".join(columns[:-2]))
    return tally.sample()
