"""Each source's answer, as its versions give it: what it counts, and what cannot be understood."""

from __future__ import annotations

import importlib
import json
import pkgutil
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.agent import sources
from collector.agent.errors import SourceError
from collector.agent.sources import (
    hysteria2,
    json_command,
    outline,
    remnawave,
    singbox,
    stats_service,
    wireguard,
    xray,
)
from collector.agent.sources.protobuf import fields, framed, text_field, unframed
from collector.agent.state.counters import Collections, Counter, Life

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


def counted(sample):
    return {each.user: (each.upload_bytes, each.download_bytes) for each in sample.counters}


def encoded(value):
    return json.dumps(value).encode()


def test_xray_s_page_counts_users_and_nothing_twice():
    sample = xray.parse_vars(encoded(XRAY_VARS))
    assert counted(sample) == {"alice": (1200, 88000), "7.bob": (0, 5), "only-up": (3, 0)}
    assert sample.life == Life(ticks=123456)
    assert sample.is_of_one_process
    assert sample.skipped == 0


def test_xray_s_page_tells_the_garbage_collections_of_its_process():
    memory = {"TotalAlloc": 9, "NumGC": 2, "LastGC": 17, "PauseEnd": [15, 17, 0, 0]}
    life = xray.parse_vars(encoded({**XRAY_VARS, "memstats": memory})).life
    assert life == Life(ticks=9, collections=Collections(2, 17, frozenset({15, 17})))


def test_counters_of_one_process_are_told_from_those_that_come_and_go_with_users():
    of_one = [
        xray.parse_statsquery(b"{}"),
        hysteria2.parse(b"{}"),
        stats_service.parse(answers()),
    ]
    assert all(each.is_of_one_process for each in of_one)
    others = [wireguard.parse(b""), singbox.parse(b"{}"), json_command.parse(b"[]")]
    assert not any(each.is_of_one_process for each in others)


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
    sample = xray.parse_vars(encoded({"stats": {"user": users}}))
    assert counted(sample) == {"d": (1, 0)}
    assert sample.skipped == 4


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
    sample = xray.parse_statsquery(encoded({"stat": stats}))
    assert counted(sample) == {"alice": (10, 20), "idle": (0, 0), "odd>>>name": (1, 0)}


def around(before, counters, after):
    """Return the outputs of `statssys`, `statsquery` and `statssys` as one answer."""
    return b"\0".join((before, encoded(counters), after))


STATS = {"stat": [{"name": "user>>>alice>>>traffic>>>uplink", "value": 10}]}


def test_xray_s_command_tells_the_uptime_as_well():
    sample = xray.parse_statsquery(around(b'{"Uptime": 17}', STATS, b'{"Uptime": "18"}'))
    assert counted(sample) == {"alice": (10, 0)}
    assert sample.life == Life(ticks=17, uptime_seconds=17)
    for printed in (b"", b"{}\n"):
        assert xray.parse_statsquery(around(printed, STATS, printed)).life == Life()
    for later in (b'{"Uptime": 0}', b"{}", b""):
        with pytest.raises(SourceError, match="restarted during the poll"):
            xray.parse_statsquery(around(b'{"Uptime": 17}', STATS, later))


def test_xray_s_command_without_a_match_prints_an_empty_object():
    assert counted(xray.parse_statsquery(b"{}\n")) == {}


def test_hysteria_s_tx_is_the_user_s_upload():
    body = b'{"wang":{"tx":514,"rx":4017},"joe":{"tx":3,"rx":0,"new":"field"}}'
    assert counted(hysteria2.parse(body)) == {"wang": (514, 4017), "joe": (3, 0)}
    assert counted(hysteria2.parse(b"{}")) == {}


def test_wireguard_s_received_is_the_user_s_upload_by_interface_and_key():
    printed = f"wg0\t{ALICE_KEY}\t1000\t2000\nwg1\t{ALICE_KEY}\t1\t2\nwg0\t{BOB_KEY}\t0\t0\n"
    sample = wireguard.parse(printed.encode())
    assert sample.counters == (
        Counter(f"wg0 {ALICE_KEY}", ALICE_KEY, 1000, 2000),
        Counter(f"wg1 {ALICE_KEY}", ALICE_KEY, 1, 2),
        Counter(f"wg0 {BOB_KEY}", BOB_KEY, 0, 0),
    )


def test_one_interface_of_wireguard_prints_no_interface():
    sample = wireguard.parse(f"{ALICE_KEY}\t5\t6\n\n".encode())
    assert sample.counters == (Counter(ALICE_KEY, ALICE_KEY, 5, 6),)
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
        {"user": "bob", "download_bytes": 0},
        {"user": "carol", "up": 1, "down": 2},
        {"upload_bytes": 1},
        "nonsense",
    ]
    sample = json_command.parse(encoded({"started": 17, "counters": rows}))
    assert [(each.user, each.upload_bytes) for each in sample.counters] == [
        ("alice", 1), ("alice", 10), ("bob", 0),
    ]  # fmt: skip
    assert len({each.name for each in sample.counters}) == 3
    assert (sample.life, sample.skipped) == (Life(started="17"), 3)
    assert json_command.parse(encoded(rows)).counters == sample.counters


OUTLINE = """
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79552160025e+09
# TYPE shadowsocks_data_bytes counter
shadowsocks_data_bytes{access_key="",dir="c>p",proto="tcp"} 512
shadowsocks_data_bytes{access_key="1",dir="c>p",proto="tcp"} 1.542123e+06
shadowsocks_data_bytes{access_key="1",dir="c>p",proto="udp"} 7
shadowsocks_data_bytes{access_key="1",dir="c<p",proto="tcp"} 9.007199254740991e+15 1795521600000
shadowsocks_data_bytes{access_key="1",dir="p>t",proto="tcp"} 1.5e+06
shadowsocks_data_bytes{access_key="1",dir="p<t",proto="tcp"} 9e+06
shadowsocks_data_bytes{dir="c<p",location="DE, Berlin",access_key="quo\\"te}"} 5
shadowsocks_data_bytes{access_key="odd",dir="c<p"} NaN
shadowsocks_data_bytes_per_location{dir="c>p",location="DE"} 999
"""


def test_outline_counts_what_client_and_proxy_exchange_by_access_key():
    sample = outline.parse(OUTLINE.encode())
    assert counted(sample) == {"1": (1542130, 9007199254740991), 'quo"te}': (0, 5)}
    assert (sample.life, sample.skipped) == (Life(started="1.79552160025e+09"), 1)


def test_outline_before_the_first_traffic_is_a_reading_of_nothing():
    assert counted(outline.parse(b"# TYPE shadowsocks_ports gauge\nshadowsocks_ports 1\n")) == {}
    with pytest.raises(SourceError, match="is this Outline's"):
        outline.parse(b'{"bytesTransferredByUserId": {"1": 1008040941}}')


def test_sing_box_s_shadowsocks_manager_lists_its_users():
    users = [
        {"username": "alice", "downlinkBytes": 20, "uplinkBytes": 10, "tcpSessions": 3},
        {"username": "new", "uPSK": ""},
        {"uplinkBytes": 1},
        None,
    ]
    body = encoded({"uplinkBytes": 999, "downlinkBytes": 999, "users": users})
    sample = singbox.parse(body)
    assert (counted(sample), sample.skipped) == ({"alice": (10, 20), "new": (0, 0)}, 2)
    assert sample.life == Life()
    packets = {"uplinkPackets": 8, "downlinkPackets": 9, "tcpSessions": 3, "udpSessions": 1}
    told = encoded({"uplinkBytes": 997, "downlinkBytes": 998, "users": users} | packets)
    assert singbox.parse(told).life == Life(sums=(997, 998, 8, 9, 3, 1))
    assert counted(singbox.parse(b'{"users": null}')) == {}


def stat(name, value):
    return _field(1, text_field(1, name) + _number(2, value))


def _field(number, message):
    return text_field(number, "x" * len(message))[: -len(message)] + message


def _number(number, value):
    encoded_value = bytearray([number << 3])
    while value > 0x7F:
        encoded_value.append(value & 0x7F | 0x80)
        value >>= 7
    encoded_value.append(value)
    return bytes(encoded_value)


def answers(*, uptimes=(100, 100), stats=b""):
    before, after = (_number(1, 5) + _number(10, uptime) for uptime in uptimes)
    return framed(before) + framed(stats) + framed(after)


def test_the_stats_service_names_users_and_says_since_when_it_counts():
    stats = (
        stat("user>>>alice>>>traffic>>>uplink", 2**40)
        + stat("user>>>alice>>>traffic>>>downlink", 300)
        + stat("inbound>>>in>>>traffic>>>uplink", 999)
        + _field(1, text_field(1, "user>>>idle>>>traffic>>>uplink"))
    )
    sample = stats_service.parse(answers(stats=stats))
    assert counted(sample) == {"alice": (2**40, 300), "idle": (0, 0)}
    assert sample.life == Life(ticks=100, uptime_seconds=100)


def test_a_stats_service_that_does_not_say_how_long_it_runs_proves_no_new_life():
    body = framed(_number(1, 5)) + framed(b"") + framed(_number(1, 5))
    assert stats_service.parse(body).life == Life()


def test_a_restart_between_the_questions_is_no_reading():
    with pytest.raises(SourceError, match="restarted during"):
        stats_service.parse(answers(uptimes=(100, 1)))


def test_a_message_is_read_by_the_numbers_of_its_fields_and_what_is_new_is_passed_over():
    message = _number(1, 5) + text_field(7, "new") + b"\x41" + b"8" * 8 + b"\x45" + b"4" * 4
    assert [number for number, _ in fields(message)] == [1, 7, 8, 8]
    assert unframed(framed(message) + framed(b"")) == [message, b""]


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MESSAGE = {"v": "1", "nodeId": "3", "ts": "2026-11-24T11:59:30.000Z", "records": "42:100;7:5;42:1"}


def test_remnawave_s_message_sums_a_user_s_parts_under_the_message_s_id():
    found, skipped = remnawave.usages("1795521600000-0", MESSAGE, now=NOON)
    assert [(each.user, each.amount_bytes, each.node) for each in found] == [
        ("42", 101, "3"), ("7", 5, "3"),
    ]  # fmt: skip
    assert skipped == 0
    assert found[0].used_at == NOON - timedelta(seconds=30)
    assert remnawave.report_id(found[0]) == "remnawave/1795521600000-0/42"


@pytest.mark.parametrize(
    ("changes", "users", "skipped"),
    [
        ({"records": "42:0;7:5;x:1;9:-1;"}, ["7"], 2),
        ({"records": ""}, [], 0),
        ({"records": "42:9999999999999999999;7:1"}, ["7"], 1),
        ({"new": "field"}, ["42", "7"], 0),
    ],
)
def test_what_remnawave_says_and_makes_no_sense_is_skipped(changes, users, skipped):
    found, odd = remnawave.usages("1-0", MESSAGE | changes, now=NOON)
    assert ([each.user for each in found], odd) == (users, skipped)


@pytest.mark.parametrize("changes", [{"v": "2"}, {"nodeId": "x"}])
def test_a_message_of_remnawave_of_another_kind_is_refused_as_a_whole(changes):
    with pytest.raises(SourceError):
        remnawave.usages("1-0", MESSAGE | changes, now=NOON)


@pytest.mark.parametrize(
    "ts", ["", "soon", "2026-11-24T12:00:00", "2020-01-01T00:00:00Z", "2026-11-24T12:05:00Z"]
)
def test_a_moment_no_collector_takes_is_left_out_and_the_bytes_are_not(ts):
    found, _ = remnawave.usages("1-0", MESSAGE | {"ts": ts}, now=NOON)
    assert [each.used_at for each in found] == [None, None]


PARSERS = [
    value
    for each in pkgutil.iter_modules(sources.__path__)
    for module in (importlib.import_module(f"{sources.__name__}.{each.name}"),)
    for name, value in vars(module).items()
    if name.startswith("parse") and value.__module__ == module.__name__
]
"""Of every kind there is."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(["stats", "user", "stat", "name", "value", "uplink",
            "tx", "users", "username", "counters", "upload_bytes", "memstats", "TotalAlloc"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: f"{parse.__module__}.{parse.__name__}")
@given(body=st.binary(max_size=200) | JSON.map(encoded))
def test_no_answer_whatever_it_is_does_more_than_fail_to_be_read(parse, body):
    try:
        sample = parse(body)
    except SourceError:
        return
    for each in sample.counters:
        assert each.upload_bytes >= 0
        assert each.download_bytes >= 0
