"""`Retry-After`, as both packages read it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from collector.runtime.http import retry_after as of_collector
from marzban_bridge.panels.http import retry_after as of_bridge

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("package", [of_collector, of_bridge])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("86400", 86400.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 12:00:30 -0000", 30.0),
        ("Tue, 24 Nov 2026 13:00:30 +0100", 30.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 12:00:30 -9999", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\N{FULLWIDTH DIGIT SEVEN}", None),
        ("99999999999999", None),
    ],
)
def test_retry_after_is_read_in_both_forms(package, text, seconds):
    assert package.retry_after_seconds(text, now=NOW) == seconds
