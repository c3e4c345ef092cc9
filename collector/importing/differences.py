"""Computes the part of a file's sums that was not imported yet; pure.

The original table has one row per user, server, port and day. It adds to the row all day, and
overwrites its protocol with the last one reported. So the sums over protocols are compared. Their
growth is counted under the protocols that grew, and a protocol that was overwritten changes no sum.
"""

from __future__ import annotations

from collector.ledger.import_amounts import Amounts, Sums

NOTHING = Amounts(0, 0)


def total(sums: Sums) -> Amounts:
    """Return the sum over all protocols."""
    return Amounts(
        sum(each.upload_bytes for each in sums.values()),
        sum(each.download_bytes for each in sums.values()),
    )


def difference(stated: Sums, counted: Sums) -> dict[str, Amounts] | None:
    """Return by protocol what was not imported yet; None if the file states less than that."""
    stated_total, counted_total = total(stated), total(counted)
    uploads = stated_total.upload_bytes - counted_total.upload_bytes
    downloads = stated_total.download_bytes - counted_total.download_bytes
    if uploads < 0 or downloads < 0:
        return None
    found: dict[str, Amounts] = {}
    for protocol, amounts in stated.items():
        before = counted.get(protocol, NOTHING)
        up = min(uploads, max(0, amounts.upload_bytes - before.upload_bytes))
        down = min(downloads, max(0, amounts.download_bytes - before.download_bytes))
        uploads -= up
        downloads -= down
        if up or down:
            found[protocol] = Amounts(up, down)
    return found
