"""Each rule fires and resolves on a real engine, says its value, and keeps still in an outage.

Times are made up, so that nothing waits: the engines are asked for what was true at each minute.
"""

from __future__ import annotations

import shutil
import time

import httpx
import pytest

from collector.influx.lines import to_line
from collector.schema import Policy
from tests.support.engines.prometheus_engine import PrometheusEngine
from tests.support.grafana import alert_history as history
from tests.support.grafana.alert_evaluation import QueryError, RuleRun, labels_of, texts
from tests.support.grafana.grafana_files import INFLUX, PROMETHEUS, rules
from tests.support.grafana.grafana_interpolation import TimeRange, interpolate
from tests.support.rows import for_each

RULES = {rule["uid"]: rule for rule in rules()}
MINUTE = 60


def expression(rule):
    return rule["data"][0]["model"].get("query") or rule["data"][0]["model"]["expr"]


# --- Prometheus ---------------------------------------------------------------------------------

OF_PROMETHEUS = [rule for rule in rules() if rule["data"][0]["datasourceUid"] == PROMETHEUS]
ENDS_WITH_PROGRAMS = {"bridge-down"}
"""Fires while the programs are away, and at no other time."""
SAID = {
    "reseller-near-limit": "The users of near have used 85% of its quota",
    "reseller-almost-at-limit": "The users of almost have used 95% of its quota",
    "reseller-at-limit": "The users of over have used up its quota (120%)",
    "bridge-down": "The bridge does not answer",
    "panel-unreachable": "The bridge cannot reach panel two",
    "reset-not-propagated": "A reset has been pending for 8m 0s",
    "held-users": "3 users are held",
    "commits-lost": "The ledger lacks reports that were in it",
    "store-suspended": "The bridge's store is suspended: it lacks entries, or is another store",
    "standby-away": "No report is acknowledged",
    "panel-went-back": "Panel two shows an earlier state of its users",
    "panel-in-doubt": "Panel default is suspended: it shows changes that no admin makes (users_gone)",
    "second-bridge": "Another bridge writes to panel default",
    "orphan-usernames": "2 reported names are not users of the panel",
    "ledger-unwritable": "The collector is down or refuses reports",
    "nothing-recorded": "Nothing has been reported for an hour, though 4 users are online",
    "ledger-disk": "512MiB left on the ledger's disk",
    "user-total-full": "The collector refuses reports: the totals of their users are full",
    "sender-at-its-bound": "de-1 reports more bytes than allowed",
    "too-many-servers": "A user without a key names more servers than allowed",
    "traffic-spike": "de-1 reported 60GiB in an hour, far above its past",
    "reporter-silent": "de-1 has not reported for 1h",
    "influxdb-unreachable": "500 reports wait, since the collector cannot write to InfluxDB",
    "export-lag": "Reports are 15m 0s late in InfluxDB",
    "dead-letters": "InfluxDB refused ",
    "prometheus-unreadable": "Grafana cannot read Prometheus",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return, by rule, every notification with the minute in which it was sent."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on the PATH (Debian: apt install prometheus)")
    began_at = time.time() // MINUTE * MINUTE - 60 * (history.END + 10)
    engine = PrometheusEngine(
        tmp_path_factory.mktemp("alerts"), {}, history=history.openmetrics(began_at)
    )
    try:
        return {rule["uid"]: list(_notices(engine, rule, began_at)) for rule in OF_PROMETHEUS}
    finally:
        engine.close()


def _notices(engine, rule, began_at):
    first = began_at + 10  # between two samples
    found = engine.query_range(
        expression(rule), start=first, end=first + MINUTE * history.END, step_seconds=MINUTE
    )
    by_minute = {}
    for series in found:
        labels = tuple(sorted(series["metric"].items()))
        for at, value in series["values"]:
            by_minute.setdefault(round((at - first) / MINUTE), {})[labels] = float(value)
    run = RuleRun(rule)
    for minute in range(history.END):

        def ask(minute=minute):
            if minute in history.PROMETHEUS_AWAY:
                raise QueryError
            return by_minute.get(minute, {})

        for notification in run.evaluate(first + MINUTE * minute, ask):
            yield minute, notification


def test_every_rule_on_prometheus_is_told_of_here():
    assert {rule["uid"] for rule in OF_PROMETHEUS} == SAID.keys()


@for_each("uid", list(SAID))
def test_a_rule_fires_once_and_resolves_once(told, uid):
    sent = [(minute, notification.status) for minute, notification in told[uid]]
    assert [status for _, status in sent] == ["firing", "resolved"], sent
    (began, _), (ended, _) = sent
    if uid == "prometheus-unreadable":
        assert began in history.PROMETHEUS_AWAY
        assert ended in history.ILL_AFTER_PROMETHEUS
    elif uid in ENDS_WITH_PROGRAMS:
        assert began in history.PROGRAMS_AWAY
        assert ended in history.ILL_AFTER_RESTART
    else:
        assert began in history.ILL
        assert ended in history.WELL_AGAIN


@for_each("uid", list(SAID))
def test_nothing_is_told_when_programs_or_prometheus_go_and_come(told, uid):
    """Neither a false alarm nor a false end of one; what is told then is about the outage."""
    quiet = {
        *history.PROGRAMS_AWAY,
        *history.ILL_AFTER_RESTART,
        *history.PROMETHEUS_AWAY,
        *history.ILL_AFTER_PROMETHEUS,
    }
    spoken = {minute for minute, _ in told[uid]} & quiet
    assert bool(spoken) == (uid in {*ENDS_WITH_PROGRAMS, "prometheus-unreadable"})


@for_each("uid", list(SAID))
def test_a_text_has_the_value_and_the_name(told, uid):
    for _, notification in told[uid]:
        assert notification.status == "resolved" or notification.summary.startswith(SAID[uid])
        assert "[no value]" not in str(notification)
    assert {notification.labels["severity"] for _, notification in told[uid]} == {
        RULES[uid]["labels"]["severity"]
    }


# --- InfluxDB -----------------------------------------------------------------------------------

OF_INFLUX = [rule for rule in rules() if rule["data"][0]["datasourceUid"] == INFLUX]
RATIOS = {
    "calm": {0: 0.2},
    "alice": {0: 0.5, 3: 0.85, 12: 0.93, 22: 1.04, 40: 0.0},
    "bob": {0: 1.2, 40: 0.1},
}
"""The share of the quota that a user has used, from a minute on."""
UNENFORCED = {"bob": {0: 0, 8: 1, 40: 0}}
OUTAGE = range(26, 36)
"""InfluxDB is away, and what the bridge would have written is missing."""
BRIDGE_AWAY = range(14, 20)
STORY_END = 44
EXPECTED = {
    "user-near-limit": [(8, "firing", "alice"), (12, "resolved", "alice")],
    "user-almost-at-limit": [(17, "firing", "alice"), (22, "resolved", "alice")],
    "user-at-limit": [
        (0, "firing", "bob"),
        (22, "firing", "alice"),
        (40, "resolved", "alice"),
        (40, "resolved", "bob"),
    ],
    "over-limit-but-active": [(18, "firing", "bob"), (40, "resolved", "bob")],
    "influxdb-unreadable": [(31, "firing", None), (36, "resolved", None)],
}


def _since(changes, minute):
    return changes[max(each for each in changes if each <= minute)]


def _lines(began_at, minutes):
    for minute in minutes:
        nanos = int(began_at + MINUTE * minute) * 10**9
        for user, ratios in RATIOS.items():
            fields = {
                "used_ratio": _since(ratios, minute),
                "is_unenforced": _since(UNENFORCED.get(user, {0: 0}), minute),
            }
            yield to_line("user_usage", {"user": user, "admin": "-"}, fields, nanos)
        if minute % 10 == 0:
            yield to_line("events", {"user": "bob", "kind": "reset"}, {"text": "a"}, nanos)


@pytest.fixture(scope="module")
def told_of_users(influx_server):
    """Evaluate all rules on InfluxDB minute by minute, while it is killed and started again."""
    influx_server.start()
    influx_server.reset()
    began_at = time.time() // MINUTE * MINUTE - MINUTE * (STORY_END + 10)
    runs = {rule["uid"]: RuleRun(rule) for rule in OF_INFLUX}
    sent = {uid: [] for uid in runs}
    written = [each for each in range(STORY_END) if each not in {*OUTAGE, *BRIDGE_AWAY}]
    influx_server.write(Policy.RAW.bucket, list(_lines(began_at, written)))
    for minute in range(STORY_END):
        if minute == OUTAGE.start:
            influx_server.stop()
        if minute == OUTAGE.stop:
            influx_server.start()
        at = began_at + MINUTE * minute + 10
        for uid, run in runs.items():

            def ask(rule=run.rule, at=at):
                return _ask_influx(influx_server, rule, at)

            sent[uid] += [(minute, notification) for notification in run.evaluate(at, ask)]
    return sent


def _ask_influx(server, rule, at):
    millis, back_seconds = int(at * 1000), rule["data"][0]["relativeTimeRange"]["from"]
    time_range = TimeRange(millis - 1000 * back_seconds, millis)
    try:
        rows = server.query(interpolate(expression(rule), time_range, {}, step="1m"))
    except httpx.HTTPError as error:
        raise QueryError from error
    [name] = {key for row in rows for key in row if key not in {"time", "user"}} or {""}
    return {labels_of(row, ["user"]): float(row[name]) for row in rows}


def test_every_rule_on_influxdb_is_told_of_here():
    assert {rule["uid"] for rule in OF_INFLUX} == EXPECTED.keys()


@for_each("uid", list(EXPECTED))
def test_a_rule_about_users_fires_and_resolves_for_each_user_alone(told_of_users, uid):
    """An InfluxDB that is killed for ten minutes, and a bridge that is away, change nothing."""
    sent = [
        (minute, notification.status, notification.labels.get("user"))
        for minute, notification in told_of_users[uid]
    ]
    assert sorted(sent, key=str) == sorted(EXPECTED[uid], key=str)


@for_each("uid", list(EXPECTED))
def test_a_text_about_a_user_has_the_name_and_the_share(told_of_users, uid):
    for _, notification in told_of_users[uid]:
        user = notification.labels.get("user")
        assert user is None or notification.summary.startswith(f"{user} has used ")
        assert "[no value]" not in str(notification)
        if "ratio" in expression(RULES[uid]) and notification.status == "firing":
            assert "%" in notification.summary


# --- Texts --------------------------------------------------------------------------------------


@for_each("rule", rules(), called=lambda rule: rule["uid"])
def test_a_text_without_labels_and_values_is_a_sentence_too(rule):
    """What is sent when a query fails, or finds nothing."""
    for text in texts(rule, (), None).values():
        assert "[no value]" not in text
        assert "  " not in text
