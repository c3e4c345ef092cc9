"""How many unverified credentials another server is asked to check; pure.

That server sees every check as one of this program, so it cannot limit them by client itself.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

from collector.runtime.rate_limit import RateLimit

MAX_ADDRESS_LENGTH = 45
ADDRESS_BURST = 10
ADDRESS_REFILL_SECONDS = 6.0


class Strangers:
    """Counts the checks that strangers cause: wrong ones per address, all of them in total.

    A check is taken before the server is asked, so that many at once do not slip through. It is
    given back to its address unless the proof was wrong; the total bounds what the server is asked.
    """

    def __init__(self, *, total_per_second: float, total_burst: float) -> None:
        self._addresses = RateLimit(
            per_second=1 / ADDRESS_REFILL_SECONDS, burst=ADDRESS_BURST, remembered=10_000
        )
        self._total = RateLimit(per_second=total_per_second, burst=total_burst, remembered=1)

    def take(self, address: str, *, now_seconds: float) -> float:
        """Take one check; return 0 if the server may be asked, else in how many seconds."""
        network = network_of(address)
        if wait_seconds := self._addresses.take(network, now_seconds=now_seconds):
            return wait_seconds
        if wait_seconds := self._total.take("", now_seconds=now_seconds):
            self._addresses.give_back(network, now_seconds=now_seconds)
        return wait_seconds

    def give_back(self, address: str, *, now_seconds: float) -> None:
        """Do not hold a check against its address: the proof was right, or could not be checked."""
        self._addresses.give_back(network_of(address), now_seconds=now_seconds)


def network_of(address: str) -> str:
    """Return what one client can hardly have more of: an IPv4 address, or a /64 of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:MAX_ADDRESS_LENGTH]  # a proxy may pass on anything
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return address


def forwarded_allow_ips(raw: str) -> tuple[str, ...]:
    """Return which proxies' `X-Forwarded-For` is trusted; ValueError for what is no address."""
    named = tuple(part.strip() for part in raw.split(",") if part.strip())
    for number, each in enumerate(named, start=1):
        if each == "*" and len(named) == 1:
            continue
        try:
            ip_network(each)
        except ValueError as error:
            raise ValueError(
                "expected addresses or networks of proxies, such as 127.0.0.1,10.0.0.0/8, or * "
                f"alone: entry {number} is not so ({error})"
            ) from None
    return named
