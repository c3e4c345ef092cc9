"""A report, the checks it must pass, and the refusals.

Pure. `decode` turns a request body into `WireReport`s; `accept` turns each into a `Report` or a
`Refusal`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from collector.reports.billing import Tariff

MAX_REPORTS_PER_REQUEST = 10_000
MAX_SERVER_LENGTH = 255
MAX_USERNAME_LENGTH = 255
MAX_TOKEN_LENGTH = 2048
MAX_AMOUNT_BYTES = 2**62
DAY_MILLIS = 86_400_000
MAX_AHEAD_MILLIS = 5 * 60 * 1000

# Control characters, line separators, and halves of surrogate pairs, which cannot be stored.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_BLANKS = "begins or ends with a blank, as no username does"
_BACKSLASH = "ends in a backslash, which the name of a time series cannot"

Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_BYTES)]
ReportId = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class WireReport(msgspec.Struct, gc=False):
    """A traffic report as in the JSON; unknown fields are named in the answer."""

    user_token: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=MAX_TOKEN_LENGTH,
            description="The username, or the user's subscription token or URL",
        ),
    ]
    server: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=MAX_SERVER_LENGTH, description="The server's name or address"
        ),
    ]
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="0 where the sender does not know it")
    ]
    protocol: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=64, description="`unknown` where the sender does not know it"
        ),
    ]
    bytes_uploaded: Annotated[
        Amount,
        msgspec.Meta(description="Bytes that the user sent since the report before"),
    ]
    bytes_downloaded: Annotated[
        Amount,
        msgspec.Meta(description="Bytes that the user received since the report before"),
    ]
    report_id: (
        Annotated[ReportId, msgspec.Meta(description="Counted once per sender within the window")]
        | None
    ) = None
    reported_at: (
        Annotated[
            datetime,
            msgspec.Meta(tz=True, description="RFC 3339 with a time zone; in the future: now"),
        ]
        | None
    ) = None
    connections: Annotated[
        int, msgspec.Meta(ge=0, le=1_000_000, description="Connections that the report is about")
    ] = 1


class Report(msgspec.Struct, frozen=True, gc=False):
    """An accepted report; times are milliseconds since 1970, UTC."""

    username: str
    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    connections: int
    reported_at_millis: int
    report_key: bytes | None = None
    """A hash of the sender and the report's id; None without an id: it is counted each time."""
    billed_bytes: int | None = None
    """Bytes billed to the quota; None if they are the raw bytes."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why one report of a request is not stored."""

    index: int
    field: str
    reason: str


class Limits(msgspec.Struct, frozen=True):
    """Bounds from the settings."""

    ceiling_bytes: int = 10 * 2**40
    """The most bytes of one report, in each direction."""
    dedup_window_millis: int = 7 * DAY_MILLIS
    """How long ids are remembered; an older `reported_at` is refused."""
    request_bytes: int = MAX_AMOUNT_BYTES
    """The most bytes of a request, and so of each of its reports, in both directions."""
    request_setting: str = ""
    """The name of the setting with that bound."""


def kept_millis(limits: Limits) -> int:
    """Return for how long after its arrival a report may be sent again and be accepted.

    A report may be dated some minutes after its arrival, so its id is kept that much longer.
    """
    return limits.dedup_window_millis + MAX_AHEAD_MILLIS + 1


def purge_horizon_millis(limits: Limits, *, now_millis: int) -> int:
    """Return the time of arrival before which reports can no longer be sent again."""
    return now_millis - kept_millis(limits)


_hash = functools.partial(hashlib.blake2b, digest_size=16)


def report_key(scope: str, report_id: str) -> bytes:
    """Hash the sender's scope and a report's id, so that ids of two senders never collide."""
    return _hash(_scoped(scope) + report_id.encode()).digest()


def report_keys(scope: str, report_ids: Sequence[str | None]) -> list[bytes | None]:
    """Return the `report_key` of each id; None for none."""
    prefix = _scoped(scope)
    return [None if each is None else _hash(prefix + each.encode()).digest() for each in report_ids]


def _scoped(scope: str) -> bytes:
    """Return what stands before an id in what is hashed."""
    return f"{scope}\x1f".encode()


def is_ahead(wire: WireReport, *, now_millis: int) -> bool:
    """Tell whether a report is dated too far in the future; it then counts as of now."""
    if wire.reported_at is None:
        return False
    return wire.reported_at.timestamp() * 1000 > now_millis + MAX_AHEAD_MILLIS


def is_empty(wire: WireReport) -> bool:
    """Tell whether a report has zero bytes; such reports are not stored."""
    return wire.bytes_uploaded == 0 and wire.bytes_downloaded == 0


def accept(
    wire: WireReport,
    *,
    index: int,
    username: str,
    scope: str,
    fallback_id: str | None,
    now_millis: int,
    limits: Limits,
    tariff: Tariff | None = None,
) -> Report | Refusal | None:
    """Check a well-formed report; return it accepted or refused, or None if it has zero bytes.

    The username is normalised to Unicode NFC. A report that is dated more than 5 minutes in the
    future gets the time of its arrival. `fallback_id` is the id in the request's headers, for a
    report without an id. `tariff` is how the sender's reports are billed now; None bills them as
    reported.
    """
    if is_empty(wire):
        return None
    username = canonical(username)
    reported_at_millis = _counted_at(wire, now_millis)
    is_valid = (
        _has_plain_names(wire, username)
        and wire.bytes_uploaded <= limits.ceiling_bytes
        and wire.bytes_downloaded <= limits.ceiling_bytes
        and wire.bytes_uploaded + wire.bytes_downloaded <= limits.request_bytes
        and reported_at_millis >= now_millis - limits.dedup_window_millis
    )
    if not is_valid:
        faults = faults_of(
            wire, index=index, username=username, now_millis=now_millis, limits=limits
        )
        if faults:
            return faults[0]
    own_id = wire.report_id or fallback_id
    billed_bytes = None
    if tariff is not None:
        raw_bytes = wire.bytes_uploaded + wire.bytes_downloaded
        billed_bytes = tariff.billed_bytes(wire.server, raw_bytes)
    return Report(
        username,
        wire.server,
        wire.port,
        wire.protocol,
        wire.bytes_uploaded,
        wire.bytes_downloaded,
        wire.connections,
        reported_at_millis,
        None if own_id is None else report_key(scope, own_id),
        billed_bytes,
    )


def faults_of(
    wire: WireReport, *, index: int, username: str, now_millis: int, limits: Limits
) -> list[Refusal]:
    """Return all that is wrong with a well-formed report, the first as `accept` returns it."""
    username = canonical(username)
    faults = list(_refuse_names(wire, username, index))
    for field in ("bytes_uploaded", "bytes_downloaded"):
        if getattr(wire, field) > limits.ceiling_bytes:
            reason = f"is above the ceiling of {limits.ceiling_bytes} bytes for one report"
            faults.append(Refusal(index, field, reason))
    is_sum_over = wire.bytes_uploaded + wire.bytes_downloaded > limits.request_bytes
    if is_sum_over and not any(each.field.startswith("bytes_") for each in faults):
        faults.append(_too_much_together(wire, index, limits))
    if _counted_at(wire, now_millis) < now_millis - limits.dedup_window_millis:
        days = limits.dedup_window_millis // DAY_MILLIS
        reason = f"is older than the {days} days allowed; if the clock is wrong, leave it out"
        faults.append(Refusal(index, "reported_at", reason))
    return faults


def _counted_at(wire: WireReport, now_millis: int) -> int:
    if wire.reported_at is None or is_ahead(wire, now_millis=now_millis):
        return now_millis
    return int(wire.reported_at.timestamp() * 1000)


def _has_plain_names(wire: WireReport, username: str) -> bool:
    """Tell whether all names are certainly valid, as nearly all are."""
    all_names = f"{username}{wire.server}{wire.protocol}{wire.report_id or ''}"
    return (
        len(username) <= MAX_USERNAME_LENGTH
        and "\\" not in all_names
        and username == username.strip()
        and all_names.isprintable()
    )


def _refuse_names(wire: WireReport, username: str, index: int) -> Iterator[Refusal]:
    if len(username) > MAX_USERNAME_LENGTH:
        reason = f"a username may have at most {MAX_USERNAME_LENGTH} characters"
        yield Refusal(index, "user_token", reason)
    elif username != username.strip():
        yield Refusal(index, "user_token", _BLANKS)
    elif fault := fault_in_name(username):
        yield Refusal(index, "user_token", fault)
    for field, text in (("server", wire.server), ("protocol", wire.protocol)):
        if fault := fault_in_name(text):
            yield Refusal(index, field, fault)
    if (fault := fault_in_name(wire.report_id or "")) and fault != _BACKSLASH:
        yield Refusal(index, "report_id", fault)


def canonical(username: str) -> str:
    """Return a username in Unicode NFC, so that equal-looking spellings are one user."""
    return username if username.isascii() else unicodedata.normalize("NFC", username)


def fault_in_name(text: str) -> str | None:
    """Return why a text cannot be the name of a user, server or protocol; None if it can."""
    if not text.isprintable() and _UNSTORABLE.search(text):
        return "contains control characters or broken Unicode"
    return _BACKSLASH if text.endswith("\\") else None


def _too_much_together(wire: WireReport, index: int, limits: Limits) -> Refusal:
    is_upload = wire.bytes_uploaded > wire.bytes_downloaded
    field = "bytes_uploaded" if is_upload else "bytes_downloaded"
    reason = (
        f"brings the report to {wire.bytes_uploaded + wire.bytes_downloaded} bytes both ways, "
        f"above the {limits.request_bytes} of {limits.request_setting}"
    )
    return Refusal(index, field, reason)
