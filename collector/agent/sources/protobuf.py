"""The part of protocol buffers and of gRPC's framing that three small messages need; pure."""

from __future__ import annotations

from collections.abc import Iterator

from collector.agent.errors import SourceError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FRAME_HEAD_BYTES = 5


def text_field(number: int, text: str) -> bytes:
    """Encode a string field."""
    value = text.encode()
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message, with their numbers; SourceError if it is not a message."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, at = _read_varint(message, at)
        elif wire_type in {_FIXED64, _FIXED32}:
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise SourceError("the answer is no protobuf message")
        if at + length > len(message):
            raise SourceError("the answer is incomplete")
        yield number, message[at : at + length]
        at += length


def framed(message: bytes) -> bytes:
    """Return a message in gRPC's framing, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def unframed(body: bytes) -> list[bytes]:
    """Return the messages of a gRPC body; SourceError if incomplete or compressed."""
    messages = []
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at + 1 : at + _FRAME_HEAD_BYTES], "big")
        end = at + _FRAME_HEAD_BYTES + length
        if body[at] or end > len(body):
            raise SourceError("the answer is incomplete, or compressed")
        messages.append(body[at + _FRAME_HEAD_BYTES : end])
        at = end
    return messages


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value & (2**64 - 1), at + place + 1
    raise SourceError("the answer is no protobuf message")
