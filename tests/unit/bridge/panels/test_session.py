"""How often the bridge signs in at a panel: seldom with a wrong password, never in a storm."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from marzban_bridge.errors import PanelLoginError, PanelUnavailableError
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.rest_panel import RestPanel

USERS = [f"user{number}" for number in range(50)]


class Panel:
    """A panel whose sign-in and calls are answered as told, by a clock that tests move."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0
        self.asked: Counter[str] = Counter()
        self.password = "right"
        self.takes_tokens = True
        self.refused: set[str] = set()
        self.sign_in_answer: httpx.Response | None = None
        self.adapter = RestPanel(
            "http://panel",
            kind=PanelKind.MARZBAN,
            username="root",
            password="right",
            transport=httpx.MockTransport(self.handle),
        )
        self.adapter._session._monotonic_seconds = lambda: self.now_seconds
        self.adapter._gate._monotonic_seconds = lambda: self.now_seconds

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked[request.url.path] += 1
        await asyncio.sleep(0)
        if request.url.path == "/api/admin/token":
            return self._sign_in(request)
        token = request.headers["authorization"].partition(" ")[2]
        if not self.takes_tokens or token in self.refused:
            return httpx.Response(401, json={"detail": "Could not validate credentials"})
        return httpx.Response(200, json={"users": [], "total": 0})

    def _sign_in(self, request: httpx.Request) -> httpx.Response:
        if self.sign_in_answer:
            return self.sign_in_answer
        if f"password={self.password}" not in request.content.decode():
            return httpx.Response(401, json={"detail": "Incorrect username or password"})
        token = f"token-{self.sign_ins}"
        return httpx.Response(200, json={"access_token": token, "token_type": "bearer"})

    @property
    def sign_ins(self) -> int:
        return self.asked["/api/admin/token"]

    async def look_for(self, seconds: int, *, every: float = 0.5) -> None:
        """Look at users so often for so long, come what may."""
        until = self.now_seconds + seconds
        while self.now_seconds < until:
            with pytest.raises((PanelLoginError, PanelUnavailableError)):
                await self.adapter.get_users(USERS)
            self.now_seconds += every


@pytest.fixture
async def panel():
    opened = Panel()
    yield opened
    await opened.adapter.close()


async def test_a_busy_panel_is_asked_once_a_minute_if_it_says_so(panel):
    panel.sign_in_answer = httpx.Response(429, headers={"retry-after": "60"})
    await panel.look_for(60)
    assert panel.asked == {"/api/admin/token": 1}


async def test_a_wrong_password_is_tried_seldom_and_at_most_hourly_in_the_end(panel):
    panel.password = "another"
    await panel.look_for(60)
    assert panel.asked == {"/api/admin/token": 1}
    await panel.look_for(24 * 3600, every=30)
    assert panel.sign_ins <= 7 + 24
    before = panel.sign_ins
    await panel.look_for(3600, every=30)
    assert panel.sign_ins == before + 1


async def test_the_refusal_says_when_it_is_tried_again_and_names_the_settings(panel):
    panel.password = "another"
    for _ in range(2):
        with pytest.raises(PanelLoginError, match=r"MARZBAN_PASSWORD.*at a restart") as caught:
            await panel.adapter.get_users(USERS)
    assert caught.value.retry_after_seconds == 60
    assert "right" not in str(caught.value)


async def test_a_password_that_is_right_again_is_found_after_the_pause_and_all_is_forgotten(panel):
    panel.password = "another"
    await panel.look_for(200)
    panel.password = "right"
    panel.now_seconds += 3600
    assert (await panel.adapter.get_users(USERS)).users == []
    panel.password, panel.refused = "another", {f"token-{number}" for number in range(9)}
    with pytest.raises(PanelLoginError) as caught:
        await panel.adapter.get_users(USERS)
    assert caught.value.retry_after_seconds == 60


async def test_many_whose_token_ran_out_at_once_share_one_sign_in(panel):
    await panel.adapter.get_users(USERS)
    panel.refused = {"token-1"}
    await asyncio.gather(*(panel.adapter.get_users(USERS) for _ in range(30)))
    assert panel.sign_ins == 2


async def test_a_token_that_is_refused_right_after_it_was_given_does_not_loop(panel):
    panel.takes_tokens = False
    await panel.look_for(60)
    assert panel.sign_ins <= 2
    with pytest.raises(PanelLoginError, match=r"takes the password .* refuses the token"):
        await panel.adapter.get_users(USERS)
    panel.takes_tokens = True
    assert (await panel.adapter.get_users(USERS)).users == [], "no sign-in is needed for that"


async def test_a_panel_that_takes_each_token_but_once_is_not_signed_in_to_at_each_request(panel):
    refused_times = 0
    for _ in range(120):
        panel.refused = {f"token-{number}" for number in range(panel.sign_ins + 1)}
        try:
            await panel.adapter.get_users(USERS)
        except PanelLoginError:
            refused_times += 1
        panel.now_seconds += 0.5
    assert refused_times
    assert panel.sign_ins <= 6


async def test_those_who_wait_for_a_sign_in_share_the_outage_it_meets(panel):
    panel.sign_in_answer = httpx.Response(503)
    looks = [panel.adapter.get_users(USERS) for _ in range(20)]
    results = await asyncio.gather(*looks, return_exceptions=True)
    assert all(isinstance(each, PanelUnavailableError) for each in results)
    assert panel.asked == {"/api/admin/token": 1}
