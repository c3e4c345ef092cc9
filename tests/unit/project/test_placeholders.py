"""Values of SQL statements are bound by position (`?`) or by name (`:name`), never by number.

Python 3.12.0 to 3.12.3 take `?1` for a name, and warn of a tuple of values for it.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.rows import for_each

ROOT = Path(__file__).parents[3]
NUMBERED = re.compile(r"[\s(]\?\d")


@for_each("folder", ["collector", "marzban_bridge", "tests"])
def test_no_value_is_bound_by_number(folder):
    texts = {path: path.read_text() for path in (ROOT / folder).rglob("*.py")}
    assert texts
    assert [str(path) for path, text in texts.items() if NUMBERED.search(text)] == []
