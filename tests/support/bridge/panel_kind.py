"""Which kind of panel a scenario runs on that does not say it.

`TEST_PANEL_KIND=pasarguard uv run --group dev pytest tests/integration/bridge/…` shows what becomes
of it on the other kind. Not all end alike there: a next plan that waits for both limit and expiry,
or a reset of a disabled user that its status tells of, is Marzban's alone. What PasarGuard does
instead is in `test_pasarguard.py`.
"""

from __future__ import annotations

import os

PANEL_KIND = os.environ.get("TEST_PANEL_KIND", "marzban")
