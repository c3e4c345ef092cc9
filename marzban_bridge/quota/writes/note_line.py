"""The line by which a write of the bridge describes itself, in the note of the panel's user.

A limit and its line are one row of the panel's database. Whatever happens to that row (a write that
is carried out late, a restored backup, a move to another database, a second bridge), the limit is
never seen without the line that says what it means:

    Quota 10 GiB; 3.12 GiB used elsewhere, so the limit here is 6.88 GiB. [bridge 1a2b3c4d:17@eu-1
    q10737418240 l7387398144 e3350020096 t9350020096 6f0c91d2]

The words are for the admin, the brackets for the bridge: which store wrote it and the number of
the write, where that bridge runs, then quota, limit, external bytes of the period and the ledger's
total (all bytes), `d` if the bridge disabled the user, and a checksum over these and the username.
The admin's own text stands before the line and is never changed.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass

MAX_NOTE_LENGTH = 500
"""The longest note that Marzban and PasarGuard accept, in characters."""
MAX_PLACE_LENGTH = 40
UNLIMITED = "-"
_GIB = 2**30
_LINE = re.compile(
    r"(?:\r?\n)?(?:Quota [^\r\n\[]*)?"
    r"\[bridge (?P<store>[0-9a-f]{8}):(?P<number>\d{1,18})@(?P<place>[A-Za-z0-9._-]{0,40}) "
    r"q(?P<quota>-|\d{1,19}) l(?P<limit>-|\d{1,19}) e(?P<external>\d{1,19}) t(?P<total>\d{1,19})"
    r"(?P<disabled> d)? (?P<checksum>[0-9a-f]{8})\]",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteLine:
    """What one write of a bridge says of itself; amounts are bytes, None is unlimited."""

    store: str
    """The first eight characters of the identity of the store that the bridge wrote from."""
    number: int
    """Which write of this user it is, counted by that store from 1."""
    place: str
    """The host on which that bridge runs."""
    quota_bytes: int | None
    limit_bytes: int | None
    external_bytes: int
    """External usage of the period, in billed bytes, when the write was made."""
    total_bytes: int
    """The ledger's total of the user at the same moment."""
    is_disabled: bool = False
    """Whether the user is disabled because the bridge disabled it."""

    @property
    def name(self) -> str:
        """What tells the line from every other one in notes of this user."""
        return f"{self.store}:{self.number}"

    @property
    def baseline_bytes(self) -> int:
        """The ledger's total where the period began."""
        return self.total_bytes - self.external_bytes


def read_lines(note: str | None, *, username: str) -> list[NoteLine]:
    """Return the lines that stand in a user's note, in their order.

    A line that was altered, cut short or copied from another user's note is none.
    """
    found: list[NoteLine] = []
    for match in _LINE.finditer(note or ""):
        line = _line_of(match)
        if match["checksum"] == _checksum(line, username):
            found.append(line)
    return found


@functools.lru_cache(maxsize=256)
def _read_lines(note: str | None, username: str) -> tuple[NoteLine, ...]:
    """Return the same; an evaluation asks for a note several times."""
    return tuple(read_lines(note, username=username))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The lines of one note, as one bridge sees them."""

    own: NoteLine | None = None
    """The line of the bridge's own store; None also where several contradict each other."""
    others: tuple[NoteLine, ...] = ()
    """Those of other stores."""


def lines_for(note: str | None, *, username: str, own_stores: Collection[str]) -> Lines:
    """Return the lines of a user's note; `own_stores`: what the bridge's store is called in them.

    That is its name, and those it had before it was rebased.
    """
    lines = _read_lines(note, username)
    own = [line for line in lines if line.store in own_stores]
    others = tuple(line for line in lines if line.store not in own_stores)
    return Lines(own=own[0] if len(own) == 1 else None, others=others)


def with_line(note: str | None, line: NoteLine, *, username: str) -> str | None:
    """Return the note with this line as its last, in place of the earlier ones of its store.

    None where the admin's text leaves no room for it.
    """
    text = without_lines(note, stores=[line.store])
    added = f"{_words(line)} {_bracket(line, username)}"
    noted = f"{text}\n{added}" if text else added
    return noted if len(noted) <= MAX_NOTE_LENGTH else None


def without_lines(note: str | None, *, stores: Collection[str] | None = None) -> str:
    """Return the note without the lines of these stores, or of all: the admin's own text.

    Lines that no longer match their checksum are removed too: a bridge wrote them.
    """

    def keep(match: re.Match[str]) -> str:
        return match[0] if stores is not None and match["store"] not in stores else ""

    text = note or ""
    left = _LINE.sub(keep, text)
    # A line that stood first took no break with it; the one behind it is not the admin's either.
    return left.removeprefix("\n") if left != text and not text.startswith("\n") else left


def text_mark(text: str) -> str:
    """Return what tells one text of an admin from another, in eight characters."""
    return f"{zlib.crc32(text.encode()):08x}"


def place_of(host: str) -> str:
    """Return a host's name as it can stand in a line."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", host)[:MAX_PLACE_LENGTH]


def _line_of(match: re.Match[str]) -> NoteLine:
    return NoteLine(
        store=match["store"],
        number=int(match["number"]),
        place=match["place"],
        quota_bytes=_amount(match["quota"]),
        limit_bytes=_amount(match["limit"]),
        external_bytes=int(match["external"]),
        total_bytes=int(match["total"]),
        is_disabled=match["disabled"] is not None,
    )


def _bracket(line: NoteLine, username: str) -> str:
    return f"[bridge {_fields(line)} {_checksum(line, username)}]"


def _fields(line: NoteLine) -> str:
    disabled = " d" if line.is_disabled else ""
    return (
        f"{line.store}:{line.number}@{line.place} q{_figure(line.quota_bytes)} "
        f"l{_figure(line.limit_bytes)} e{line.external_bytes} t{line.total_bytes}{disabled}"
    )


def _checksum(line: NoteLine, username: str) -> str:
    written = f"{username}\n{_fields(line)}"
    return f"{zlib.crc32(written.encode()):08x}"


def _words(line: NoteLine) -> str:
    if line.quota_bytes is None and line.limit_bytes is None:
        return "Quota not known to this bridge, which changes nothing."
    quota, elsewhere = _shown(line.quota_bytes), _shown(line.external_bytes)
    if line.is_disabled:
        return f"Quota {quota}; {elsewhere} used elsewhere, so the user is disabled."
    return (
        f"Quota {quota}; {elsewhere} used elsewhere, so the limit here is "
        f"{_shown(line.limit_bytes)}."
    )


def _shown(amount_bytes: int | None) -> str:
    return "unlimited" if amount_bytes is None else f"{amount_bytes / _GIB:.2f} GiB"


def _figure(amount_bytes: int | None) -> str:
    return UNLIMITED if amount_bytes is None else str(amount_bytes)


def _amount(figure: str) -> int | None:
    return None if figure == UNLIMITED else int(figure)
