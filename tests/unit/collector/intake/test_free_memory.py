"""Free memory is given back, wherever the C library lets a program say so."""

from __future__ import annotations

import ctypes
import sys

import pytest

from collector.intake import free_memory


@pytest.fixture(autouse=True)
def _looks_again():
    free_memory._trim.cache_clear()
    yield
    free_memory._trim.cache_clear()


def test_a_c_library_that_can_is_told_to_keep_nothing(monkeypatch):
    told: list[int] = []

    class Library:
        def __init__(self, name: None) -> None:
            assert name is None

        def malloc_trim(self, kept: ctypes.c_size_t) -> int:
            told.append(kept.value)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    free_memory.give_back()
    free_memory.give_back()
    assert told == [0, 0]


def test_nothing_is_done_with_another_c_library(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or object())
    free_memory.give_back()
    assert asked == [None]


def test_nothing_is_done_where_no_library_can_be_asked(monkeypatch):
    """The thread that stores reports goes on."""

    def refuse(_: None) -> None:
        raise OSError("no dynamic loading")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    free_memory.give_back()
    monkeypatch.setitem(sys.modules, "ctypes", None)
    free_memory._trim.cache_clear()
    free_memory.give_back()


def test_the_one_of_this_machine_may_be_asked():
    free_memory.give_back()
