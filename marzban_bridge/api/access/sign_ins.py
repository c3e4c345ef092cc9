"""Limits guesses of an admin's password by address; pure, given a clock reading.

The bridge forwards sign-ins, so the panel sees its address only and cannot limit by address.
"""

from __future__ import annotations

from collector.runtime.http.strangers import network_of
from collector.runtime.rate_limit import RateLimit


class SignInThrottle(RateLimit):
    """Limits the refused sign-ins of each address.

    A permit is taken before a sign-in is tried, so that concurrent ones count too, and given back
    unless the sign-in was refused.
    """

    def __init__(
        self, *, burst: int = 10, refill_seconds: float = 6, remembered: int = 10_000
    ) -> None:
        super().__init__(per_second=1 / refill_seconds, burst=burst, remembered=remembered)

    def take(self, caller: str, *, now_seconds: float) -> float:
        """Take a permit for an address; return 0 if granted, else the seconds to wait."""
        return super().take(network_of(caller), now_seconds=now_seconds)

    def give_back(self, caller: str, *, now_seconds: float) -> None:
        """Give the permit of a sign-in that was not refused back."""
        super().give_back(network_of(caller), now_seconds=now_seconds)
