"""Billing: the ratio of a server, and whether a reporter is outside the quota.

Pure. Raw bytes are as reported. Billed bytes count against quotas; they are computed once, when a
report is accepted, so that a later change of a ratio does not change earlier reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

AS_REPORTED_MILLIS = 1000
"""The default ratio: a byte is billed as one byte."""
MAX_RATIO_MILLIS = 1000 * AS_REPORTED_MILLIS

_RATIO = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,3}))?", re.ASCII)


class Ratio(msgspec.Struct, frozen=True):
    """A server's billing ratio in thousandths, and since when it holds."""

    server: str
    ratio_millis: int
    set_at_millis: int


class Tariff(msgspec.Struct, frozen=True):
    """How the reports of one sender are billed, if not all of them as reported."""

    ratios: Mapping[str, int]
    counts_toward_quota: bool

    def billed_bytes(self, server: str, raw_bytes: int) -> int | None:
        """Return a report's billed bytes; None if they are the raw bytes."""
        if not self.counts_toward_quota:
            return 0
        ratio_millis = self.ratios.get(server)
        return None if ratio_millis is None else bill(raw_bytes, ratio_millis)


class Billing:
    """The present ratios of all servers."""

    def __init__(self, ratios: Iterable[Ratio] = ()) -> None:
        self.ratios: Mapping[str, int] = {
            each.server: each.ratio_millis
            for each in ratios
            if each.ratio_millis != AS_REPORTED_MILLIS
        }

    def ratio_millis(self, server: str) -> int:
        """Return a server's ratio in thousandths."""
        return self.ratios.get(server, AS_REPORTED_MILLIS)

    def tariff(self, *, counts_toward_quota: bool) -> Tariff | None:
        """Return how a sender's reports are billed; None if all of them as reported."""
        if counts_toward_quota and not self.ratios:
            return None
        return Tariff(self.ratios, counts_toward_quota)


def bill(raw_bytes: int, ratio_millis: int) -> int:
    """Return the billed bytes at a ratio; a fraction of a byte is rounded up."""
    return raw_bytes * ratio_millis // AS_REPORTED_MILLIS


def parse_ratio(text: str) -> int:
    """Parse a ratio such as `2` or `0.5` into thousandths.

    Raises ValueError unless it is a number from 0 to 1000 with at most three decimals.
    """
    found = _RATIO.fullmatch(text)
    if found is not None:
        ratio_millis = int(found[1]) * 1000 + int((found[2] or "").ljust(3, "0"))
        if ratio_millis <= MAX_RATIO_MILLIS:
            return ratio_millis
    raise ValueError(
        f"a ratio is a number from 0 to {MAX_RATIO_MILLIS // 1000} with at most three decimals, "
        f"such as 2 or 0.5, not {text!r}"
    )


def show_ratio(ratio_millis: int) -> str:
    """Format a ratio, such as `2` or `0.5`."""
    whole, rest = divmod(ratio_millis, 1000)
    return f"{whole}.{rest:03}".rstrip("0").rstrip(".")
