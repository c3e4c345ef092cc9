"""A report: one user's bytes on one server, and its JSON encoding; pure."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from collector.client.errors import ReportError

MAX_AMOUNT_BYTES = 2**62
MAX_CONNECTIONS = 1_000_000


def new_id() -> str:
    """Return a unique id: 128 random bits, in hexadecimal."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One user's traffic on one server since the previous report.

    A report gets its id when it is created. So the same object may be queued or sent any number of
    times: it counts once within the seven days for which a collector remembers ids. Two report
    objects of the same traffic have different ids, and count twice.

    Example:
        >>> report = Report(user="alice", server="de-1", upload_bytes=10, download_bytes=20)
        >>> len(report.report_id)
        32

    Args:
        server: The server's name or address, 1 to 255 characters.
        upload_bytes: Bytes that the user sent since the previous report.
        download_bytes: Bytes that the user received since the previous report.
        user: The username; None if the client has a subscription, which tells the user.
        port: The server's port; 0 if not known.
        protocol: Such as `vless`; `unknown` if not known.
        connections: The number of connections.
        reported_at: The time of the traffic, with a time zone; None: when it is queued or sent.
        report_id: An id of up to 255 characters; default: a new random id.

    Raises:
        ReportError: Every collector would refuse it; the message names the field.
    """

    server: str
    upload_bytes: int
    download_bytes: int
    user: str | None = None
    port: int = 0
    protocol: str = "unknown"
    connections: int = 1
    reported_at: datetime | None = None
    report_id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        _check_text("server", self.server, 255)
        _check_text("protocol", self.protocol, 64)
        if self.user is not None:
            _check_text("user", self.user, 255)
            if self.user != self.user.strip():
                raise ReportError("user: begins or ends with a blank, which no username does")
        _check_text("report_id", self.report_id, 255)
        _check_whole("upload_bytes", self.upload_bytes, MAX_AMOUNT_BYTES)
        _check_whole("download_bytes", self.download_bytes, MAX_AMOUNT_BYTES)
        _check_whole("port", self.port, 65535)
        _check_whole("connections", self.connections, MAX_CONNECTIONS)
        if self.reported_at is not None and self.reported_at.tzinfo is None:
            raise ReportError("reported_at: expected a datetime with a time zone")


def encode(report: Report, *, report_id: str) -> bytes:
    """Return a report as JSON, without the subscription and the time, which `completed` adds."""
    wire: dict[str, Any] = {
        "report_id": report_id,
        "server": report.server,
        "port": report.port,
        "protocol": report.protocol,
        "bytes_uploaded": report.upload_bytes,
        "bytes_downloaded": report.download_bytes,
        "connections": report.connections,
    }
    if report.user is not None:
        wire["user_token"] = report.user
    if report.reported_at is not None:
        wire["reported_at"] = report.reported_at.isoformat(timespec="milliseconds")
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":")).encode()


def decode(body: bytes) -> Report:
    """Return the report that `encode` wrote."""
    wire = json.loads(body)
    moment = wire.get("reported_at")
    return Report(
        user=wire.get("user_token"),
        server=wire["server"],
        port=wire["port"],
        protocol=wire["protocol"],
        upload_bytes=wire["bytes_uploaded"],
        download_bytes=wire["bytes_downloaded"],
        connections=wire["connections"],
        reported_at=None if moment is None else datetime.fromisoformat(moment),
        report_id=wire["report_id"],
    )


def without_time(body: bytes) -> bytes:
    """Return an encoded report without its time."""
    wire = json.loads(body)
    wire.pop("reported_at", None)
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":")).encode()


def has_time(body: bytes) -> bool:
    """Tell whether an encoded report has a time; the quotes would be escaped in a text."""
    return b'"reported_at":' in body


def completed(body: bytes, *, subscription: str | None, queued_at_millis: int | None) -> bytes:
    """Return an encoded report with what is added on sending: the subscription and the time.

    A report without a time of its own gets the time of queueing.
    """
    extra: dict[str, str] = {}
    if subscription is not None:
        extra["user_token"] = subscription
    if queued_at_millis is not None and not has_time(body):
        moment = datetime.fromtimestamp(queued_at_millis / 1000, tz=timezone.utc)
        extra["reported_at"] = moment.isoformat(timespec="milliseconds")
    if not extra:
        return body
    return json.dumps(extra, separators=(",", ":")).encode()[:-1] + b"," + body[1:]


def _check_text(field: str, text: object, longest: int) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= longest:
        raise ReportError(f"{field}: expected a text of 1 to {longest} characters")
    if not text.isprintable() and any(_is_unstorable(each) for each in text):
        raise ReportError(f"{field}: contains control characters or broken Unicode")
    if field != "report_id" and text.endswith("\\"):
        raise ReportError(f"{field}: ends in a backslash")


def _is_unstorable(character: str) -> bool:
    code = ord(character)
    is_control = code < 0x20 or 0x7F <= code <= 0x9F or code in {0x2028, 0x2029}
    return is_control or 0xD800 <= code <= 0xDFFF


def _check_whole(field: str, number: object, most: int) -> None:
    if type(number) is not int or not 0 <= number <= most:
        raise ReportError(f"{field}: expected a whole number from 0 to {most}")
