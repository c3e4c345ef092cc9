"""The Marzban adapter against scripted answers: spellings, errors, sign-in, quirks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest

from marzban_bridge.errors import (
    PanelBusyError,
    PanelError,
    PanelFailingError,
    PanelLoginError,
    PanelRefusedError,
    PanelUnavailableError,
    UserNotFoundError,
)
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.marzban import parse_user
from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.users import NextPlan, ResetStrategy, Status, UserUpdate

USER = {
    "username": "alice",
    "status": "limited",
    "data_limit": 10,
    "used_traffic": 7,
    "lifetime_used_traffic": 9,
    "data_limit_reset_strategy": "month",
    "created_at": "2026-11-23T11:29:44.335358",
    "expire": 1798025384,
    "on_hold_expire_duration": None,
    "next_plan": None,
    "admin": {"username": "reseller", "is_sudo": False},
}
SYSTEM = {"version": "0.8.4", "total_user": 3}
PLAN = {"data_limit": 5, "expire": 0, "add_remaining_traffic": True, "fire_on_either": False}


class Script:
    """A panel that answers from a list and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        if request.url.path == "/api/admin/token":
            return httpx.Response(200, json={"access_token": f"token-{len(self.requests)}"})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx.Response(status, json=body)

    def panel(self):
        return RestPanel(
            "http://panel",
            kind=PanelKind.MARZBAN,
            username="root",
            password="hunter2",
            transport=httpx.MockTransport(self),
        )

    def asked(self):
        return [f"{request.method} {request.url.path}" for request in self.requests]


def test_a_user_object_is_read_in_the_bridges_words():
    user = parse_user(USER | {"next_plan": PLAN | {"from_a_newer_panel": 1}})
    assert user.status is Status.LIMITED
    assert (user.data_limit_bytes, user.used_bytes, user.lifetime_bytes) == (10, 7, 9)
    assert user.reset_strategy is ResetStrategy.MONTH
    assert user.created_at == datetime(2026, 11, 23, 11, 29, 44, 335358, tzinfo=UTC)
    assert user.admin == "reseller"
    assert user.next_plan == NextPlan(
        data_limit_bytes=5,
        expire=0,
        adds_remaining_traffic=True,
        fires_on_either=False,
        panel_fields=PLAN | {"from_a_newer_panel": 1},
    )


@pytest.mark.parametrize("limit", [None, 0])
def test_no_limit_and_zero_both_mean_unlimited(limit):
    assert parse_user(USER | {"data_limit": limit}).data_limit_bytes is None


@pytest.mark.parametrize(
    "damage", [{"status": "frozen"}, {"used_traffic": None}, {"created_at": "yesterday"}]
)
def test_an_object_that_is_not_a_user_is_refused_with_a_question(damage):
    with pytest.raises(PanelError, match="is MARZBAN_URL a Marzban panel"):
        parse_user(USER | damage)


async def test_it_signs_in_once_and_again_when_the_token_is_refused():
    script = Script((200, USER), (401, {}), (200, USER))
    panel = script.panel()
    await panel.get_user("alice")
    await panel.get_user("alice")
    assert script.asked() == [
        "POST /api/admin/token",
        "GET /api/user/alice",
        "GET /api/user/alice",
        "POST /api/admin/token",
        "GET /api/user/alice",
    ]
    assert script.requests[-1].headers["authorization"] == "Bearer token-4"


async def test_a_refused_sign_in_names_the_settings_and_not_the_password():
    transport = httpx.MockTransport(lambda _: httpx.Response(401, json={"detail": "no"}))
    panel = RestPanel(
        "http://panel",
        kind=PanelKind.MARZBAN,
        username="root",
        password="hunter2",
        transport=transport,
    )
    with pytest.raises(PanelLoginError, match="MARZBAN_USERNAME and MARZBAN_PASSWORD") as caught:
        await panel.get_user("alice")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, {"detail": "User not found"}), UserNotFoundError),
        ((403, {"detail": "no"}), PanelRefusedError),
        ((422, {"detail": {"data_limit": "bad"}}), PanelRefusedError),
        ((500, "oops"), PanelFailingError),
        ((429, {}), PanelBusyError),
        ((502, "oops"), PanelUnavailableError),
        ((503, "oops"), PanelUnavailableError),
        ((504, "oops"), PanelUnavailableError),
        ((525, "oops"), PanelUnavailableError),
        (httpx.ConnectError("refused"), PanelUnavailableError),
        (httpx.ReadTimeout("slow"), PanelUnavailableError),
    ],
)
async def test_failures_are_told_apart(answer, error):
    with pytest.raises(error) as caught:
        await Script(answer).panel().get_user("alice")
    assert type(caught.value) is error


async def test_a_connection_the_panel_closed_unannounced_costs_nothing():
    script = Script(httpx.ReadError("closed"), (200, USER))
    assert (await script.panel().get_user("alice")).username == "alice"


async def test_a_reset_is_not_sent_again_blindly():
    script = Script(httpx.ReadError("closed"))
    with pytest.raises(PanelUnavailableError):
        await script.panel().reset_user("alice")
    assert len(script.requests) == 2


async def test_a_write_sends_only_what_changes_and_the_next_plan_as_it_was():
    script = Script((200, USER))
    plan = parse_user(USER | {"next_plan": PLAN}).next_plan
    await script.panel().update_user(
        UserUpdate(username="alice", data_limit_bytes=9, status=Status.DISABLED, next_plan=plan)
    )
    assert json.loads(script.requests[-1].content) == {
        "data_limit": 9,
        "status": "disabled",
        "next_plan": PLAN,
    }


async def test_a_page_that_is_no_json_is_not_taken_for_a_user():
    text = httpx.Response(200, text="ok")
    script = Script()
    transport = httpx.MockTransport(
        lambda request: text if request.method == "GET" else script(request)
    )
    panel = RestPanel(
        "http://panel",
        kind=PanelKind.MARZBAN,
        username="root",
        password="hunter2",
        transport=transport,
    )
    with pytest.raises(PanelError, match="is not JSON: is MARZBAN_URL a Marzban panel"):
        await panel.get_user("alice")


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_that_would_mean_unlimited_is_never_written(limit):
    script = Script()
    with pytest.raises(ValueError, match="reads 0 as unlimited"):
        await script.panel().update_user(UserUpdate(username="alice", data_limit_bytes=limit))
    assert script.requests == []


async def test_many_users_are_read_in_pages_of_names():
    script = Script((200, {"users": [USER]}), (200, {"users": []}))
    users = (await script.panel().get_users([f"user{number}" for number in range(60)])).users
    assert [user.username for user in users] == ["alice"]
    names = [request.url.params.get_list("username") for request in script.requests[1:]]
    assert [len(page) for page in names] == [50, 10]


class WithBrokenUsers:
    """A panel that answers 500 for each list with a broken user, and is well otherwise."""

    def __init__(self, *broken):
        self.broken = broken
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.url.path)
        names = request.url.params.get_list("username")
        match request.url.path:
            case "/api/admin/token":
                return httpx.Response(200, json={"access_token": "t"})
            case "/api/system":
                return httpx.Response(200, json=SYSTEM)
        if set(self.broken) & set(names):
            return httpx.Response(500, text="Internal Server Error")
        return httpx.Response(200, json={"users": [USER | {"username": name} for name in names]})


async def test_a_page_that_fails_is_read_in_parts_without_the_broken_users():
    names = [f"user{number}" for number in range(100)]
    server = WithBrokenUsers("user7", "user77")
    panel = RestPanel(
        "http://panel",
        kind=PanelKind.MARZBAN,
        username="root",
        password="p",
        transport=httpx.MockTransport(server),
    )
    users = (await panel.get_users(names)).users
    assert {user.username for user in users} == set(names) - set(server.broken)
    assert server.asked.count("/api/system") == 1, "for all pages and parts together"
    assert len(server.asked) <= 2 + 2 * 13


async def test_a_panel_that_fails_for_everybody_is_down_and_not_empty():
    script = Script((500, "oops"), (500, "oops"))
    with pytest.raises(PanelUnavailableError, match="fails at everything") as caught:
        await script.panel().get_users(["alice", "bob"])
    assert not isinstance(caught.value, PanelFailingError), "that would be one user's trouble"


async def test_one_broken_user_alone_does_not_make_the_panel_down():
    script = Script((500, "oops"), (200, SYSTEM), (500, "oops"))
    assert (await script.panel().get_users(["broken"])).users == []


@pytest.mark.parametrize(
    "answer",
    [(429, {}), (502, "oops"), (503, "oops"), (504, "oops"), httpx.ReadTimeout("slow")],
)
async def test_a_list_that_an_outage_refuses_is_not_taken_apart(answer):
    script = Script(answer)
    with pytest.raises(PanelUnavailableError):
        await script.panel().get_users([f"user{number}" for number in range(100)])
    assert script.asked() == ["POST /api/admin/token", "GET /api/users"]


async def test_a_query_that_no_client_sends_is_a_refusal_and_no_outage():
    script = Script((200, USER))
    panel = script.panel()
    listed = await panel.get_users(["n" * 70_000])
    assert list(listed.aside.values()) == ["the panel refuses to be asked for it (414)"]
    assert (await panel.get_user("alice")).username == "alice"


async def test_firing_a_next_plan_takes_the_panels_404_for_an_answer():
    script = Script((404, {"detail": "User doesn't have next plan"}))
    await script.panel().fire_next_plan("alice")
    assert script.asked()[-1] == "POST /api/user/alice/active-next"


async def test_a_hostile_name_stays_one_path_segment():
    script = Script((404, {}))
    with pytest.raises(UserNotFoundError):
        await script.panel().get_user("..admin?x=1#y%z")
    assert script.requests[-1].url.raw_path == b"/api/user/..admin%3Fx%3D1%23y%25z"


@pytest.mark.parametrize("name", ["", ".", "..", "alice/usage", "../admin"])
async def test_a_name_that_is_no_path_segment_is_unknown_without_asking(name):
    script = Script()
    with pytest.raises(UserNotFoundError):
        await script.panel().get_user(name)
    assert script.requests == []


async def test_somebody_elses_token_is_used_as_it_is_and_not_renewed():
    script = Script((401, {"detail": "Could not validate credentials"}))
    with pytest.raises(PanelRefusedError) as caught:
        await script.panel().whoami(bearer="theirs")
    assert caught.value.status == 401
    assert script.asked() == ["GET /api/admin"]
    assert script.requests[0].headers["authorization"] == "Bearer theirs"


@pytest.mark.parametrize("asked", ["Alice", "alice2", "alic"])
async def test_an_answer_about_another_user_than_asked_for_is_no_such_user(asked):
    update = UserUpdate(username=asked, data_limit_bytes=1)
    with pytest.raises(UserNotFoundError):
        await Script((200, USER)).panel().get_user(asked)
    with pytest.raises(UserNotFoundError):
        await Script((200, USER)).panel().update_user(update)
    with pytest.raises(UserNotFoundError):
        await Script((200, USER)).panel().get_user_as(asked, bearer="t")
