"""Decodes request bodies into reports, or a refusal for each malformed one; pure and bounded."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import msgspec.structs

from collector.reports.report import MAX_REPORTS_PER_REQUEST, Refusal, WireReport
from collector.reports.unknown_fields import (
    UnknownField,
    shown,
    unknown_fields,
    unknown_names,
    why_unknown,
)


class _KnownFields(WireReport, forbid_unknown_fields=True):
    """A report of which every field is known."""


_DECODE_MANY = msgspec.json.Decoder(list[WireReport])
_DECODE_ONE = msgspec.json.Decoder(WireReport)
_DECODE_MANY_KNOWN = msgspec.json.Decoder(list[_KnownFields])
_DECODE_ONE_KNOWN = msgspec.json.Decoder(_KnownFields)
_DECODE_NAMES = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_DECODE_NAMES_OF_ONE = msgspec.json.Decoder(dict[str, msgspec.Raw])

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_MAX_COMMAS = 64 * MAX_REPORTS_PER_REQUEST
"""Bounds the memory for JSON that is not reports, such as `[1,1,1,...`."""

_MAX_DIGITS = 40
"""The most digits of a number: parsing takes time quadratic in the digits."""
_BEYOND_ALL_BOUNDS = 2**63
"""Replaces a longer number: it is outside the range of every field."""
_USER_TOKEN = re.compile(rb'"user_token"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.){1,4096}")')

MOST_DETAILED = 100
"""Of reports after so many refusals only the first fault is told."""
MOST_FAULTS = 20
"""So many unknown fields of one report are refused by name."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises."""
UNFIT = (msgspec.ValidationError, UnicodeEncodeError)
"""What converting an item raises; the latter for broken Unicode in a field that is not a string."""
_AT_FIELD = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELDS = msgspec.structs.fields(WireReport)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


class UnreadableBodyError(ValueError):
    """The body cannot be decoded as its headers or the route require."""


class BodyTooLargeError(ValueError):
    """The body, before or after decompression, is above the limit."""


class Decoded(msgspec.Struct, frozen=True):
    """The well-formed reports of a body with their indexes, and the refusals of the others."""

    reports: list[tuple[int, WireReport]]
    refusals: list[Refusal]
    is_array: bool
    unknown: list[UnknownField] = []
    """Names in the reports that are no fields of a report; what they hold is not counted."""


def inflate(body: bytes, *, limit_bytes: int) -> bytes:
    """Decompress gzip, to at most the limit.

    Raises BodyTooLargeError, or UnreadableBodyError unless the body is one complete gzip stream.
    """
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise UnreadableBodyError(f"the body is not gzip: {error}") from error
    if len(plain) > limit_bytes:
        raise BodyTooLargeError(f"the body inflates to more than {limit_bytes} bytes")
    if not inflater.eof:
        raise UnreadableBodyError("the gzip body is incomplete")
    if inflater.unused_data:
        raise UnreadableBodyError("there are bytes after the gzip stream; send one stream")
    return plain


def decode_plain(body: bytes) -> Sequence[WireReport] | WireReport | None:
    """Decode one report or an array of them, well-formed and without unknown fields.

    Return None for any other body; `decode` says what is wrong with it.
    """
    try:
        if body[:1] == b"{":
            return _DECODE_ONE_KNOWN.decode(body)
        wires = _DECODE_MANY_KNOWN.decode(body)
    except UNREADABLE:
        return None
    return wires if len(wires) <= MAX_REPORTS_PER_REQUEST else None


def decode(body: bytes, *, is_strict: bool = False) -> Decoded:
    """Decode one report or an array of reports.

    With `is_strict` a report with an unknown field is refused. Raises UnreadableBodyError unless
    the body is a JSON object or array, and BodyTooLargeError for too many reports.
    """
    text = body.lstrip(b" \t\r\n")
    if text[:1] == b"[":
        return _decode_array(text, is_strict=is_strict)
    if text[:1] == b"{":
        return _decode_single(text, is_strict=is_strict)
    raise UnreadableBodyError("the body must be a JSON object (one report) or an array of them")


def _decode_array(text: bytes, *, is_strict: bool) -> Decoded:
    unknown: list[UnknownField] = []
    try:
        wires: Sequence[WireReport] = _DECODE_MANY_KNOWN.decode(text)
    except UNREADABLE:
        try:
            wires = _DECODE_MANY.decode(text)
        except UNREADABLE:
            return _decode_each(text, is_strict=is_strict)
        if is_strict:
            return _decode_each(text, is_strict=True)
        _check_count(len(wires))
        unknown = unknown_fields(_DECODE_NAMES.decode(text))
    _check_count(len(wires))
    return Decoded(list(enumerate(wires)), [], is_array=True, unknown=unknown)


def _decode_each(text: bytes, *, is_strict: bool) -> Decoded:
    """Decode item by item, so that a malformed one does not refuse the others."""
    items = parse_json(text)
    _check_count(len(items))
    return _sort(items, is_array=True, is_strict=is_strict)


def _decode_single(text: bytes, *, is_strict: bool) -> Decoded:
    try:
        return Decoded([(0, _DECODE_ONE_KNOWN.decode(text))], [], is_array=False)
    except UNREADABLE:
        pass
    try:
        wire = _DECODE_ONE.decode(text)
    except UNREADABLE:
        return _sort([parse_json(text)], is_array=False, is_strict=is_strict)
    if is_strict:
        return _sort([parse_json(text)], is_array=False, is_strict=True)
    unknown = unknown_fields([_DECODE_NAMES_OF_ONE.decode(text)])
    return Decoded([(0, wire)], [], is_array=False, unknown=unknown)


def parse_json(text: bytes) -> Any:
    """Decode JSON of any shape; raises UnreadableBodyError or BodyTooLargeError.

    Lone surrogates, which msgspec refuses as broken JSON, are accepted here, so that the checks of
    a report can refuse them and name the field.
    """
    if text.count(b",") > _MAX_COMMAS:
        raise BodyTooLargeError("the body holds far more values than reports have")
    try:
        return json.loads(text, parse_int=_short_int, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("the body is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"the body is not JSON: {error}") from error


def first_user_token(body: bytes) -> str | None:
    """Return the first `user_token` in the body, without decoding the body; None if there is none.

    Takes time linear in the body's length. It identifies the sender of a request without a key.
    """
    found = _USER_TOKEN.search(body)
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[1], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _short_int(digits: str) -> int:
    if len(digits) <= _MAX_DIGITS:
        return int(digits)
    return -_BEYOND_ALL_BOUNDS if digits.startswith("-") else _BEYOND_ALL_BOUNDS


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _sort(items: list[Any], *, is_array: bool, is_strict: bool) -> Decoded:
    reports: list[tuple[int, WireReport]] = []
    refusals: list[Refusal] = []
    for index, item in enumerate(items):
        faults = _unknown_in(index, item) if is_strict else []
        try:
            wire = msgspec.convert(whole_numbers(item), WireReport)
        except UNFIT as error:
            all_faults = _faults_of(index, item) if len(refusals) < MOST_DETAILED else []
            faults += all_faults or [refusal_of(index, error)]
        else:
            if not faults:
                reports.append((index, wire))
        refusals += faults
    unknown = [] if is_strict else unknown_fields(items)
    return Decoded(reports, refusals, is_array=is_array, unknown=unknown)


def _unknown_in(index: int, item: Any) -> list[Refusal]:
    names = unknown_names(item)[:MOST_FAULTS]
    return [Refusal(index, shown(name), why_unknown(name)) for name in names]


def _faults_of(index: int, item: Any) -> list[Refusal]:
    """Return what is wrong with each field of an object; nothing for what is no object."""
    if not isinstance(item, dict):
        return []
    faults = []
    for each in _FIELDS:
        if each.name not in item:
            if each.required:
                faults.append(Refusal(index, each.name, "is required"))
            continue
        try:
            msgspec.convert(_whole(item[each.name]), each.type)
        except msgspec.ValidationError as error:
            reason = _AT_FIELD.sub("", str(error)).lower()
            faults.append(Refusal(index, each.name, reason))
        except UnicodeEncodeError:  # raised only when a text is converted to a time
            faults.append(Refusal(index, each.name, "contains broken Unicode"))
    return faults


def whole_numbers(item: Any) -> Any:
    """Return an object or array with integers in place of numbers such as 1024.0 or 1e3."""
    if isinstance(item, dict):
        return {key: _whole(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_whole(value) for value in item]
    return item


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_count(count: int) -> None:
    if count > MAX_REPORTS_PER_REQUEST:
        raise BodyTooLargeError(
            f"{count} reports in one request; at most {MAX_REPORTS_PER_REQUEST} are accepted"
        )


def refusal_of(
    index: int,
    error: msgspec.ValidationError | UnicodeEncodeError,
    *,
    fields: Mapping[str, str] | None = None,
) -> Refusal:
    """Return the refusal of an item; `fields` maps foreign field names to those of reports."""
    if isinstance(error, UnicodeEncodeError):
        return Refusal(index, "report", "contains broken Unicode")
    message = str(error)
    if missing := _MISSING.search(message):
        return Refusal(index, missing["field"], "is required")
    if at := _AT_FIELD.search(message):
        path = at["path"] or "report"
        return Refusal(index, (fields or {}).get(path, path), message[: at.start()].lower())
    return Refusal(index, "report", message.lower())
