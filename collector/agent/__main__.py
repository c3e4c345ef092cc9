"""`python -m collector.agent` is `traffic-agent`."""

from __future__ import annotations

import sys

from collector.agent.cli import main

sys.exit(main())
