"""How often one address may guess an admin's password through us; pure, given a clock reading.

The panel sees every sign-in that is passed through as ours, so it cannot tell guessers apart.
"""

from __future__ import annotations

from collector.runtime.http.strangers import network_of
from collector.runtime.rate_limit import RateLimit


class SignInThrottle(RateLimit):
    """Counts the refused sign-ins of each address.

    A sign-in is taken before it is tried, so that many at once do not slip through, and given back
    unless it was refused.
    """

    def __init__(
        self, *, burst: int = 10, refill_seconds: float = 6, remembered: int = 10_000
    ) -> None:
        super().__init__(per_second=1 / refill_seconds, burst=burst, remembered=remembered)

    def take(self, caller: str, *, now_seconds: float) -> float:
        """Take a sign-in from an address."""
        return super().take(network_of(caller), now_seconds=now_seconds)

    def give_back(self, caller: str, *, now_seconds: float) -> None:
        """Forget a sign-in that was no wrong guess."""
        super().give_back(network_of(caller), now_seconds=now_seconds)
