"""3x-ui's External Traffic Inform: bytes per client since the last post, every few seconds.

Versions 2.5.3 to 3.6: the keys of client rows are in lower case and differ between versions;
`email`, `up` and `down` are always there. Nearly all rows have zero bytes. Inbounds and outbounds
are listed as well and have the same bytes again, so they are skipped. A client has one counter for
all inbounds, so the inbound is not known.
"""

from __future__ import annotations

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
from collector.sources.users import AS_THEY_ARE, Users

KIND = "3x-ui"


class ThreeXUi(msgspec.Struct, frozen=True):
    """The configuration of a panel: what its posts do not contain."""

    server: str
    port: int = 0
    protocol: str = "unknown"
    users: Users = AS_THEY_ARE


class _Client(msgspec.Struct, gc=False):
    email: str = ""
    up: Amount = 0
    down: Amount = 0


class _Usage(msgspec.Struct, gc=False):
    """One user's traffic from all its rows; `place` is the index of the first of them."""

    place: int
    upload_bytes: int
    download_bytes: int


class _Inform(msgspec.Struct):
    clients: list[_Client | None] | msgspec.UnsetType | None = msgspec.field(
        name="clientTraffics", default=msgspec.UNSET
    )
    inbounds: msgspec.Raw | msgspec.UnsetType = msgspec.field(
        name="inboundTraffics", default=msgspec.UNSET
    )


_DECODER = msgspec.json.Decoder(_Inform)
_FIELDS = {"email": "user_token", "up": "bytes_uploaded", "down": "bytes_downloaded"}


def translate(body: bytes, panel: ThreeXUi, *, message_id: str | None) -> Translated:
    """Translate a post; the rows of one client become one report.

    Raises UnreadableBodyError for another payload, BodyTooLargeError for too many rows.
    """
    if body.count(b"{") > MAX_ROWS:
        raise BodyTooLargeError(f"a post of 3x-ui may have at most {MAX_ROWS} rows")
    refusals: list[Refusal] = []
    try:
        inform = _DECODER.decode(body)
        is_inform = (inform.clients, inform.inbounds) != (msgspec.UNSET, msgspec.UNSET)
        rows = inform.clients or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        rows, is_inform = _read_each(body, refusals)
    if not is_inform:
        raise UnreadableBodyError("this is not traffic of 3x-ui: it has no clientTraffics")
    usages, ignored = _add_up(rows, refusals)
    reports = []
    for email, usage in usages.items():
        username = panel.users.username_of(email)
        if not username:
            refusals.append(Refusal(usage.place, "user_token", panel.users.why_no_user(email)))
            continue
        wire = WireReport(
            username,
            panel.server,
            panel.port,
            panel.protocol,
            usage.upload_bytes,
            usage.download_bytes,
        )
        if message_id is not None:
            wire.report_id = report_id(kind=KIND, message_id=message_id, foreign_user=email)
        reports.append((usage.place, wire))
    return Translated(reports, refusals, ignored)


def _add_up(rows: list[_Client | None], refusals: list[Refusal]) -> tuple[dict[str, _Usage], int]:
    """Return the traffic of each client, and the number of rows with zero bytes."""
    ignored = 0
    usages: dict[str, _Usage] = {}
    for place, row in enumerate(rows):
        if row is None or (row.up == 0 and row.down == 0):
            ignored += row is not None
        elif not row.email:
            refusals.append(Refusal(place, "user_token", "the client has no email"))
        elif known := usages.get(row.email):
            known.upload_bytes += row.up
            known.download_bytes += row.down
        else:
            usages[row.email] = _Usage(place, row.up, row.down)
    return usages, ignored


def _read_each(body: bytes, refusals: list[Refusal]) -> tuple[list[_Client | None], bool]:
    """Decode row by row, so that a malformed one does not refuse the others."""
    inform = parse_json(body)
    if not isinstance(inform, dict):
        raise UnreadableBodyError("this is not traffic of 3x-ui: it is not a JSON object")
    rows = inform.get("clientTraffics")
    if not isinstance(rows, list | None):
        raise UnreadableBodyError("this is not traffic of 3x-ui: clientTraffics is not an array")
    clients: list[_Client | None] = []
    for place, row in enumerate(rows or []):
        try:
            clients.append(_convert(row))
        except UNFIT as error:
            clients.append(None)
            refusals.append(refusal_of(place, error, fields=_FIELDS))
    return clients, bool({"clientTraffics", "inboundTraffics"} & set(inform))


def _convert(row: Any) -> _Client | None:
    return msgspec.convert(whole_numbers(row), _Client | None)
