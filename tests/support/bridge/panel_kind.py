"""Which kind of panel the scenarios run on that are not about one kind.

`TEST_PANEL_KIND=pasarguard uv run --group dev pytest tests/integration/bridge` runs them on the
other one, as every night does; a run of all tests has its own for what differs (`test_pasarguard`).
"""

from __future__ import annotations

import os

PANEL_KIND = os.environ.get("TEST_PANEL_KIND", "marzban")
