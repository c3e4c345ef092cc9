"""What tests of several panels share: worlds that are opened by a test and closed after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.shared_stores import StorePlace

Opening = Callable[..., PanelsWorld]


@pytest.fixture
def opened_in_file(tmp_path: Path) -> Iterator[Opening]:
    """Opens a world of panels, whose store is a file unless the test says otherwise."""
    worlds: list[PanelsWorld] = []

    def open_world(*names: str, **options: object) -> PanelsWorld:
        worlds.append(PanelsWorld(tmp_path, *names, **options))
        return worlds[-1]

    yield open_world
    for world in worlds:
        world.close()


@pytest.fixture
def opened(store_place: StorePlace, opened_in_file: Opening) -> Opening:
    """Opens a world of panels with its store on each engine."""
    return functools.partial(opened_in_file, store=store_place.setting)
