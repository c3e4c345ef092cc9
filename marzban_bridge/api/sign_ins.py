"""How often one address may guess an admin's password through us; pure, given a clock reading.

The panel sees every sign-in that is passed through as ours, so it cannot tell guessers apart.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address


class SignInThrottle:
    """Counts the refused sign-ins of each address: `burst` at once, then one per `refill_seconds`.

    A sign-in is taken before it is tried, so that many at once do not slip through, and given back
    unless it was refused. The addresses heard longest ago are forgotten first, which only ever
    forgives them.
    """

    def __init__(
        self, *, burst: int = 10, refill_seconds: float = 6, remembered: int = 10_000
    ) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._remembered = remembered
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, *, now_seconds: float) -> float:
        """Take one sign-in; return 0 if it may go on, else after how many seconds to come again."""
        tried = self._tried_of(address, now_seconds)
        wait_seconds = max(0.0, (tried + 1 - self._burst) * self._refill_seconds)
        self._note(address, tried if wait_seconds else tried + 1, now_seconds)
        return wait_seconds

    def give_back(self, address: str, *, now_seconds: float) -> None:
        """Forget one sign-in that was taken: it was no wrong guess."""
        self._note(address, max(0.0, self._tried_of(address, now_seconds) - 1), now_seconds)

    def _tried_of(self, address: str, now_seconds: float) -> float:
        tried, at_seconds = self._tried.get(_network(address), (0.0, now_seconds))
        return max(0.0, tried - max(0.0, now_seconds - at_seconds) / self._refill_seconds)

    def _note(self, address: str, tried: float, now_seconds: float) -> None:
        network = _network(address)
        self._tried.pop(network, None)
        if tried > 0:
            self._tried[network] = (tried, now_seconds)
        if len(self._tried) > self._remembered:
            self._tried.popitem(last=False)


def _network(address: str) -> str:
    """Return what one client can hardly have more of: an IPv4 address, or a /64 of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return address
