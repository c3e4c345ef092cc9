"""Pushes of nodes of V2board-style panels ("UniProxy"): `{"42": [upload, download], …}`.

They have the bytes per user since the node's last push, before any ratio of the panel. The query
names the node: `node_id` and `node_type`, which is the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from collector.reports.decode import (
    UNFIT,
    BodyTooLargeError,
    UnreadableBodyError,
    parse_json,
    refusal_of,
    whole_numbers,
)
from collector.reports.report import Amount, Refusal, WireReport
from collector.sources import MAX_ROWS, Translated, report_id
from collector.sources.users import Users

KIND = "uniproxy"
DEFAULT_RETRY_WINDOW_SECONDS = 20.0
NODE_PART = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Place(msgspec.Struct, frozen=True):
    """The server, port and protocol of a node."""

    server: str
    port: int = 0


class UniProxy(msgspec.Struct, frozen=True):
    """The configuration of a panel: what its nodes' pushes do not contain."""

    users: Users
    nodes: Mapping[str, Place]
    """By `node_id`, or by `node_type/node_id` if ids are unique per type only."""
    retry_window_seconds: float = DEFAULT_RETRY_WINDOW_SECONDS
    """An identical push of the same node within this time is a retry; 0 counts each push."""


class Node(msgspec.Struct, frozen=True):
    """The node that pushes."""

    type: str
    id: str

    def place(self, panel: UniProxy) -> Place:
        """Return the node's configured place; without an entry, one from the panel's names."""
        named = panel.nodes.get(f"{self.type}/{self.id}") or panel.nodes.get(self.id)
        return named or Place(f"{self.type}-{self.id}")


_DECODER = msgspec.json.Decoder(dict[str, tuple[Amount, Amount]])
_FIELDS = {"[0]": "bytes_uploaded", "[1]": "bytes_downloaded"}


def node_of(query: Mapping[str, str]) -> Node | dict[str, str]:
    """Return the node that the query names, or the parameters at fault."""
    node = Node(query.get("node_type", "").lower(), query.get("node_id", ""))
    faults = {
        name: "is required: 1 to 64 of A-Z a-z 0-9 . _ -"
        for name, value in (("node_type", node.type), ("node_id", node.id))
        if not NODE_PART.fullmatch(value)
    }
    return faults or node


def translate(body: bytes, node: Node, panel: UniProxy, *, message_id: str | None) -> Translated:
    """Translate a push into reports.

    Raises UnreadableBodyError for another payload, BodyTooLargeError for too many users.
    """
    if body.count(b"[") > MAX_ROWS:
        raise BodyTooLargeError(f"a push may have at most {MAX_ROWS} users")
    refusals: list[Refusal] = []
    try:
        rows = list(enumerate(_DECODER.decode(body).items()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        rows = _read_each(body, refusals)
    place = node.place(panel)
    ignored = 0
    reports = []
    for index, (uid, (upload_bytes, download_bytes)) in rows:
        if upload_bytes == 0 and download_bytes == 0:
            ignored += 1
            continue
        username = panel.users.username_of(uid)
        if not username:
            refusals.append(Refusal(index, "user_token", panel.users.why_no_user(uid)))
            continue
        wire = WireReport(
            username, place.server, place.port, node.type, upload_bytes, download_bytes
        )
        if message_id is not None:
            wire.report_id = report_id(kind=KIND, message_id=message_id, foreign_user=uid)
        reports.append((index, wire))
    return Translated(reports, refusals, ignored)


def _read_each(
    body: bytes, refusals: list[Refusal]
) -> list[tuple[int, tuple[str, tuple[int, int]]]]:
    """Decode user by user, so that a malformed entry does not refuse the others."""
    push = parse_json(body)
    if not isinstance(push, dict):
        raise UnreadableBodyError('this is not a push of a node: expected {"uid": [up, down], …}')
    rows = []
    for index, (uid, amounts) in enumerate(push.items()):
        try:
            rows.append((index, (uid, _convert(amounts))))
        except UNFIT as error:
            refusals.append(refusal_of(index, error, fields=_FIELDS))
    return rows


def _convert(amounts: Any) -> tuple[int, int]:
    return msgspec.convert(whole_numbers(amounts), tuple[Amount, Amount])
