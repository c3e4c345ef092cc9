"""What each problem has (RFC 9457): for programs that answer without a framework, too."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
NO_TYPE = "about:blank"
"""The type of a problem that its status says all of (RFC 9457, section 4.2.1)."""


def details_of(status: int) -> dict[str, Any]:
    """Return the fields of a problem that follow from its status."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return {"type": NO_TYPE, "title": title, "status": status}
