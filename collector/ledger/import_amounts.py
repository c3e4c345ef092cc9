"""What an import has counted of one line of a file, as the ledger remembers it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Amounts(NamedTuple):
    """Bytes both ways."""

    upload_bytes: int
    download_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.upload_bytes + self.download_bytes


class Grown(NamedTuple):
    """What imports stored, over all users."""

    raw_bytes: int
    billed_bytes: int


Sums = Mapping[str, Amounts]
"""By protocol."""
