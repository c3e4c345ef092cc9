"""The confirm pages: what they show to whom, whom they believe, and what is done."""

from __future__ import annotations

import html
import logging
import re
from urllib.parse import quote, urlencode

import httpx
import pytest

from marzban_bridge.api import pages
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import PASSWORDS, BridgeWorld
from tests.support.collector.collectors import ADMIN_KEY as COLLECTOR_KEY
from tests.support.collector.collectors import CollectorWorld, running

RESET = "/confirm/users/alice/reset"
RESET_ALL = "/confirm/reset-all"
CLEANUP = "/confirm/cleanup?days=30"
PHRASES = {RESET: None, RESET_ALL: "reset all users", CLEANUP: "cleanup"}


def typed(path, *, by="boss", password=None, **changes):
    """Return the form as somebody fills it in."""
    form = {"username": by, "password": password or PASSWORDS.get(by, "a guess")}
    if PHRASES.get(path):
        form["confirm"] = PHRASES[path]
    return form | changes


def text_of(answer):
    """Return what is to be read on a page."""
    body = re.sub(r"<style>.*?</style>", "", answer.text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", body))


def is_a_page(answer):
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in pages.HEADERS.items():
        assert answer.headers[name] == value
    assert "set-cookie" not in answer.headers
    return answer


async def post(world, path, form, **arguments):
    return is_a_page(await world.client.post(path, data=form, **arguments))


@pytest.fixture
async def world(tmp_path):
    async with BridgeWorld(tmp_path).serving() as served:
        yield served


class TestAsking:
    """GET shows what would be done and changes nothing, for nobody in particular."""

    @pytest.mark.parametrize(("path", "phrase"), PHRASES.items())
    async def test_the_page_says_what_would_happen_and_asks_for_a_password(
        self, world, path, phrase
    ):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        before, looked = world.panel.get_user("alice"), world.faults.count("GET")
        answer = is_a_page(await world.client.get(path))
        assert answer.status_code == 200
        assert 'type="password"' in answer.text
        assert ('name="confirm"' in answer.text) == bool(phrase)
        assert not phrase or phrase in text_of(answer)
        assert world.panel.get_user("alice") == before
        assert world.faults.count("GET") == looked
        assert [
            each for each in world.bridge.store.events.newest() if each.event.kind == "reset"
        ] == []

    @pytest.mark.parametrize(
        ("path", "dashboard"),
        [
            (RESET, "/d/traffic-user?var-user=alice"),
            ("/confirm/users/a%2Fb%22%3E&c/reset", "/d/traffic-user?var-user=a%2Fb%22%3E%26c"),
            (RESET_ALL, "/d/traffic-overview"),
            (CLEANUP, "/d/traffic-overview"),
            ("/confirm/cleanup?days=none", "/d/traffic-overview"),
        ],
    )
    async def test_a_link_leads_back_to_the_dashboard_where_one_is_known(
        self, tmp_path, world, path, dashboard
    ):
        assert "<a " not in (await world.client.get(path)).text
        settings = {"dashboards_url": "https://grafana.example.com"}
        async with BridgeWorld(tmp_path / "another", **settings).serving() as served:
            for answer in (
                await served.client.get(path),
                await served.client.post(path, data=typed(path, password="a guess")),
            ):
                (address,) = re.findall(r'<a href="([^"]*)">', answer.text)
                assert html.unescape(address) == f"https://grafana.example.com{dashboard}"

    async def test_what_concerns_many_looks_more_dangerous_than_one_users_reset(self, world):
        for path in PHRASES:
            page = (await world.client.get(path)).text
            is_for_many = path != RESET
            assert ('class="destructive"' in page) == is_for_many
            assert ("This cannot be undone." in page) == is_for_many

    async def test_without_a_password_the_page_is_the_same_for_every_name(self, world):
        await world.use("alice", external_bytes=gib(7))
        known = await world.client.get("/confirm/users/alice/reset")
        unknown = await world.client.get("/confirm/users/elias/reset")
        assert known.text.replace("alice", "elias") == unknown.text
        assert "GiB" not in known.text

    @pytest.mark.parametrize(
        "name",
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "'; DROP TABLE account; --",
            "\u202egnp.exe",
            "مريم",
            "👩🚀",
            "a/b",
            "a b&c=d",
            "\x00\x1b[2J",
            "x" * 3000,
        ],
    )
    async def test_a_hostile_name_is_shown_as_text(self, world, name):
        path = f"/confirm/users/{quote(name, safe='')}/reset"
        for answer in (
            is_a_page(await world.client.get(path)),
            await post(world, path, typed(path)),
            await post(world, path, typed(path, by="nobody")),
        ):
            (heading,) = re.findall(r"<h1>(.*?)</h1>", answer.text)
            assert heading == f"Reset usage: {pages.shown(name)}"
            for danger in ("<script", "<img", "\u202e", "\x1b"):
                assert danger not in answer.text

    @pytest.mark.parametrize(
        "days", ["", "0", "-1", "36501", "1.5", "abc", "٣٠", "1e3", "9" * 5000, "<b>"]
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_days_must_be_a_number_of_days(self, world, method, days):
        path = f"/confirm/cleanup?{urlencode({'days': days})}"
        answer = is_a_page(await world.client.request(method, path, data=typed(CLEANUP)))
        assert answer.status_code == 422
        assert "36500" in text_of(answer)
        assert world.faults.count("POST", "/api/admin/token") == world.own_sign_ins

    async def test_the_pages_are_for_people_and_not_in_the_document_for_programs(self, world):
        document = (await world.client.get("/openapi.json")).json()
        assert not [path for path in document["paths"] if path.startswith("/confirm")]


class TestResettingAUser:
    """An admin of the panel who signs in may do what the panel lets it do."""

    @pytest.mark.parametrize("by", ["boss", "shop", "root"])
    async def test_the_user_begins_anew_and_its_standing_is_shown(self, world, by):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(4))
        answer = await post(world, RESET, typed(RESET, by=by))
        assert answer.status_code == 200, answer.text
        words = " ".join(text_of(answer).split())
        assert "Done." in words
        assert "Quota 10.0 GiB Used in the panel 0 B Used elsewhere 0 B" in words
        assert world.panel.get_user("alice")["data_limit"] == gib(10)
        (reset,) = [
            each for each in world.bridge.store.events.newest() if each.event.kind == "reset"
        ]
        assert (reset.username, reset.event.actor) == ("alice", by)
        metrics = (await world.client.get("/metrics")).text
        assert 'bridge_actions_total{action="reset",result="done"} 1.0' in metrics

    @pytest.mark.parametrize(("name", "status"), [("carol", 403), ("nobody", 404)])
    async def test_another_admins_user_is_not_reset(self, world, name, status):
        await world.use("carol", external_bytes=gib(2))
        path = f"/confirm/users/{name}/reset"
        answer = await post(world, path, typed(path, by="shop"))
        assert answer.status_code == status
        assert 'name="password"' in answer.text
        assert await world.get("/api/admin/usage/carol") == gib(2)
        (event,) = [
            each for each in world.bridge.store.events.newest() if each.event.kind == "action"
        ]
        assert event.event.actor == "shop"
        assert event.event.text.startswith("reset was refused: ")

    @pytest.mark.parametrize(
        "form",
        [
            {"username": "shop", "password": "a guess"},
            {"username": "nobody", "password": "a guess"},
            {"username": "", "password": ""},
            {"username": "shop"},
            {},
            {"username": "shop", "password": "x\x00\ud7ff🚀"},
        ],
    )
    async def test_a_wrong_password_does_nothing_and_leaves_no_event(self, world, form):
        await world.use("alice", external_bytes=gib(7))
        before = len(world.bridge.store.events.newest())
        answer = await post(world, RESET, form)
        assert answer.status_code == 403
        assert "does not know an admin of this name and password" in text_of(answer)
        assert await world.get("/api/admin/usage/alice") == gib(7)
        assert len(world.bridge.store.events.newest()) == before

    async def test_the_sign_in_is_the_form_and_nothing_the_browser_adds(self, world):
        await world.use("alice", external_bytes=gib(7))
        headers = world.as_("boss") | {"cookie": "session=boss"}
        answer = await post(world, RESET, {}, headers=headers)
        assert answer.status_code == 403
        assert await world.get("/api/admin/usage/alice") == gib(7)

    async def test_guesses_are_slowed_down_together_with_those_at_the_api(self, world):
        for _ in range(5):
            assert (await post(world, RESET, typed(RESET, password="a guess"))).status_code == 403
            assert (await world.sign_in("boss", "a guess")).status_code == 401
        asked = world.faults.count("POST", "/api/admin/token")
        answer = await post(world, RESET, typed(RESET))
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 6
        assert world.faults.count("POST", "/api/admin/token") == asked
        world.clock.advance(seconds=6)
        assert (await post(world, RESET, typed(RESET))).status_code == 200

    async def test_a_panel_that_is_away_is_said_and_uses_up_no_guesses(self, world):
        world.faults.is_down = True
        for _ in range(20):
            answer = await post(world, RESET, typed(RESET))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "panel" in text_of(answer)
        world.faults.is_down = False
        assert (await post(world, RESET, typed(RESET))).status_code == 200

    async def test_another_program_in_the_panels_place_is_no_sign_in(self, world):
        async def elsewhere(scope, receive, send):
            headers = [(b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"<h1>It works</h1>"})

        world.bridge.panel._client._transport = httpx.ASGITransport(elsewhere)
        answer = await post(world, RESET, typed(RESET))
        assert answer.status_code == 502

    @pytest.mark.parametrize(
        ("content", "status"),
        [
            (b"&".join(b"a%d=1" % number for number in range(50)), 400),
            (b"\xff\xfe%ff%zz&&&===", 403),
            (b"x" * 100_000, 413),
        ],
    )
    async def test_what_is_no_form_is_refused(self, world, content, status):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = is_a_page(await world.client.post(RESET, content=content, headers=headers))
        assert answer.status_code == status


@pytest.mark.parametrize("path", [RESET_ALL, CLEANUP])
class TestWhatConcernsEverybody:
    """It is for sudo admins, and takes typed words."""

    @pytest.mark.parametrize("words", ["", "yes", "RESET ALL USERS", "clean up", None])
    async def test_without_the_words_nobody_is_signed_in_and_nothing_happens(
        self, world, path, words
    ):
        form = typed(path, confirm=words) if words is not None else typed(path)
        if words is None:
            del form["confirm"]
        answer = await post(world, path, form)
        assert answer.status_code == 422
        assert PHRASES[path] in text_of(answer)
        assert world.faults.count("POST", "/api/admin/token") == world.own_sign_ins
        assert world.bridge.store.events.newest() == []

    async def test_a_reseller_may_not(self, world, path):
        answer = await post(world, path, typed(path, by="shop"))
        assert answer.status_code == 403
        assert "only a sudo admin may do that" in text_of(answer)
        assert world.faults.count("POST", "/api/users/reset") == 0
        assert world.bridge.store.events.newest() == []


async def test_a_sudo_admin_resets_its_own_users(world):
    world.panel.create_user("dave", by="boss", data_limit=gib(10))
    await world.use("dave", external_bytes=gib(7))
    await world.use("alice", external_bytes=gib(7))
    answer = await post(world, RESET_ALL, typed(RESET_ALL, by="boss"))
    assert answer.status_code == 200
    assert "Users with external traffic 1" in " ".join(text_of(answer).split())
    await world.bridges.run_once()
    assert await world.get("/api/admin/usage/dave") == 0
    assert await world.get("/api/admin/usage/alice") == gib(7)


async def test_a_sudo_admin_has_the_collector_clean_up(tmp_path):
    collector = CollectorWorld(path=tmp_path / "ledger.sqlite3")
    world = BridgeWorld(tmp_path, collector_admin_key=COLLECTOR_KEY)
    async with running(collector), world.serving(httpx.ASGITransport(collector.app)):
        answer = await post(world, CLEANUP, typed(CLEANUP))
        assert answer.status_code == 200, answer.text
        assert "removed reports" in text_of(answer)
        (event,) = world.bridge.store.events.newest()
        assert (event.event.kind, event.event.actor) == ("cleanup", "boss")


async def test_a_collector_that_is_away_is_said(world):
    world.ledger.is_down = True
    answer = await post(world, CLEANUP, typed(CLEANUP))
    assert answer.status_code == 503
    assert "collector" in text_of(answer)


async def test_no_password_is_ever_told(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    world = BridgeWorld(tmp_path)
    told = []
    async with world.serving():
        for is_down in (False, True):
            world.faults.is_down = is_down
            for path in PHRASES:
                for by in ("boss", "shop", "a-stranger"):
                    form = typed(path, by=by, password=PASSWORDS.get(by, "a-wrong-password"))
                    told.append((await post(world, path, form)).text)
    told += [f"{record.getMessage()} {record.exc_text}" for record in caplog.records]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    for secret in (*PASSWORDS.values(), "a-wrong-password"):
        assert not [text[:300] for text in told if secret in text], secret
