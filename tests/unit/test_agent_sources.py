"""Each source's answer, as its versions give it: what it counts, and what cannot be understood."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.agent.counters import Counter, Life
from collector.agent.errors import SourceError
from collector.agent.sources import hysteria2, json_command, wireguard, xray

ALICE_KEY = "Xr0QIl4dBhq2xYq1vRO0ZQy0Lw1nJm6sB3d8E5u7F0g="
BOB_KEY = "bq2xYq1vRO0ZQy0Lw1nJm6sB3d8E5u7F0gXr0QIl4dE="

XRAY_VARS = {
    "cmdline": ["xray", "run"],
    "memstats": {"TotalAlloc": 123456, "NumGC": 7},
    "observatory": {},
    "stats": {
        "inbound": {"vless": {"uplink": 999, "downlink": 999}},
        "outbound": {"direct": {"uplink": 999, "downlink": 999}},
        "user": {
            "alice": {"uplink": 1200, "downlink": 88000},
            "7.bob": {"downlink": 5},
            "only-up": {"uplink": 3},
        },
    },
}


def counted(reading):
    return {each.user: (each.upload_bytes, each.download_bytes) for each in reading.counters}


def encoded(value):
    return json.dumps(value).encode()


def test_xray_s_page_counts_users_and_nothing_twice():
    reading = xray.parse_vars(encoded(XRAY_VARS))
    assert counted(reading) == {"alice": (1200, 88000), "7.bob": (0, 5), "only-up": (3, 0)}
    assert reading.life == Life(ticks=123456)
    assert reading.skipped == 0


def test_xray_without_users_yet_is_a_reading_of_nothing():
    assert counted(xray.parse_vars(b'{"stats": {"user": {}}}')) == {}
    assert counted(xray.parse_vars(b'{"stats": {}}')) == {}


@pytest.mark.parametrize(
    "body", [b'{"memstats": {}}', b'{"stats": null}', b"[]", b"<html>", b"", b"\xff"]
)
def test_a_page_that_is_not_xray_s_is_said_to_be_none(body):
    with pytest.raises(SourceError):
        xray.parse_vars(body)


def test_rows_that_make_no_sense_are_skipped_and_counted():
    users = {
        "a": {"uplink": -1},
        "b": 7,
        "": {"uplink": 1},
        "c": {"uplink": "x"},
        "d": {"uplink": 1},
    }
    reading = xray.parse_vars(encoded({"stats": {"user": users}}))
    assert counted(reading) == {"d": (1, 0)}
    assert reading.skipped == 4


@pytest.mark.parametrize("as_printed", [int, str], ids=["numbers", "texts"])
def test_xray_s_command_prints_numbers_or_texts_and_leaves_zeros_out(as_printed):
    stats = [
        {"name": "user>>>alice>>>traffic>>>uplink", "value": as_printed(10)},
        {"name": "user>>>alice>>>traffic>>>downlink", "value": as_printed(20)},
        {"name": "user>>>idle>>>traffic>>>downlink"},
        {"name": "user>>>alice>>>online", "value": as_printed(1)},
        {"name": "inbound>>>vless>>>traffic>>>uplink", "value": as_printed(999)},
        {"name": "user>>>odd>>>name>>>traffic>>>uplink", "value": as_printed(1)},
    ]
    reading = xray.parse_statsquery(encoded({"stat": stats}))
    assert counted(reading) == {"alice": (10, 20), "idle": (0, 0), "odd>>>name": (1, 0)}


def test_xray_s_command_without_a_match_prints_an_empty_object():
    assert counted(xray.parse_statsquery(b"{}\n")) == {}


def test_hysteria_s_tx_is_the_user_s_upload():
    body = b'{"wang":{"tx":514,"rx":4017},"joe":{"tx":3,"rx":0,"new":"field"}}'
    assert counted(hysteria2.parse(body)) == {"wang": (514, 4017), "joe": (3, 0)}
    assert counted(hysteria2.parse(b"{}")) == {}


def test_wireguard_s_received_is_the_user_s_upload_by_interface_and_key():
    printed = f"wg0\t{ALICE_KEY}\t1000\t2000\nwg1\t{ALICE_KEY}\t1\t2\nwg0\t{BOB_KEY}\t0\t0\n"
    reading = wireguard.parse(printed.encode())
    assert reading.counters == (
        Counter(f"wg0 {ALICE_KEY}", ALICE_KEY, 1000, 2000),
        Counter(f"wg1 {ALICE_KEY}", ALICE_KEY, 1, 2),
        Counter(f"wg0 {BOB_KEY}", BOB_KEY, 0, 0),
    )


def test_one_interface_of_wireguard_prints_no_interface():
    reading = wireguard.parse(f"{ALICE_KEY}\t5\t6\n\n".encode())
    assert reading.counters == (Counter(ALICE_KEY, ALICE_KEY, 5, 6),)
    assert wireguard.parse(b"").counters == ()


@pytest.mark.parametrize(
    "printed", [f"wg0\t{ALICE_KEY}\t(none)\tx\ty", "interface: wg0", f"wg0\t{ALICE_KEY}"]
)
def test_another_output_of_wg_is_not_taken_for_transfer(printed):
    with pytest.raises(SourceError, match="show all transfer"):
        wireguard.parse(printed.encode())


def test_a_command_prints_a_list_of_counters_or_an_object_around_it():
    rows = [
        {"user": "alice", "upload_bytes": 1, "download_bytes": 2, "counter": "eth0"},
        {"user": "alice", "upload_bytes": "10", "counter": "eth1"},
        {"user": "bob"},
        {"upload_bytes": 1},
        "nonsense",
    ]
    reading = json_command.parse(encoded({"started": 17, "counters": rows}))
    assert [(each.user, each.upload_bytes) for each in reading.counters] == [
        ("alice", 1), ("alice", 10), ("bob", 0),
    ]  # fmt: skip
    assert len({each.name for each in reading.counters}) == 3
    assert (reading.life, reading.skipped) == (Life(started="17"), 2)
    assert json_command.parse(encoded(rows)).counters == reading.counters


PARSERS = [
    xray.parse_vars,
    xray.parse_statsquery,
    hysteria2.parse,
    wireguard.parse,
    json_command.parse,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(["stats", "user", "stat", "name", "value", "uplink",
            "tx", "counters", "upload_bytes", "memstats", "TotalAlloc"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.binary(max_size=200) | JSON.map(encoded))
def test_no_answer_whatever_it_is_does_more_than_fail_to_be_read(parse, body):
    try:
        reading = parse(body)
    except SourceError:
        return
    for each in reading.counters:
        assert each.upload_bytes >= 0
        assert each.download_bytes >= 0
