"""How many examples Hypothesis draws for what takes long: few in a run of all tests, more if asked.

`TEST_EXAMPLES=10 uv run --group dev pytest tests/property` draws ten times as many, and others each time.
"""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("TEST_EXAMPLES", "1"))


def examples(count: int) -> int:
    """Return how many examples to draw where a run of all tests draws `count`."""
    return count * FACTOR
