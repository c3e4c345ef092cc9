"""`python -m marzban_bridge` is `marzban-bridge`."""

from __future__ import annotations

import sys

from marzban_bridge.cli.main import main

sys.exit(main())
