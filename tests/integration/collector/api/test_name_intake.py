"""Usernames on their way in: no blanks around them, and one spelling of what looks alike."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_REPORTER,
    KEY,
    OTHER_KEY,
    CollectorWorld,
    running,
    wire,
)

ORIGINAL = "/api/xpert/traffic-webhook"
COMPOSED, DECOMPOSED = "Zo\u00e9", "Zoe\u0301"
BLANKS = [" ", "\t", "\u00a0", "\u3000"]


@pytest.fixture
async def world(tmp_path):
    sources = tmp_path / "sources.toml"
    sources.write_text("[3x-ui.other]\nusers = { pattern = '(?P<username>.+)-nl' }\n")
    environment = {"COLLECTOR_SOURCES_FILE": str(sources)}
    made = CollectorWorld(path=tmp_path / "ledger.sqlite3", environment=environment)
    async with running(made) as world:
        yield world


@pytest.mark.parametrize("path", ["/v1/reports", ORIGINAL])
@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u3000"])
@pytest.mark.parametrize("name", ["alice{}", "{}alice", "{}"])
async def test_blanks_around_a_username_are_refused(world, path, blank, name):
    """MariaDB takes `alice ` for `alice`: whatever is reported for the one may be the other's."""
    answer = await world.send(wire(name.format(blank)), path=path)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "user_token"
    assert "begins or ends with a blank" in error["reason"]
    assert await world.totals() == {}


async def test_the_others_of_a_request_are_taken(world):
    answer = await world.send([wire("alice "), wire("bob")])
    assert answer.json()["accepted"] == 1
    assert [each["field"] for each in answer.json()["rejected"]] == ["user_token"]
    assert await world.totals() == {"bob": 30}


@pytest.mark.parametrize("headers", [AS_REPORTER, {}], ids=["reporter", "self"])
@pytest.mark.parametrize("form", [" {}", "{} ", "{}\n", " https://panel.example.com/sub/{}"])
async def test_blanks_around_a_subscription_are_none_of_it(world, headers, form):
    """It proves itself, and whose it is the panel says: copying it may leave a blank."""
    answer = await world.send(wire(form.format(ALICE_TOKEN)), headers=headers)
    assert answer.status_code == 200
    assert await world.totals() == {"alice": 30}
    assert world.asked == [f"/sub/{ALICE_TOKEN}/info"]


async def test_what_looks_alike_is_one_name(world):
    for name in (COMPOSED, DECOMPOSED):
        assert (await world.send(wire(name))).status_code == 200
    assert await world.totals() == {COMPOSED: 60}
    usage = await world.get(f"/v1/usage/{quote(DECOMPOSED)}")
    assert usage["username"] == COMPOSED
    assert usage["servers"]


@pytest.mark.parametrize(
    ("key", "email", "username"),
    [(KEY, " alice ", "alice"), (OTHER_KEY, " alice -nl", "alice"), (KEY, DECOMPOSED, COMPOSED)],
)
async def test_a_foreign_name_is_trimmed_where_it_is_made_a_username(world, key, email, username):
    body = {"clientTraffics": [{"email": email, "up": 10, "down": 20}], "inboundTraffics": []}
    answer = await world.send(body, path=f"/v1/sources/3x-ui/{key}", headers={})
    assert answer.status_code == 200
    assert await world.totals() == {username: 30}


async def test_a_foreign_name_of_blanks_is_nobodys(world):
    body = {"clientTraffics": [{"email": "  ", "up": 10, "down": 20}], "inboundTraffics": []}
    await world.send(body, path=f"/v1/sources/3x-ui/{KEY}", headers={})
    assert await world.totals() == {}
