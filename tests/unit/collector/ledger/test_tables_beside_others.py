"""Tables of PostgreSQL are created while another process may be creating the same ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from psycopg import errors as pg

from collector.errors import LedgerError
from collector.ledger.postgres import schema
from collector.runtime.postgres import tables


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(tables, "PAUSE_SECONDS", 0)


def create(attempt):
    tables.create_beside_others(attempt, what="the ledger L", schema="s", error=LedgerError)


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
    with pytest.raises(LedgerError, match="the ledger L could not be prepared beside other"):
        create(failing(*collisions))
    create(failing(*collisions[1:]))


def test_another_error_is_not_tried_again():
    with pytest.raises(pg.UndefinedTable):
        create(failing(pg.UndefinedTable("there is none")))


def test_a_user_who_may_not_create_is_told_what_it_must_own():
    with pytest.raises(LedgerError, match=r"the ledger L: .* must own the database"):
        create(failing(pg.InsufficientPrivilege("permission denied")))
