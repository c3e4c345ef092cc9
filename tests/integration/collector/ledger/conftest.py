"""A database of its own for a test of the ledger, and a way to it that can be cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engines.postgres_server import PostgresServer
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """A new database's name."""
    return postgres.new_database()


@pytest.fixture
def url(postgres: PostgresServer, database: str) -> str:
    """Its URL."""
    return postgres.url(database)


@pytest.fixture
def nodes(postgres: PostgresServer, database: str) -> list[str]:
    """A URL of it for each server that has a part of it."""
    return postgres.nodes(database)


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[TcpProxy]:
    """A proxy before the server."""
    proxy = TcpProxy(postgres.port)
    yield proxy
    proxy.close()
