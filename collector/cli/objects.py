"""What commands show, as JSON objects; pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from collector.ledger import Backlog, ExportState
from collector.ledger.corrections import Correction
from collector.reports.contacts import Refused
from collector.reports.reporters import Configured, Reporter
from collector.schema import Policy


def reporter_object(
    reporter: Reporter | Configured,
    made_by: str,
    *,
    last_contact_millis: int | None,
    last_report_millis: int | None,
) -> Mapping[str, object]:
    """Return a reporter, without its key."""
    return {
        "name": reporter.name,
        "made_by": made_by,
        "created_at": _moment(reporter.created_at_millis),
        "revoked_at": _moment(reporter.revoked_at_millis),
        "last_contact_at": _moment(last_contact_millis),
        "last_report_at": _moment(last_report_millis),
        "counts_toward_quota": reporter.counts_toward_quota,
    }


def refused_object(refused: Refused) -> Mapping[str, object]:
    """Return the refused requests of an address; `address` is None for all other addresses."""
    return {
        "address": refused.address or None,
        "reason": refused.reason,
        "requests": refused.requests,
        "last_at": _moment(refused.last_at_millis),
    }


def export_object(policy: Policy, state: ExportState, backlog: Backlog) -> Mapping[str, object]:
    """Return the position of an export stream."""
    return {
        "bucket": policy.bucket,
        "seq": state.seq,
        "reports_behind": backlog.reports,
        "points": state.points,
        "problem": state.problem,
    }


def correction_object(correction: Correction) -> Mapping[str, object]:
    """Return a correction."""
    return {
        "number": correction.number,
        "kind": correction.wanted.kind.value,
        "asked_at": _moment(correction.asked_at_millis),
        "done_at": _moment(correction.done_at_millis),
        "actor": correction.wanted.actor,
        "reason": correction.wanted.reason,
        "username": correction.wanted.username,
        "scope": correction.wanted.scope,
        "reports": correction.reports,
        "raw_bytes": correction.raw_bytes,
        "billed_bytes": correction.billed_bytes,
        "problem": correction.problem,
    }


def _moment(millis: int | None) -> datetime | None:
    return None if millis is None else datetime.fromtimestamp(millis / 1000, tz=UTC)
