"""Every InfluxQL query of dashboards and alerts, as Grafana sends it, on a real engine."""

from __future__ import annotations

import itertools

import pytest

from collector.schema import Policy
from tests.support.collector import hostile_traffic
from tests.support.collector.hostile_traffic import HOSTILE, NOW_MILLIS
from tests.support.grafana.grafana_files import (
    INFLUX,
    Query,
    alert_queries,
    all_queries,
    dashboards,
    panel_queries,
)
from tests.support.grafana.grafana_interpolation import (
    TimeRange,
    all_values_of,
    escape_regex,
    interpolate,
    interval,
    names_used,
)
from tests.support.rows import for_each

DAY_MILLIS = 86_400_000
MIDNIGHT_MILLIS = NOW_MILLIS // DAY_MILLIS * DAY_MILLIS
TWO_DAYS = TimeRange(MIDNIGHT_MILLIS - DAY_MILLIS, NOW_MILLIS)
CHOSEN = {"user": "b.c", "server": "b.c", "admin": "a.b"}
QUERIES = [each for each in all_queries() if each.datasource == INFLUX]
NAMED = [each for each in QUERIES if names_used(each.text) & {"user", "server"}]


@pytest.fixture(scope="module")
def seeded(influx_server):
    """An InfluxDB with a day of traffic of hostile names."""
    influx_server.start()
    influx_server.reset()
    influx_server.write(Policy.RAW.bucket, hostile_traffic.raw_lines())
    influx_server.write(Policy.DAILY.bucket, hostile_traffic.daily_lines())
    return influx_server


def text_of(query: Query, *, policy="raw", **chosen):
    """Return what reaches the engine for somebody who looks at the last two days."""
    time_range = TWO_DAYS.last(query.time_from) if query.time_from else TWO_DAYS
    all_values = all_values_of(dashboards()[query.dashboard]) if query.dashboard else {}
    step = interval(time_range, max_data_points=query.max_data_points, at_least=query.min_interval)
    variables = {**CHOSEN, **chosen, "policy": policy}
    return interpolate(query.text, time_range, variables, step=step, all_values=all_values)


def find(place):
    [found] = [each for each in QUERIES if each.place.startswith(place)]
    return found


@for_each(("query", "policy"), itertools.product(QUERIES, Policy))
def test_every_query_finds_something(seeded, query, policy):
    assert seeded.query(text_of(query, policy=policy))


@for_each(("query", "name"), itertools.product(NAMED, HOSTILE))
def test_every_query_about_a_name_finds_every_name(seeded, query, name):
    assert seeded.query(text_of(query, user=name, server=name))


@for_each(("name", "policy"), itertools.product(HOSTILE, Policy))
def test_a_name_means_that_user_and_nobody_else(seeded, name, policy):
    rows = seeded.query(
        text_of(find("traffic-user/12 Traffic per Server A"), policy=policy, user=name)
    )
    assert sum(each["bytes"] for each in rows) == hostile_traffic.bytes_of(user=name)
    assert {each["server"] for each in rows} == {name, "de-1.example.com"}


@for_each(("name", "policy"), itertools.product(HOSTILE, Policy))
def test_a_name_means_that_server_and_no_other(seeded, name, policy):
    query = find("traffic-servers/3 Traffic A")
    [row] = seeded.query(text_of(query, policy=policy, server=name))
    assert row["traffic"] == hostile_traffic.bytes_of(server=name)


@pytest.mark.parametrize("policy", Policy)
def test_servers_show_what_was_used_what_it_counts_for_and_the_ratio(seeded, policy):
    rows = seeded.query(text_of(find("traffic-servers/5 Server Details A"), policy=policy))
    assert {each["server"] for each in rows} == set(hostile_traffic.SERVERS)
    for each in rows:
        assert each["bytes"] == hostile_traffic.bytes_of(server=each["server"])
        assert each["billed"] == hostile_traffic.billed_bytes_of(server=each["server"])
        assert each["ratio"] == hostile_traffic.RATIOS.get(each["server"], 1)
    [stat] = seeded.query(text_of(find("traffic-servers/9 "), policy=policy, server="b.c"))
    assert stat["billed"] == 0


@pytest.mark.parametrize("policy", Policy)
def test_a_users_servers_show_what_was_used_and_what_it_counts_for(seeded, policy):
    rows = seeded.query(
        text_of(find("traffic-user/12 Traffic per Server A"), policy=policy, user="Зоя")
    )
    for each in rows:
        where = {"user": "Зоя", "server": each["server"]}
        assert each["bytes"] == hostile_traffic.bytes_of(**where)
        assert each["billed"] == hostile_traffic.billed_bytes_of(**where)
    assert len(rows) == 2


def test_a_users_external_traffic_is_shown_as_it_counts_and_as_it_is(seeded):
    [row] = seeded.query(text_of(find("traffic-user/7 "), user="b.c"))
    assert row["Counts"] > 0
    assert row["Raw"] == 2 * row["Counts"]


@pytest.mark.parametrize("policy", Policy)
def test_the_overview_adds_up(seeded, policy):
    def one(place, column):
        [row] = seeded.query(text_of(find(place), policy=policy))
        return row[column]

    assert one("traffic-overview/1 ", "users") == len(hostile_traffic.USERS)
    assert one("traffic-overview/2 ", "servers") == len(hostile_traffic.SERVERS)
    assert one("traffic-overview/3 ", "traffic") == hostile_traffic.bytes_of()
    assert one("traffic-overview/26 ", "billed") == hostile_traffic.billed_bytes_of()
    assert one("traffic-overview/4 ", "connections") == len(hostile_traffic.reports())
    assert one("traffic-overview/5 ", "users") == 3
    assert one("traffic-overview/6 ", "users") == 2
    assert one("traffic-overview/7 ", "users") == 1


def test_a_day_counts_as_a_whole_when_its_midnight_is_in_the_range(seeded):
    """What the panels' descriptions say of "Per day"."""
    query = find("traffic-servers/3 ")
    half_a_day = TimeRange(MIDNIGHT_MILLIS - DAY_MILLIS + 1, NOW_MILLIS)
    chosen = {"policy": "daily", "server": "de-1.example.com"}
    [row] = seeded.query(interpolate(query.text, half_a_day, chosen, step="1m"))
    today = [
        each
        for each in hostile_traffic.reports()
        if each.at_millis >= MIDNIGHT_MILLIS and each.server == chosen["server"]
    ]
    assert row["traffic"] == sum(each.upload_bytes + each.download_bytes for each in today)


def test_tables_of_servers_are_short_and_begin_with_the_largest(seeded):
    rows = seeded.query(text_of(find("traffic-overview/14 Top servers A")))
    traffic = sorted(
        (hostile_traffic.bytes_of(server=each) for each in hostile_traffic.SERVERS), reverse=True
    )
    assert sorted((each["bytes"] for each in rows), reverse=True) == traffic[:10]
    assert all(each["upload"] + each["download"] == each["bytes"] for each in rows)


@for_each("query", [each for each in panel_queries() if 'top("bytes", "server", 8)' in each.text])
def test_a_slice_of_a_graph_holds_eight_servers_at_most(seeded, query):
    rows = seeded.query(text_of(query))
    slices: dict[int, list[str]] = {}
    for each in rows:
        slices.setdefault(each["time"], []).append(each["server"])
    assert max(len(found) for found in slices.values()) <= 8


def test_a_resellers_graph_ends_with_what_its_users_have_used(seeded):
    """Slices end at now: one that ends before the next heartbeat would show a fall."""
    table = seeded.query(text_of(find("traffic-resellers/7 Resellers A")))
    used = {each["admin"]: each["used"] for each in table}
    assert used.keys() == set(hostile_traffic.ADMINS)
    for admin, used_bytes in used.items():
        rows = seeded.query(text_of(find("traffic-resellers/8 "), admin=admin))
        # The range's own end is not now, so its last slice may be cut short: look at the one before.
        assert [each["Used"] for each in rows][-2] == used_bytes


def test_lists_name_who_is_near_over_next_and_whose_time_ends(seeded):
    def names(place):
        rows = seeded.query(text_of(find(place)))
        return [each["user"] for each in sorted(rows, key=lambda each: each["rank"])]

    assert names("traffic-overview/12 Users near their limit A") == ["b.c", "Зоя", "x/y"]
    assert names("traffic-overview/29 Users over their limit A") == ["🚀", "o'neil"]
    thirds = [
        each
        for number, each in enumerate(hostile_traffic.USERS)
        if number % 3 == 0 and each not in {"🚀", "o'neil"}
    ]
    unlimited = "filler-00"
    thirds = [each for each in thirds if each != unlimited]
    assert names("traffic-overview/28 Who runs out next A") == thirds
    assert names("traffic-overview/30 Expiring soon A")[:3] == thirds[:3]


def test_the_quota_of_a_reseller_is_shown_until_it_is_taken_away(seeded):
    rows = seeded.query(text_of(find("traffic-resellers/7 Resellers B")))
    assert {each["admin"]: each["of_quota"] for each in rows} == dict.fromkeys(
        hostile_traffic.ADMINS[:-1], 0.5
    )


def test_the_user_lists_of_a_reseller_leave_out_who_is_gone(seeded):
    query = find("traffic-resellers/9 ")
    rows = seeded.query(text_of(query, admin="-"))
    assert {each["user"] for each in rows} <= {
        each for each in hostile_traffic.USERS if hostile_traffic.admin_of(each) == "-"
    }
    assert len(rows) >= 10


@pytest.mark.parametrize(
    ("uid", "users"),
    [
        ("user-near-limit", {"Зоя", "x/y"}),
        ("user-almost-at-limit", {"b.c"}),
        ("user-at-limit", {"o'neil", "🚀"}),
        ("over-limit-but-active", {"🚀"}),
    ],
)
def test_an_alert_names_the_users_concerned_alone(seeded, uid, users):
    [query] = [each for each in alert_queries() if each.place.startswith(f"alert {uid} ")]
    assert {each["user"] for each in seeded.query(text_of(query))} == users


@pytest.mark.parametrize("key", CHOSEN)
def test_every_name_is_offered_as_a_choice(seeded, key):
    [query] = [each for each in QUERIES if each.place.endswith(f"/variable {key}")]
    expected = {"user": hostile_traffic.USERS, "server": hostile_traffic.SERVERS}
    offered = {each["value"] for each in seeded.query(text_of(query))}
    assert offered == set(expected.get(key, hostile_traffic.ADMINS))


def test_escaping_is_grafanas():
    assert escape_regex("a.b/c|(d)[e]{f}^$*+?\\") == r"a\.b\/c\|\(d\)\[e\]\{f\}\^\$\*\+\?\\"
    assert escape_regex('o\'neil "🚀"-_=,') == 'o\'neil "🚀"-_=,'


def test_an_empty_database_is_no_error(influx):
    found = {query.place: influx.query(text_of(query)) for query in QUERIES}
    assert {place: rows for place, rows in found.items() if rows} == {}
