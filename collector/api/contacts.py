"""Routes about who reports: each reporter's last contact, and refused requests; admin key."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.senders import admin_router
from collector.api.usage_answers import at
from collector.contacts import store_contacts
from collector.reports.contacts import MOST_REFUSED, OTHERS
from collector.reports.reporters import Reporter

router = admin_router("/v1", tag="reporters", statuses=())


class ReporterStatus(BaseModel):
    """A reporter with a key, and when it last sent a request and a report."""

    name: str
    created_at: datetime
    revoked_at: datetime | None
    counts_toward_quota: bool
    last_contact_at: datetime | None
    """Its last request with a valid key or signature, whether or not it had reports."""
    last_report_at: datetime | None
    """Its last report that is stored; of the time that the ledger keeps reports."""


class RefusedRequests(BaseModel):
    """Requests with reports that were refused, of one address and for one reason."""

    address: str | None
    """An IPv4 address, or the first half of an IPv6 one; null for all other addresses."""
    reason: str
    requests: int
    last_at: datetime


class ReportersPage(BaseModel):
    """All reporters, and the refused requests of the last days."""

    reporters: list[ReporterStatus]
    refused: list[RefusedRequests]


@router.get("/reporters", response_description=f"At most {MOST_REFUSED} addresses are told apart")
async def reporters(collector: CollectorPart) -> ReportersPage:
    """List the reporters with a key, and who was refused in the last 7 days."""
    await store_contacts(collector)
    stored, last_reports, contacts = await collector.read(
        lambda reader: (reader.reporters(), reader.last_reports(), reader.contacts())
    )
    names = {each.name for each in stored}
    configured = [
        Reporter(name=name, key_hash=b"", created_at_millis=0)
        for name, _ in collector.settings.reporter_keys
        if name not in names
    ]
    return ReportersPage(
        reporters=[
            ReporterStatus(
                name=each.name,
                created_at=at(each.created_at_millis),
                revoked_at=_moment(each.revoked_at_millis),
                counts_toward_quota=each.counts_toward_quota,
                last_contact_at=_moment(contacts.last_contacts.get(each.name)),
                last_report_at=_moment(last_reports.get(f"reporter:{each.name}")),
            )
            for each in [*stored, *configured]
        ],
        refused=[
            RefusedRequests(
                address=None if each.address == OTHERS else each.address,
                reason=each.reason,
                requests=each.requests,
                last_at=at(each.last_at_millis),
            )
            for each in contacts.refused
        ],
    )


def _moment(millis: int | None) -> datetime | None:
    return None if millis is None else at(millis)
