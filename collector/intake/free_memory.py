"""Gives memory that is free back to the system."""

from __future__ import annotations

import functools
from collections.abc import Callable


def give_back() -> None:
    """Give back what the C library keeps of freed memory; nothing where it is not glibc.

    It takes some milliseconds, in which other threads go on until they need memory.
    """
    _trim()()


@functools.cache
def _trim() -> Callable[[], object]:
    try:
        import ctypes  # noqa: PLC0415 - a megabyte of memory, which an idle collector never needs

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):  # no ctypes, no libraries, or not glibc
        return lambda: None
    return functools.partial(trim, ctypes.c_size_t(0))
