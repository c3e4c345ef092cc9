"""What nobody sane sends: strategies of junk and of valid things with something wrong in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

NASTY_TEXTS = st.sampled_from(
    [
        "",
        " ",
        ".",
        "..",
        "../../etc/passwd",
        "%2e%2e%2f",
        "a/b",
        "a\\",
        "a\nb",
        "a\r\nINFO forged line",
        "\x1b[2J\x1b]0;owned\x07",
        "\x00",
        "\ud800",
        "\u202egnp",
        "\u2028",
        "🚀",
        "a,b=c d",
        "';DROP TABLE report;--",
        '"} OR 1=1',
        "<script>alert(1)</script>",
        "{{7*7}}${7*7}",
        "%s%n%x",
        "x" * 300,
        "0" * 5000,
        "NaN",
        "http://169.254.169.254/latest",
    ]
)
texts = st.one_of(NASTY_TEXTS, st.text(max_size=40), st.text(st.characters(), max_size=8))
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**40]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1e308, -0.0, 0.1, 1e-320]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
SPECIAL_BODIES = st.sampled_from(
    [
        b"",
        b"\xff\xfe{}",
        b"\x00",
        b"[" * 3000,
        b'{"a":' * 3000,
        b"NaN",
        b"[1e999]",
        b'{"a": 1e999, "a": Infinity}',
        b"1" * 5000,
        b'"\\ud800"',
        b'"unterminated',
        b"<html><body>502 Bad Gateway</body></html>",
        "\N{BYTE ORDER MARK}{}".encode(),
    ]
)


@st.composite
def damaged(draw: Any, text: bytes) -> bytes:
    """Cut, repeat or overwrite a stretch of something that was whole."""
    at = draw(st.integers(0, max(0, len(text) - 1)))
    end = min(len(text), at + draw(st.integers(0, 8)))
    return text[:at] + draw(st.binary(max_size=8)) + text[end:]


@st.composite
def changed(draw: Any, whole: dict[str, Any]) -> dict[str, Any]:
    """Replace, drop or add some fields of an object."""
    value = dict(whole)
    for name in draw(st.lists(st.sampled_from(sorted(whole)), max_size=3)):
        value[name] = draw(json_values)
    for name in draw(st.lists(st.sampled_from(sorted(whole)), max_size=1)):
        value.pop(name, None)
    return value | draw(st.dictionaries(texts, json_values, max_size=2))


def bodies(*values: Any) -> st.SearchStrategy[bytes]:
    """Return JSON bodies: junk, the given values, and the given values with a stretch damaged."""
    whole = [json.dumps(value).encode() for value in values]
    return st.one_of(
        SPECIAL_BODIES,
        st.binary(max_size=200),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.sampled_from(whole),
        st.sampled_from(whole).flatmap(damaged),
    )


header_values = st.one_of(
    st.binary(max_size=60).map(lambda raw: bytes(each for each in raw if each >= 32)),
    texts.map(
        lambda text: "".join(each for each in text if each.isprintable()).encode("utf-8", "replace")
    ),
)


class OwnLoop:
    """An event loop across Hypothesis's examples, and what is open in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()

    def enter(self, context: contextlib.AbstractAsyncContextManager[T]) -> T:
        """Open something until `close`."""
        return self.run(self._stack.enter_async_context(context))

    def run(self, work: Awaitable[T]) -> T:
        """Run something to its end."""
        return self._loop.run_until_complete(self._in_time(work))

    async def _in_time(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(120):
            return await work

    def close(self) -> None:
        """End everything."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
