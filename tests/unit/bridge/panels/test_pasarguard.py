"""PasarGuard's answers, as a running 5.2.1 gave them, in the bridge's words; and what is which."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime

import pytest

from marzban_bridge.errors import NotThePanelError
from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import MARZBAN, PASARGUARD, PASARGUARD_4
from marzban_bridge.panels.kinds import api_of, other_kind_of
from marzban_bridge.panels.marzban import MARZBAN_API
from marzban_bridge.panels.pasarguard import (
    PASARGUARD_API,
    parse_admin,
    parse_event,
    parse_user,
)
from marzban_bridge.panels.users import Status
from tests.recordings.panels import MARZBAN as FROM_MARZBAN
from tests.recordings.panels import PASARGUARD as FROM_PASARGUARD


def recorded(name):
    return FROM_PASARGUARD.recorded(name).body


def test_a_users_moments_are_moments_and_its_expiry_whole_seconds():
    data = recorded("user-get") | {"expire": "2027-01-01T00:00:00.5Z"}
    user = parse_user(data)
    assert user.expire == int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    assert user.created_at is not None
    assert user.created_at.tzinfo is UTC
    assert user.status is Status(data["status"])


def test_a_next_plan_is_kept_as_the_panel_gave_it_also_one_of_a_template():
    plan = {"user_template_id": 7, "data_limit": None, "expire": None, "new": {"x": 1}}
    read = parse_user(recorded("user-get") | {"next_plan": plan}).next_plan
    assert (read.template_id, read.data_limit_bytes, read.fires_on_either) == (7, None, True)
    assert read.panel_fields == plan


def test_every_recorded_user_is_read():
    names = [each for each in FROM_PASARGUARD.names() if each.startswith(("put-", "user-", "on-"))]
    read = 0
    for name in names:
        body = recorded(name)
        if isinstance(body, dict) and "proxy_settings" in body:
            assert parse_user(body).username == body["username"], name
            read += 1
    assert read >= 10


def test_an_owner_lacks_nothing():
    admin = parse_admin(recorded("admin-me"))
    assert admin.is_sudo
    assert admin.missing_permissions == ()


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, ()),
        ({"read": {"scope": 1}}, ("users.read",)),
        ({"update": None}, ("users.update",)),
        ({"reset_usage": {"scope": 0}}, ("users.reset_usage",)),
        ({"activate_next_plan": False}, ("users.activate_next_plan",)),
    ],
)
def test_what_a_role_lacks_is_named(change, missing):
    me = deepcopy(recorded("admin-me"))
    me["role"]["is_owner"] = False
    me["role"]["permissions"]["users"] |= change
    admin = parse_admin(me)
    assert (admin.missing_permissions, admin.is_sudo) == (missing, not missing)


def test_an_event_says_who_did_it_and_when():
    told = parse_event(FROM_PASARGUARD.content("webhook-data_usage_reset"))
    assert (told.username, told.is_reset, told.by) == ("carol", True, "boss")
    assert told.happened_at == datetime.fromtimestamp(1795854682.800421, UTC)
    by_itself = FROM_PASARGUARD.content("webhook-data_usage_reset") | {"by": {"id": None}}
    assert parse_event(by_itself).by is None
    assert parse_event(by_itself | {"enqueued_at": "soon"}).happened_at is None


def test_a_panel_is_recognised_by_who_it_says_the_bridge_is():
    assert api_of(recorded("admin-me")) is PASARGUARD_API
    assert api_of(FROM_MARZBAN.recorded("admins").body[0]) is MARZBAN_API


def test_a_pasarguard_of_before_roles_is_told_from_a_marzban():
    me = {"id": 1, "username": "boss", "is_sudo": True, "is_disabled": False, "used_traffic": 7}
    api = api_of(me)
    assert (api.dialect, api.credentials_field) == (PASARGUARD_4, "proxy_settings")
    admin = api.read_admin(me)
    assert (admin.username, admin.is_sudo, admin.used_bytes) == ("boss", True, 7)
    assert admin.missing_permissions == ()
    assert not api.read_admin(me | {"is_sudo": False}).is_sudo
    assert other_kind_of(recorded("user-get"), api) is None


@pytest.mark.parametrize(
    ("me", "seen"), [({"id": 1, "name": "x"}, "'id', 'name'"), ([], "a list"), ({}, "no fields")]
)
def test_what_is_neither_kind_is_refused_with_what_was_seen(me, seen):
    with pytest.raises(NotThePanelError, match=seen):
        api_of(me)


def test_a_user_of_the_other_kind_is_told_from_ones_own():
    assert other_kind_of(recorded("user-get"), MARZBAN_API) is PASARGUARD
    assert other_kind_of(recorded("user-get"), PASARGUARD_API) is None
    assert other_kind_of({"username": "x", "proxies": {}}, PASARGUARD_API) is MARZBAN


@pytest.mark.parametrize(
    ("version", "warns"), [("5.2.1", False), ("5.2.9", False), ("5.3.0", True), (None, True)]
)
def test_a_version_that_was_not_tried_is_used_with_a_warning(version, warns):
    check = PanelCheck(admin="b", is_sudo=True, version=version, dialect=PASARGUARD)
    assert any("5.2.1" in each for each in check.warnings) is warns


def test_of_a_plan_of_a_template_the_template_says_what_it_gives():
    plan = {"user_template_id": 7, "data_limit": 0, "expire": 0}
    read = parse_user(recorded("user-get") | {"next_plan": plan}).next_plan
    assert (read.data_limit_bytes, read.expire) == (None, None)
