"""The header by which an answer is a collector's, and not that of a proxy or another program.

A sender sets a report aside, or deletes it, by one answer. A web server between the two answers
400, 413 or 200 as well, and does not store reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HEADER = "traffic-collector"
"""In each answer of a collector to a reporter; its value is the version of the protocol."""
VALUE = "1"
REQUEST_HEADER = "traffic-collector-request"
"""In a request: its random id, which the mark of its answer repeats."""
NO_ID = "-"
_ID = re.compile(r"[0-9A-Za-z]{1,64}")


def mark_of(request_id: str | None) -> str:
    """Return the mark of an answer: the id of the request, or NO_ID without a valid one."""
    is_id = request_id is not None and _ID.fullmatch(request_id)
    return f"{VALUE} {request_id if is_id else NO_ID}"


def is_of_another_request(headers: Mapping[str, str], request_id: str) -> bool:
    """Tell whether an answer's mark repeats the id of another request than this.

    A proxy may mix answers up, or replay one. A collector of an older version repeats no id.
    """
    _, _, repeated = headers.get(HEADER, "").partition(" ")
    return repeated not in {"", request_id}


def is_collectors(headers: Mapping[str, str], answer: Mapping[str, Any]) -> bool:
    """Tell whether an answer, whose JSON object is given, is a collector's.

    `headers` are read without regard to case, or have names in lower case. A collector of a version
    before the header is known by the fields of its receipt, or of its refusal.
    """
    if HEADER in headers:
        return True
    is_receipt = type(answer.get("accepted")) is int
    is_refusal = isinstance(answer.get("detail"), str) and isinstance(answer.get("errors"), list)
    return is_receipt or is_refusal
