"""Request bodies → well-formed reports, or what is wrong with each; pure and bounded."""

from __future__ import annotations

import re
import zlib

import msgspec

from collector.reports import MAX_REPORTS_PER_REQUEST, Refusal, WireReport

_DECODE_MANY = msgspec.json.Decoder(list[WireReport])
_DECODE_RAW = msgspec.json.Decoder(list[msgspec.Raw])
_DECODE_ONE = msgspec.json.Decoder(WireReport)

_AT_FIELD = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


class UnreadableBodyError(ValueError):
    """The body is not what its headers or the route say it is."""


class BodyTooLargeError(ValueError):
    """The body, or what it inflates to, is above the limit."""


class Decoded(msgspec.Struct, frozen=True):
    """The well-formed reports of a body with their places, and the refusals of the others."""

    reports: list[tuple[int, WireReport]]
    refusals: list[Refusal]
    is_array: bool


def inflate(body: bytes, *, limit_bytes: int) -> bytes:
    """Undo gzip, never producing more than the limit.

    Raises BodyTooLargeError, or UnreadableBodyError for what is not one whole gzip stream.
    """
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise UnreadableBodyError(f"the body is not gzip: {error}") from error
    if len(plain) > limit_bytes:
        raise BodyTooLargeError(f"the body inflates to more than {limit_bytes} bytes")
    if not inflater.eof:
        raise UnreadableBodyError("the gzip body ends too early")
    return plain


def decode(body: bytes) -> Decoded:
    """Read one report or an array of them.

    Raises UnreadableBodyError for what is no JSON, or neither an object nor an array, and
    BodyTooLargeError for too many reports.
    """
    text = body.lstrip(b" \t\r\n")
    try:
        if text[:1] == b"[":
            return _decode_array(text)
        if text[:1] == b"{":
            return _decode_single(text)
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("the body is not UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnreadableBodyError(f"the body is not JSON: {error}") from error
    raise UnreadableBodyError("the body must be a JSON object (one report) or an array of them")


def _decode_array(text: bytes) -> Decoded:
    try:
        wires = _DECODE_MANY.decode(text)
    except msgspec.ValidationError:
        return _decode_each(text)
    _check_count(len(wires))
    return Decoded(list(enumerate(wires)), [], is_array=True)


def _decode_each(text: bytes) -> Decoded:
    """Read item by item, so that each bad one names its field and the good ones are kept."""
    items = _DECODE_RAW.decode(text)
    _check_count(len(items))
    reports: list[tuple[int, WireReport]] = []
    refusals: list[Refusal] = []
    for index, item in enumerate(items):
        try:
            reports.append((index, _DECODE_ONE.decode(item)))
        except msgspec.ValidationError as error:
            refusals.append(_refusal_of(index, error))
    return Decoded(reports, refusals, is_array=True)


def _decode_single(text: bytes) -> Decoded:
    try:
        return Decoded([(0, _DECODE_ONE.decode(text))], [], is_array=False)
    except msgspec.ValidationError as error:
        return Decoded([], [_refusal_of(0, error)], is_array=False)


def _check_count(count: int) -> None:
    if count > MAX_REPORTS_PER_REQUEST:
        raise BodyTooLargeError(
            f"{count} reports in one request; at most {MAX_REPORTS_PER_REQUEST} are taken"
        )


def _refusal_of(index: int, error: msgspec.ValidationError) -> Refusal:
    message = str(error)
    if missing := _MISSING.search(message):
        return Refusal(index, missing["field"], "is required")
    if at := _AT_FIELD.search(message):
        return Refusal(index, at["path"] or "report", message[: at.start()].lower())
    return Refusal(index, "report", message.lower())
