"""What proves that an answer is a collector's, and not that of a proxy or another program.

A sender sets a report aside, or forgets it, on the strength of one answer. A web server between the
two answers 400, 413 or 200 as well, and knows nothing of reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = "traffic-collector"
"""In each answer of a collector to who reports; its value is the version of the protocol."""
VALUE = "1"


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
