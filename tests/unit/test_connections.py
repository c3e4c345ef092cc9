"""How many connections a server keeps: what is asked for, and what the machine has files for."""

from __future__ import annotations

import resource

import pytest

from collector.connections import FILES_BESIDE_CONNECTIONS, bounded, room_for

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "asked", "kept", "soft_afterwards"),
    [
        ((1024, 100_000), 500, 500, 1024),
        ((1024, 100_000), 4096, 4096, 4096 + FILES_BESIDE_CONNECTIONS),
        ((1024, 1024), 4096, 1024 - FILES_BESIDE_CONNECTIONS, 1024),
        ((1024, INFINITE), 4096, 4096, 4096 + FILES_BESIDE_CONNECTIONS),
        ((INFINITE, INFINITE), 4096, 4096, INFINITE),
        ((64, 64), 4096, 1, 64),
    ],
)
def test_the_limit_on_files_is_raised_as_far_as_needed_and_allowed(
    monkeypatch, limits, asked, kept, soft_afterwards
):
    current = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: current[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: current.__setitem__(0, new))
    assert room_for(asked) == kept
    assert current[0] == (soft_afterwards, limits[1])


def test_each_server_has_places_of_its_own():
    one, other = (bounded(connections=8, read_seconds=1) for _ in range(2))
    assert one.senders is not other.senders
