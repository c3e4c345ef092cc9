"""A bounded cache of the panels' answers about subscription tokens; pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

KNOWN_SECONDS = 300.0
UNKNOWN_SECONDS = 15.0
UNDECIDED_SECONDS = 300.0
"""How long a panel that does not know a token is not asked again, while another is unreachable."""
REMEMBERED = 100_000
REMEMBERED_UNKNOWN = 10_000


class Proof(NamedTuple):
    """Which user a token belongs to."""

    username: str
    """The username in reports: `alice`, `two/alice`."""
    panel: str
    """The panel that knows it."""
    until_seconds: float
    """When the entry expires."""


class TokenMemory:
    """Tokens by their hash: which user they belong to, or which panels do not know them.

    A proof is kept after it has expired, so that its panel is asked first. The oldest entries are
    dropped first.
    """

    def __init__(self) -> None:
        self._proofs: OrderedDict[bytes, Proof] = OrderedDict()
        self._denials: OrderedDict[bytes, tuple[frozenset[str], float]] = OrderedDict()
        """By token: the panels that do not know it, and when the entry expires."""

    def proof(self, key: bytes) -> Proof | None:
        """Return the last proof of a token, also if it has expired."""
        return self._proofs.get(key)

    def denied_by(self, key: bytes, *, now_seconds: float) -> frozenset[str]:
        """Return the panels that do not know a token and need not be asked again yet."""
        panels, until_seconds = self._denials.get(key, (frozenset[str](), 0.0))
        return panels if now_seconds < until_seconds else frozenset()

    def note_proof(self, key: bytes, username: str, panel: str, *, now_seconds: float) -> None:
        """Note that a panel knows a token."""
        self._proofs.pop(key, None)
        self._proofs[key] = Proof(username, panel, now_seconds + KNOWN_SECONDS)
        if len(self._proofs) > REMEMBERED:
            self._proofs.popitem(last=False)

    def note_denial(
        self, key: bytes, panels: Collection[str], *, is_final: bool, now_seconds: float
    ) -> None:
        """Note which panels do not know a token; final if no panel is left that might."""
        lasts_seconds = UNKNOWN_SECONDS if is_final else UNDECIDED_SECONDS
        self._proofs.pop(key, None)
        self._denials.pop(key, None)
        self._denials[key] = (frozenset(panels), now_seconds + lasts_seconds)
        if len(self._denials) > REMEMBERED_UNKNOWN:
            self._denials.popitem(last=False)
