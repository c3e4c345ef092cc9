"""Tables of PostgreSQL are created while another process may be creating the same ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from psycopg import errors as pg

from collector.ledger.postgres import schema
from collector.runtime.postgres import tables


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(tables, "PAUSE_SECONDS", 0)


def failing(*errors):
    left = list(errors)

    def attempt(*_):
        if left:
            raise left.pop(0)

    return attempt


@pytest.mark.parametrize("error", [pg.DuplicateTable, pg.DuplicateColumn, pg.UniqueViolation])
def test_a_collector_goes_on_where_another_one_created_the_same_first(monkeypatch, error):
    monkeypatch.setattr(schema, "_bring_forward", failing(error("it is there")))
    monkeypatch.setattr(schema, "_is_unfinished", lambda _: False)
    schema.bring_forward(SimpleNamespace(name="ledger", connect=lambda: None))


def test_it_gives_up_after_so_many_collisions():
    collisions = [pg.DuplicateTable("it is there") for _ in range(tables.TRIES)]
    assert not tables.create_beside_others(failing(*collisions))
    assert tables.create_beside_others(failing(*collisions[1:]))


def test_another_error_is_not_tried_again():
    with pytest.raises(pg.UndefinedTable):
        tables.create_beside_others(failing(pg.UndefinedTable("there is none")))
