"""Freed memory goes back to the system, where the C library can be told so."""

from __future__ import annotations

import ctypes
import platform

from collector.runtime.heap import keep_heap_small


def test_the_c_library_takes_each_setting_or_is_left_alone(monkeypatch):
    set_options: dict[int, int] = {}

    class Library:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            set_options[name] = value
            return 1

    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda _: Library)
        assert keep_heap_small()
        assert set_options == {-8: 1, -1: 131072, -3: 131072}
        patched.setattr(ctypes, "CDLL", lambda _: object())
        assert not keep_heap_small()
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        assert callable(library.mallopt), "glibc has it"
