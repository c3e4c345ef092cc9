"""Ends what a set-up started when the set-up fails: what waits for it is handed nothing to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ending_on_failure(end: Callable[[], object]) -> Iterator[None]:
    """Call `end` if the block fails, an interrupt included; the failure goes on."""
    try:
        yield
    except BaseException:
        end()
        raise
