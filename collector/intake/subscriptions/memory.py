"""What panels said of subscription tokens, for a while and in bounded memory; pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

KNOWN_SECONDS = 300.0
UNKNOWN_SECONDS = 15.0
UNDECIDED_SECONDS = 300.0
"""For how long a panel that does not know a token is not asked again while another is away."""
REMEMBERED = 100_000
REMEMBERED_UNKNOWN = 10_000


class Proof(NamedTuple):
    """Which user a token belongs to."""

    username: str
    """As reports name the user: `alice`, `two/alice`."""
    panel: str
    """The panel that knew it."""
    until_seconds: float
    """Until when that need not be asked again."""


class TokenMemory:
    """Tokens by their hash: which user they belong to, or which panels do not know them.

    A proof is kept beyond its time, so that its panel is the first to be asked again. Those noted
    longest ago are forgotten first.
    """

    def __init__(self) -> None:
        self._proofs: OrderedDict[bytes, Proof] = OrderedDict()
        self._denials: OrderedDict[bytes, tuple[frozenset[str], float]] = OrderedDict()
        """By token: which panels do not know it, and until when that is believed."""

    def proof(self, key: bytes) -> Proof | None:
        """Return the last proof of a token, also when it has to be asked again."""
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
