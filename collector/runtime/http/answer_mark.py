"""What proves that an answer is a collector's, and not that of a proxy or another program.

A sender sets a report aside, or forgets it, on the strength of one answer. A web server between the
two answers 400, 413 or 200 as well, and knows nothing of reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HEADER = "traffic-collector"
"""In each answer of a collector to a reporter; its value is the version of the protocol."""
VALUE = "1"
REQUEST_HEADER = "traffic-collector-request"
"""In a request: a random word, which the mark of its answer repeats."""
NO_WORD = "-"
_WORD = re.compile(r"[0-9A-Za-z]{1,64}")


def mark_of(request_word: str | None) -> str:
    """Return the mark of the answer to a request that has this word, or none.

    The answer to one without a word is none to a request that has one.
    """
    is_word = request_word is not None and _WORD.fullmatch(request_word)
    return f"{VALUE} {request_word if is_word else NO_WORD}"


def is_of_another_request(headers: Mapping[str, str], request_word: str) -> bool:
    """Tell whether an answer's mark repeats the word of another request than this.

    A proxy may mix answers up, or replay one. A collector of an older version repeats no word.
    """
    _, _, word = headers.get(HEADER, "").partition(" ")
    return word not in {"", request_word}


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
