"""The reports routes are served past the framework; to a client they are routes like the others."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from collector.api import pipeline
from collector.api.fast_routes import FastRoute
from collector.ledger.sqlite.reader import SqliteReader
from tests.support.collector.collectors import AS_REPORTER, CollectorWorld, running, wire

PATHS = ("/v1/reports", "/api/xpert/traffic-webhook")


@pytest.fixture
async def world(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        yield world


def route(world, path):
    return world.app._fast["POST", path]


@pytest.mark.parametrize("path", PATHS)
async def test_no_middleware_and_no_routing_comes_before_them(world, path, monkeypatch):
    async def refuse(*_):
        raise AssertionError("the framework was asked")

    monkeypatch.setattr("starlette.routing.Router.__call__", refuse)
    monkeypatch.setattr("fastapi.routing.APIRoute.handle", refuse)
    assert (await world.send(wire(), path=path)).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_behind_a_path_of_a_proxy_they_are_found_by_routing(world, path):
    transport = httpx.ASGITransport(world.app, root_path="/behind")
    async with httpx.AsyncClient(transport=transport, base_url="http://c.test") as client:
        answer = await client.post(f"/behind{path}", json=wire(), headers=AS_REPORTER)
    assert answer.status_code == 200
    assert await world.totals() == {"alice": 30}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_another_method_is_refused_with_the_one_that_is_taken(world, path, method):
    answer = await world.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_defect_reaches_the_server_which_answers_for_it(tmp_path, monkeypatch, caplog):
    def break_down(*_, **__):
        raise ZeroDivisionError("the inside of a defect")

    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(pipeline, "decode", break_down)
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        with pytest.raises(ZeroDivisionError):  # the server answers 500 and logs it
            await world.send(wire())


def test_what_they_claim_is_in_the_document(world_document):
    for path in PATHS:
        operation = world_document["paths"][path]["post"]
        named = {(each["in"], each["name"]) for each in operation["parameters"]}
        assert named == {
            ("query", "reporter"),
            ("query", "strict"),
            ("header", "webhook-id"),
            ("header", "idempotency-key"),
        }
        assert operation["security"][0] == {"reporterKey": []}


@pytest.fixture
async def world_document(world):
    return (await world.client.get("/openapi.json")).json()


async def test_they_are_declared_as_fast(world):
    for path in PATHS:
        assert isinstance(route(world, path), FastRoute)


@pytest.mark.parametrize("authorization", ["bearer {}", "BEARER   {}  "])
async def test_a_key_is_taken_however_its_scheme_is_written(world, authorization):
    key = AS_REPORTER["authorization"].removeprefix("Bearer ")
    answer = await world.send(wire(), headers={"authorization": authorization.format(key)})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic eDp5", "rk_a-reporter-key-for-tests"]
)
async def test_what_is_no_bearer_key_is_no_key(world, authorization):
    answer = await world.send(wire(), headers={"authorization": authorization})
    assert answer.status_code == 401
    assert "reporter key" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "query", "fields"),
    [
        ({"webhook-id": ""}, "", ["webhook-id"]),
        ({"webhook-id": "x" * 256, "idempotency-key": ""}, "", ["webhook-id", "idempotency-key"]),
        ({}, "?reporter=" + "n" * 65, ["reporter"]),
    ],
)
async def test_claims_beyond_their_bounds_are_named(world, headers, query, fields):
    answer = await world.send(wire(), path=f"/v1/reports{query}", headers=AS_REPORTER | headers)
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == fields
    assert await world.totals() == {}


async def test_of_a_header_that_comes_twice_the_first_counts(world):
    headers = [*AS_REPORTER.items(), ("webhook-id", "a"), ("webhook-id", "b")]
    await world.client.post("/v1/reports", json=wire(), headers=headers)
    answer = await world.send(wire(), headers=AS_REPORTER | {"webhook-id": "a"})
    assert answer.json()["duplicates"] == 1


class TestTheKeyRing:
    """Every request needs the valid keys; the ledger is asked for them once a second."""

    @pytest.fixture
    def reads(self, monkeypatch):
        reads = []
        reporters = SqliteReader.reporters

        def count(self):
            reads.append(1)
            return reporters(self)

        monkeypatch.setattr(SqliteReader, "reporters", count)
        return reads

    async def test_many_requests_at_once_read_it_once(self, reads, world):
        collector = world.app.state.collector
        collector.rules._valid_until_seconds = 0
        reads.clear()
        answers = await asyncio.gather(*(world.send(wire()) for _ in range(50)))
        assert {each.status_code for each in answers} == {200}
        assert len(reads) == 1

    async def test_a_request_that_goes_away_leaves_the_others_theirs(self, reads, world):
        collector = world.app.state.collector
        collector.rules._rules = None
        first = asyncio.create_task(collector.rules.key_ring())
        second = asyncio.create_task(collector.rules.key_ring())
        await asyncio.sleep(0)
        first.cancel()
        assert len(await second) == 2
        assert first.cancelled()

    async def test_a_ledger_that_cannot_be_read_is_asked_again(self, world, monkeypatch):
        collector = world.app.state.collector
        collector.rules._rules = None

        def fail(self):
            raise OSError("no such disk")

        with monkeypatch.context() as patch:
            patch.setattr(SqliteReader, "reporters", fail)
            for _ in range(2):
                with pytest.raises(OSError, match="no such disk"):
                    await collector.rules.key_ring()
        assert len(await collector.rules.key_ring()) == 2
