"""How often one address may guess an admin's password through us; pure, given a clock reading.

The panel sees every sign-in that is passed through as ours, so it cannot tell guessers apart.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from marzban_bridge.api.throttle import Throttle

MAX_ADDRESS_LENGTH = 45


class SignInThrottle(Throttle):
    """Counts the refused sign-ins of each address.

    A sign-in is taken before it is tried, so that many at once do not slip through, and given back
    unless it was refused.
    """

    def __init__(
        self, *, burst: int = 10, refill_seconds: float = 6, remembered: int = 10_000
    ) -> None:
        super().__init__(burst=burst, refill_seconds=refill_seconds, remembered=remembered)

    def take(self, name: str, *, now_seconds: float) -> float:
        """Take a sign-in from an address."""
        return super().take(_network(name), now_seconds=now_seconds)

    def give_back(self, name: str, *, now_seconds: float) -> None:
        """Forget a sign-in that was no wrong guess."""
        super().give_back(_network(name), now_seconds=now_seconds)


def _network(address: str) -> str:
    """Return what one client can hardly have more of: an IPv4 address, or a /64 of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:MAX_ADDRESS_LENGTH]  # a proxy may pass on anything
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return address
