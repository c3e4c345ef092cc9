"""The adapter of either kind, held to the Panel port against the simulated panel and a real one.

The real half runs with the variables that `test_simulator_scenarios` names.
"""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlencode

import pytest

from marzban_bridge.errors import PanelLoginError, PanelRefusedError, UserNotFoundError
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.users import ResetStrategy, Status, UserUpdate
from marzban_bridge.quota.account import FLOOR_BYTES
from tests.support.bridge.panels import (
    CREATED,
    EARLIER_PASARGUARD,
    FREE_ACCESS,
    PANELS_OF_BOTH_KINDS,
    open_driver,
)

G = 10**9
PLAN = {
    "data_limit": 5 * G,
    "expire": 0,
    "add_remaining_traffic": True,
    "fire_on_either": True,
}


@pytest.fixture(params=[*PANELS_OF_BOTH_KINDS, EARLIER_PASARGUARD])
async def driver(request):
    opened = open_driver(request.param)
    async with opened.client:
        answer = await opened.client.post("/api/admin/token", data=opened.credentials)
        opened.client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield opened


@pytest.fixture
async def panel(driver):
    adapter = driver.adapter()
    yield adapter
    await adapter.close()


@pytest.fixture
async def make(driver):
    """Create users for one test and remove them afterwards."""
    names = []

    async def create(*, used_bytes=0, **fields):
        name = f"t{uuid.uuid4().hex[:12]}"
        body = {"username": name, "data_limit": 10 * G, **FREE_ACCESS[driver.kind]}
        answer = await driver.client.post("/api/user", json=body | fields)
        assert answer.status_code == CREATED[driver.kind], answer.text
        names.append(name)
        if used_bytes:
            if not driver.has_control:
                pytest.skip("needs MARZBAN_TEST_CONTROL_URL")
            await driver.use(name, used_bytes)
        return name

    yield create
    if driver.kind == "pasarguard":  # on SQLite the next user of a number has its log
        await driver.client.post("/api/users/reset")
    for name in names:
        await driver.client.delete(f"/api/user/{name}")


async def test_a_user_is_read_as_it_was_created(panel, make):
    name = await make(data_limit_reset_strategy="month", next_plan=PLAN)
    user = await panel.get_user(name)
    assert (user.username, user.status) == (name, Status.ACTIVE)
    assert (user.data_limit_bytes, user.used_bytes, user.lifetime_bytes) == (10 * G, 0, 0)
    assert user.reset_strategy is ResetStrategy.MONTH
    assert user.next_plan.data_limit_bytes == 5 * G
    assert user.created_at.tzinfo is not None


async def test_an_unlimited_user_has_no_limit(panel, make):
    assert (await panel.get_user(await make(data_limit=0))).data_limit_bytes is None


async def test_names_are_read_in_pages_in_their_order(panel, make):
    made = {await make() for _ in range(5)}
    names = []
    while page := await panel.usernames(offset=len(names), limit=2):
        assert len(page) <= 2
        names += page
    assert made <= set(names)
    assert len(names) == len(set(names))


async def test_named_users_are_listed_and_unknown_names_left_out(panel, make):
    names = [await make() for _ in range(3)]
    users = (await panel.get_users([*names, "nobody_at_all"])).users
    assert {user.username for user in users} == set(names)


async def test_an_unknown_user_is_told_from_other_refusals(panel):
    with pytest.raises(UserNotFoundError, match="nobody_at_all"):
        await panel.get_user("nobody_at_all")


async def test_a_wrong_password_is_a_matter_for_the_operator(driver):
    adapter = driver.adapter(password="wrong")
    with pytest.raises(PanelLoginError):
        await adapter.get_user("anybody")
    await adapter.close()


async def test_a_wrong_bearer_is_refused(panel):
    with pytest.raises(PanelRefusedError) as caught:
        await panel.whoami(bearer="nonsense")
    assert caught.value.status == 401


async def test_the_first_admin_is_sudo_and_of_marzban_in_no_list(driver, panel):
    me = await panel.whoami()
    assert (me.username, me.is_sudo) == (driver.credentials["username"], True)
    is_listed = me.username in [admin.username for admin in await panel.admins()]
    assert is_listed is (panel.dialect.kind is PanelKind.PASARGUARD)


async def test_a_write_changes_what_it_names_and_keeps_the_next_plan(panel, make):
    name = await make(next_plan=PLAN, note="a note", expire=4_102_444_800)
    before = await panel.get_user(name)
    after = await panel.update_user(
        UserUpdate(username=name, data_limit_bytes=3 * G, next_plan=before.next_plan)
    )
    assert after.data_limit_bytes == 3 * G
    assert after.next_plan == before.next_plan
    assert after.expire == 4_102_444_800
    assert await panel.get_user(name) == after


async def test_a_note_is_written_with_the_limit_and_read_back_and_removed(panel, make):
    name = await make(note="paid until May")
    assert (await panel.get_user(name)).note == "paid until May"
    noted = "paid until May\nQuota 10.00 GiB; ‌۳ GiB [bridge 1a2b3c4d:17@eu-1 q1 l1 e1 t1 00000000]"
    update = UserUpdate(username=name, data_limit_bytes=3 * G, note=noted)
    assert (await panel.update_user(update)).note == noted
    assert (await panel.get_users([name])).users[0].note == noted
    assert (await panel.update_user(UserUpdate(username=name, data_limit_bytes=G))).note == noted
    removed = await panel.update_user(UserUpdate(username=name, note=""))
    assert not removed.note


async def test_a_limit_below_the_used_traffic_cuts_off_and_a_larger_one_lets_in(panel, make):
    name = await make(used_bytes=4 * G)
    cut = await panel.update_user(UserUpdate(username=name, data_limit_bytes=3 * G))
    assert cut.status is Status.LIMITED
    let_in = await panel.update_user(UserUpdate(username=name, data_limit_bytes=10 * G))
    assert let_in.status is Status.ACTIVE


async def test_no_limit_cuts_off_a_user_without_traffic_but_disabling_does(panel, make):
    name = await make()
    floor = await panel.update_user(UserUpdate(username=name, data_limit_bytes=FLOOR_BYTES))
    assert floor.status is Status.ACTIVE
    update = UserUpdate(username=name, data_limit_bytes=FLOOR_BYTES, status=Status.DISABLED)
    assert (await panel.update_user(update)).status is Status.DISABLED
    back = UserUpdate(username=name, data_limit_bytes=10 * G, status=Status.ACTIVE)
    assert (await panel.update_user(back)).status is Status.ACTIVE


async def test_a_reset_zeroes_what_was_used_and_logs_it(panel, make):
    name = await make(used_bytes=4 * G, next_plan=PLAN)
    await panel.reset_user(name)
    user = await panel.get_user(name)
    assert (user.used_bytes, user.lifetime_bytes) == (0, 4 * G)
    assert user.next_plan is None


async def test_a_user_on_hold_is_put_back_on_hold_after_a_reset(panel, make):
    name = await make(status="on_hold", on_hold_expire_duration=86400)
    await panel.reset_user(name)
    is_lost = Status.ON_HOLD in panel.dialect.lost_to_reset
    status = (await panel.get_user(name)).status
    assert status is (Status.ACTIVE if is_lost else Status.ON_HOLD)
    update = UserUpdate(username=name, status=Status.ON_HOLD, on_hold_expire_duration=86400)
    after = await panel.update_user(update)
    assert (after.status, after.on_hold_expire_duration) == (Status.ON_HOLD, 86400)


@pytest.mark.parametrize("adds_remaining", [True, False])
async def test_a_next_plan_fires_whatever_the_panel_answers(panel, make, adds_remaining):
    name = await make(used_bytes=4 * G, next_plan=PLAN | {"add_remaining_traffic": adds_remaining})
    await panel.fire_next_plan(name)
    user = await panel.get_user(name)
    assert user.next_plan is None
    is_added = adds_remaining is panel.dialect.remaining_is_added_if
    assert user.data_limit_bytes == (11 * G if is_added else 5 * G)
    assert (user.status, user.used_bytes, user.lifetime_bytes) == (Status.ACTIVE, 0, 4 * G)


async def test_the_newest_users_are_told_by_their_creation_and_the_heaviest_by_traffic(panel, make):
    older, newer = await make(used_bytes=9 * G), await make()
    newest = await panel.newest_users(limit=2)
    assert newest.total >= 2
    assert newest.marks.keys() == {older, newer}
    assert newest.marks[newer].created_at == (await panel.get_user(newer)).created_at
    heaviest = await panel.heaviest_users(limit=1)
    assert heaviest.lifetime_bytes == {older: 9 * G}


async def test_names_that_are_equal_without_case_are_found(panel, make):
    name = await make()
    assert await panel.names_like(name.upper()) == [name]
    assert await panel.names_like(name[:-1]) == []


async def test_somebodys_sign_in_is_passed_on_and_its_token_read(driver, panel):
    form = urlencode(driver.credentials).encode()
    answer = await panel.sign_in_as(form, content_type="application/x-www-form-urlencoded")
    assert (answer.status, answer.is_success, answer.is_refusal) == (200, True, False)
    assert json.loads(answer.body)["access_token"] == answer.token
    assert (await panel.whoami(bearer=answer.token)).is_sudo
    refused = await panel.sign_in_as(
        b"username=nobody&password=x", content_type="application/x-www-form-urlencoded"
    )
    assert (refused.status, refused.is_refusal, refused.token) == (401, True, None)


async def test_an_event_of_a_reset_comes_with_the_user_and_an_odd_one_without(driver, panel, make):
    name = await make()
    user = (await driver.client.get(f"/api/user/{name}")).json()
    told = panel.event_of({"username": name, "action": "data_usage_reset", "user": user})
    assert (told.username, told.is_reset, told.user) == (name, True, await panel.get_user(name))
    for odd in ({}, {"user": None}, {"user": user | {"status": "frozen"}}):
        event = panel.event_of({"username": name, "action": "data_usage_reset"} | odd)
        assert (event.is_reset, event.user) == (True, None)
    assert not panel.event_of({"username": name, "action": "user_updated"}).is_reset
    assert panel.event_of({"username": name, "action": "reached_usage_percent"}) is None


async def test_its_kind_and_version_are_known_once_it_was_asked(driver, panel):
    check = await panel.check()
    assert (check.kind, panel.dialect.kind) == (driver.kind, driver.kind)
    assert check.warnings == ()


async def test_a_write_says_when_the_user_was_edited_where_the_panel_does(panel, make):
    name = await make()
    before = await panel.get_user(name)
    written = await panel.update_user(UserUpdate(username=name, data_limit_bytes=3 * G))
    if panel.dialect.has_edit_times:
        assert written.edited_at not in {None, before.edited_at}
    assert (await panel.get_user(name)).edited_at == written.edited_at
    await panel.reset_user(name)
    assert (await panel.get_user(name)).edited_at == written.edited_at
