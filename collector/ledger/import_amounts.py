"""The bytes that imports have counted, as the ledger stores them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Amounts(NamedTuple):
    """Bytes in both directions."""

    upload_bytes: int
    download_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of both directions."""
        return self.upload_bytes + self.download_bytes


class Grown(NamedTuple):
    """Bytes that imports stored, over all users."""

    raw_bytes: int
    billed_bytes: int


Sums = Mapping[str, Amounts]
"""By protocol."""
