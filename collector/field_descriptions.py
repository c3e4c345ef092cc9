"""What the fields of the collector's answers, and the parameters of its routes, mean."""

from __future__ import annotations

from typing import Any

DESCRIPTIONS = {
    "accepted": "Reports that are on disk now",
    "actor": "Who asked for it",
    "address": "An IPv4 address, or the first half of an IPv6 one; null for all other addresses",
    "after": "The sequence number that the reader has; the page begins after it",
    "after_seq": "The sequence number after which it begins",
    "asked_at": "When it was asked for",
    "avg_gb_per_connection": "Traffic divided by connections, in GiB",
    "billed_bytes": "Bytes that count against quotas, in both directions, after ratios",
    "change_seq": "The sequence number of the user's last change",
    "changes": "The users that changed, in the order of their last change",
    "cleanup_days": "Rows older than so many days were removed",
    "connections": "Connections, as reported",
    "corrected_billed_bytes": "What corrections added to the billed bytes; negative if subtracted",
    "corrected_download_bytes": "What corrections added to the download; negative if subtracted",
    "corrected_seq": "The sequence number of the newest correction of this user",
    "corrected_upload_bytes": "What corrections added to the upload; negative if subtracted",
    "corrections": "Voids and adjustments",
    "counts_toward_quota": "Whether what it reports is billed to quotas",
    "created_at": "When it was made",
    "daily_stats": "By UTC day",
    "data_source": "Where the numbers are from",
    "database_path": "The ledger's file, or its URL without secrets",
    "database_size_mb": "The size of the ledger, in MiB",
    "date": "The UTC day",
    "day": "The UTC day",
    "day_rows": "Daily sums that are kept",
    "days": "The last so many UTC days, today included; null or left out: all",
    "dedup_window_days": "For how many days the ids of reports are remembered",
    "deleted_rows": "So many rows were removed",
    "detail": "What went wrong, with which object, and what to do",
    "did_you_mean": "The field that its sender may have meant; null if none is close",
    "done_at": "When it was carried out to its end; null until then",
    "download_bytes": "Bytes that users received",
    "download_gb": "What users received, in GiB",
    "duplicates": "Reports whose id was counted before",
    "external_servers": "Servers that are no nodes of the panel",
    "field": "The name of the field",
    "free_disk_bytes": "Free bytes of the ledger's disk; null if the disk is a server's",
    "head": "The last sequence number of the ledger; below `after` if the ledger was restored",
    "hour_bytes": "The bytes of the largest hour of that day",
    "ignored": "Reports of zero bytes, which are not stored",
    "index": "The report's place in the array, from 0; null outside of reports",
    "integration_type": "How the traffic is reported",
    "kind": "Which kind it is",
    "last_at": "When it was the last time",
    "last_contact_at": "Its last request with a valid key or signature, with or without reports",
    "last_report_at": "The last report that is stored",
    "last_used": "When it was used last",
    "last_used_at": "When it was used last, by the dates of reports",
    "ledger_id": "The identity of the ledger: another one after it was replaced",
    "limit": "The most entries of the answer",
    "location": "The ledger's file, or its URL without secrets",
    "mark": "The digest of the reader's newest entry, which its next position is to match",
    "message": "What became of the report",
    "name": "The name of the reporter",
    "next": "The `after` of the next page",
    "number": "The number of the correction",
    "panel": "The panel that the reader serves",
    "past_hour_bytes": "The bytes of the largest hour of the days before",
    "period_billed_bytes": "The part of it that is of the period, billed",
    "period_days": "The last so many UTC days; null is all",
    "period_raw_bytes": "The part of it that is of the period, as reported",
    "period_seq": "The sequence number at which the user's period began",
    "period_since": "When the user's period began",
    "port": "The port that users connected to; 0 if it is not known",
    "position": "The sequence number up to which the reader has read",
    "problem": "Why it was not carried out; null if it was, or is not yet",
    "protocol": "The protocol, or `unknown`",
    "ratio": "Billed bytes per byte on this server, for reports from now on",
    "raw_bytes": "Bytes as reported, in both directions",
    "reader": "The id of the reader: the store of a bridge",
    "readers": "The readers of the feed, and how far each is",
    "reason": "Why",
    "reasons": "Why reports cannot be stored",
    "records": "Reports that are kept, to know what is sent again",
    "refused": "Requests with reports that were refused in the last 7 days, by address and reason",
    "rejected": "What is wrong with the others, one entry for each field at fault",
    "removed_day_rows": "So many daily sums were removed",
    "removed_reports": "So many reports were removed",
    "removed_series": "So many series were removed",
    "reporter_keys": "Reporters with a valid key",
    "reporters": "The reporters with a key",
    "reports": "How many reports",
    "requests": "How many requests",
    "retention_days": "For how many days daily sums are kept; 0 is for ever",
    "revoked_at": "When its key was revoked; null if it is valid",
    "runs": "Runs of the collector that wrote the ledger; see CollectorRun",
    "scope": "Whose reports: `reporter:NAME`, or `user:NAME` of a user without a key",
    "sender": "`reporter:NAME`, or `user:NAME` of a user without a key",
    "series_data": "What became of the old points in InfluxDB",
    "server": "The server's name, as reported",
    "server_count": "The number of series: servers with port and protocol",
    "servers": "By server; or how many there are",
    "since": "From when on",
    "size_bytes": "The size of the ledger",
    "status": "`success`, or whether reports can be stored",
    "through_seq": "The last sequence number that is looked at",
    "token": "The random id of the run",
    "top_servers": "The servers with most traffic",
    "total_connections": "Connections, as reported",
    "total_gb": "Traffic in both directions, in GiB",
    "total_gb_used": "Traffic in both directions, in GiB",
    "total_protocols": "How many protocols",
    "total_records": "Reports that are kept",
    "total_servers": "How many servers",
    "total_users": "How many users",
    "unique_servers": "How many servers",
    "unique_users": "How many users",
    "until": "Up to when",
    "upload_bytes": "Bytes that users sent",
    "upload_gb": "What users sent, in GiB",
    "user_token": "The username, or a subscription token",
    "username": "The user's name, as reported",
    "users": "How many users",
    "users_traffic": "The users' traffic",
    "protocols": "How many protocols",
    "wait": "For how many seconds to wait for a change, if there is none",
    "warnings": "What needs an operator, though reports are still stored",
}
SIGNATURE = {
    "type": "apiKey",
    "in": "header",
    "name": "webhook-signature",
    "description": (
        "In place of a key: a Standard Webhooks signature (`v1,` and the base64 of HMAC-SHA256 "
        "over `webhook-id.webhook-timestamp.body`), with the headers webhook-id and "
        "webhook-timestamp, and `?reporter=NAME`. The secret is `whsec_` and the base64 of the "
        "key's SHA-256"
    ),
}
REPORT_EXAMPLE = {
    "report_id": "de-1/2026-11-25T10:15/alice",
    "user_token": "alice",
    "server": "de-1.example.com",
    "port": 443,
    "protocol": "vless",
    "bytes_uploaded": 1048576,
    "bytes_downloaded": 8388608,
    "reported_at": "2026-11-25T10:15:00Z",
    "connections": 1,
}
ANSWER_EXAMPLE = {"accepted": 1, "duplicates": 0, "ignored": 0, "rejected": []}
PROBLEM_EXAMPLE = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "no report is valid: port expected `int` <= 65535",
    "errors": [{"index": 0, "field": "port", "reason": "expected `int` <= 65535"}],
}
_EXAMPLES = {"WireReport": REPORT_EXAMPLE, "Answer": ANSWER_EXAMPLE, "Problem": PROBLEM_EXAMPLE}
_WITHOUT_A_KEY: dict[str, list[str]] = {}
"""A user who reports for itself, by its subscription token."""


def describe_senders(document: dict[str, Any]) -> None:
    """Say how reports are signed, and give examples of a report, its answer and a refusal."""
    document["components"]["securitySchemes"]["signature"] = SIGNATURE
    for path in ("/v1/reports", "/api/xpert/traffic-webhook"):
        operation = document["paths"][path]["post"]
        operation["security"] = [{"reporterKey": []}, {"signature": []}, _WITHOUT_A_KEY]
    for name, example in _EXAMPLES.items():
        document["components"]["schemas"][name]["examples"] = [example]
