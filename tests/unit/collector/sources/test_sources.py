"""Foreign payloads become reports: of every version, whatever else is in them, nothing twice."""

from __future__ import annotations

import json
import re

import pytest

from collector.reports.decode import BodyTooLargeError, UnreadableBodyError
from collector.sources import MAX_ROWS, three_x_ui, uniproxy
from collector.sources.three_x_ui import ThreeXUi
from collector.sources.uniproxy import Node, Place, UniProxy
from collector.sources.users import AS_THEY_ARE, Users

PANEL = ThreeXUi("de-1")
IN_2_5_3 = {"id": 0, "inboundId": 0, "enable": False, "expiryTime": 0, "total": 0, "reset": 0}
IN_2_8_2 = IN_2_5_3 | {"subId": "", "allTime": 987_654_321, "lastOnline": 0}
IN_3_3_0 = IN_2_5_3 | {"uuid": "", "subId": "", "lastOnline": 0}
IN_3_6_0 = IN_3_3_0 | {"resetDay": 0, "resetMax": 0, "resetCount": 0, "lastSubFetch": 0}
VERSIONS = {"2.5.3": IN_2_5_3, "2.8.2": IN_2_8_2, "3.3.0": IN_3_3_0, "3.6.0": IN_3_6_0}


def client(email, up, down, fields=IN_3_6_0):
    return fields | {"email": email, "up": up, "down": down}


def inbound(up, down, **changes):
    row = {"IsInbound": True, "IsOutbound": False, "Tag": "inbound-443", "Up": up, "Down": down}
    return row | changes


def inform(*clients, inbounds=()):
    return json.dumps({"clientTraffics": clients, "inboundTraffics": inbounds}).encode()


def read(body, panel=PANEL, message_id=None):
    return three_x_ui.translate(body, panel, message_id=message_id)


def said(translated):
    return {
        wire.user_token: (wire.bytes_uploaded, wire.bytes_downloaded)
        for _, wire in translated.reports
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_post_of_every_version_of_3x_ui_counts_its_clients_that_moved_and_nothing_else(version):
    fields = VERSIONS[version]
    body = inform(
        client("alice", 1200, 88_000, fields),
        client("quiet", 0, 0, fields),
        client("bob", 0, 7, fields),
        inbounds=[inbound(1200, 88_007), inbound(1, 2, IsInbound=False, IsOutbound=True)],
    )
    translated = read(body)
    assert said(translated) == {"alice": (1200, 88_000), "bob": (0, 7)}
    assert (translated.ignored, translated.refusals) == (1, [])
    first = translated.reports[0][1]
    assert (first.server, first.port, first.protocol) == ("de-1", 0, "unknown")
    assert first.report_id is None


@pytest.mark.parametrize(
    "body",
    [
        {"clientTraffics": None, "inboundTraffics": None},
        {"clientTraffics": []},
        {"inboundTraffics": [inbound(5, 5)]},
        {"clientTraffics": [None], "inboundTraffics": "of a later version"},
    ],
)
def test_a_post_of_nobody_s_traffic_reports_nothing(body):
    translated = read(json.dumps(body).encode())
    assert (translated.reports, translated.refusals, translated.ignored) == ([], [], 0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'"x"', b"{}", b'{"clientTraffics": 3}', b"\xff", b"[" * 3000]
)
def test_what_is_no_post_of_3x_ui_is_unreadable(body):
    with pytest.raises(UnreadableBodyError):
        read(body)


def test_a_row_that_is_wrong_is_named_and_the_others_are_kept():
    body = inform(
        client("alice", 1, 2),
        client("bob", -1, 2),
        client("carol", True, 2),
        client("dave", 1.5, 2),
        client(None, 1, 2),
        client("", 1, 2),
        7,
        client("erin", 1e3, 2.0),
    )
    translated = read(body)
    assert said(translated) == {"alice": (1, 2), "erin": (1000, 2)}
    assert sorted((each.index, each.field) for each in translated.refusals) == [
        (1, "bytes_uploaded"),
        (2, "bytes_uploaded"),
        (3, "bytes_uploaded"),
        (4, "user_token"),
        (5, "user_token"),
        (6, "report"),
    ]


def test_rows_of_the_same_client_are_one_report_so_that_one_id_can_hold_them():
    translated = read(inform(client("alice", 1, 2), client("alice", 10, 20)), message_id="m")
    assert said(translated) == {"alice": (11, 22)}


def test_a_client_has_the_same_id_in_the_same_message_and_another_in_another():
    body = inform(client("alice", 1, 2), client("bob", 1, 2))
    ids = [wire.report_id for _, wire in read(body, message_id="m").reports]
    assert len(set(ids)) == 2
    assert ids == [wire.report_id for _, wire in read(body, message_id="m").reports]
    others = [wire.report_id for _, wire in read(body, message_id="n").reports]
    assert not set(ids) & set(others)


def test_an_id_outlives_a_change_of_how_users_are_called():
    body = inform(client("alice-de", 1, 2))
    mapped = ThreeXUi("de-1", users=Users(pattern=re.compile("(?P<username>.+)-de")))
    (_, plain), (_, renamed) = (
        read(body, panel, message_id="m").reports[0] for panel in (PANEL, mapped)
    )
    assert (plain.user_token, renamed.user_token) == ("alice-de", "alice")
    assert plain.report_id == renamed.report_id


def test_more_rows_than_a_panel_can_have_are_refused_before_they_are_read():
    with pytest.raises(BodyTooLargeError):
        read(b'{"clientTraffics": [' + b"{}," * MAX_ROWS + b"{}]}")


@pytest.mark.parametrize(
    ("users", "foreign", "username"),
    [
        (AS_THEY_ARE, "alice", "alice"),
        (Users(pattern=re.compile("(?P<username>[^_]+)_.*")), "alice_de_1", "alice"),
        (Users(pattern=re.compile("(?P<username>[^_]+)_.*")), "alice", None),
        (Users(pattern=re.compile("(?P<username>a)|b")), "b", None),
        (Users(pattern=re.compile("(?P<username>.*)")), "x" * 300, None),
        (Users(table={"42": "alice"}), "42", "alice"),
        (Users(table={"42": "alice"}), "043", None),
    ],
)
def test_users_are_taken_as_they_are_or_by_a_pattern_of_the_whole_name_or_from_a_table(
    users, foreign, username
):
    assert users.username_of(foreign) == username
    assert ascii(foreign[:64]) in users.why_no_user(foreign)


V2BOARD = UniProxy(
    users=Users(table={"42": "alice", "43": "bob"}),
    nodes={"7": Place("fr-1", 443), "trojan/7": Place("fr-2")},
)


def push(body, node=Node("vless", "7"), message_id=None):
    return uniproxy.translate(json.dumps(body).encode(), node, V2BOARD, message_id=message_id)


def test_a_push_counts_each_user_of_the_table_on_the_node_and_names_the_others():
    translated = push({"42": [1, 2], "99": [3, 4], "43": [0, 0]})
    ((index, wire),) = translated.reports
    assert (index, wire.user_token, wire.bytes_uploaded, wire.bytes_downloaded) == (
        0,
        "alice",
        1,
        2,
    )
    assert (wire.server, wire.port, wire.protocol) == ("fr-1", 443, "vless")
    assert translated.ignored == 1
    ((refused),) = translated.refusals
    assert (refused.index, refused.field) == (1, "user_token")


@pytest.mark.parametrize(
    ("node", "server"),
    [
        (Node("vless", "7"), "fr-1"),
        (Node("trojan", "7"), "fr-2"),
        (Node("vless", "8"), "vless-8"),
    ],
)
def test_a_node_is_called_as_configured_for_its_type_or_for_its_id_else_as_in_its_panel(
    node, server
):
    assert push({"42": [1, 2]}, node).reports[0][1].server == server


def test_an_entry_that_is_wrong_is_named_and_the_others_are_kept():
    translated = push({"42": [1, 2], "43": [-1, 2], "44": [1], "45": "x", "46": [1, "2"]})
    assert said(translated) == {"alice": (1, 2)}
    assert [(each.index, each.field) for each in translated.refusals] == [
        (1, "bytes_uploaded"),
        (2, "report"),
        (3, "report"),
        (4, "bytes_downloaded"),
    ]


@pytest.mark.parametrize("body", [[], 3, "x", None])
def test_what_is_no_push_is_unreadable(body):
    with pytest.raises(UnreadableBodyError):
        push(body)


def test_nothing_of_a_push_is_reported():
    translated = push({})
    assert (translated.reports, translated.refusals, translated.ignored) == ([], [], 0)


@pytest.mark.parametrize(
    ("query", "at_fault"),
    [
        ({"node_id": "7", "node_type": "VLESS"}, None),
        ({"node_id": "7"}, {"node_type"}),
        ({"node_id": "", "node_type": ""}, {"node_type", "node_id"}),
        ({"node_id": "7\n", "node_type": "v"}, {"node_id"}),
        ({"node_id": "a/b", "node_type": "x" * 65}, {"node_type", "node_id"}),
    ],
)
def test_a_push_names_its_node_and_what_it_speaks(query, at_fault):
    found = uniproxy.node_of(query)
    if at_fault is None:
        assert found == Node("vless", "7")
    else:
        assert set(found) == at_fault
