"""`marzban-bridge doctor`: what is wrong, what is only to be read, and what is said to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from collector.influx.kinds import TargetKind
from marzban_bridge.doctor.findings import Level, examine, is_healthy
from marzban_bridge.doctor.observations import (
    BridgeObservation,
    CollectorObservation,
    Observations,
    PanelObservation,
    SeriesObservation,
    WebhookObservation,
)
from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import MARZBAN

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
URL = "https://panel.example.com"
CHECK = PanelCheck(admin="bridge", is_sudo=True, version="0.8.4", dialect=MARZBAN)
PANEL = PanelObservation(name="default", url=URL, check=CHECK, clock_ahead_seconds=0.4)
BRIDGE = BridgeObservation(
    url="http://127.0.0.1:8090",
    status="ok",
    enforcement="limit",
    webhooks={"default": WebhookObservation(taken=3, last_at=NOW - timedelta(minutes=5))},
)
COLLECTOR = CollectorObservation(
    url="http://127.0.0.1:8080",
    free_disk_bytes=20 << 30,
    reporter_keys=2,
    last_report_at=NOW - timedelta(seconds=20),
)
WELL = Observations(
    asked_at=NOW,
    bridge_host="127.0.0.1",
    panels=(PANEL,),
    bridge=BRIDGE,
    collector=COLLECTOR,
    influxdb=SeriesObservation(url="http://influxdb:8086"),
    grafana=SeriesObservation(url="http://grafana:3000"),
)
REFUSAL = f"the panel at {URL} refuses the sign-in of 'bridge': check MARZBAN_USERNAME"


def panel(**changes):
    return {"panels": (replace(PANEL, **changes),)}


def check(**changes):
    return panel(check=replace(CHECK, **changes))


def bridge(**changes):
    return {"bridge": replace(BRIDGE, **changes)}


def collector(**changes):
    return {"collector": replace(COLLECTOR, **changes)}


def received(**changes):
    return bridge(webhooks={"default": WebhookObservation(**changes)})


def test_what_is_well_is_ok_in_every_line_and_nothing_is_to_be_done():
    found = examine(WELL)
    assert [each.level for each in found] == [Level.OK] * len(found)
    assert [each.todo for each in found] == [""] * len(found)
    assert is_healthy(found)
    lines = [(each.subject, each.check) for each in found]
    assert lines == [
        ("panel default", "signed in"),
        ("panel default", "version"),
        ("panel default", "permissions"),
        ("panel default", "clock"),
        ("panel default", "webhook"),
        ("collector", "running"),
        ("collector", "key"),
        ("collector", "disk"),
        ("collector", "reporters"),
        ("collector", "last report"),
        ("bridge", "running"),
        ("bridge", "enforcement"),
        ("InfluxDB", "writable"),
        ("Grafana", "reachable"),
    ]


@pytest.mark.parametrize(
    ("changes", "subject", "level", "says"),
    [
        (panel(check=None, error=REFUSAL), "panel default/signed in", Level.WRONG, "check MARZBAN_USERNAME"),
        (check(is_sudo=False), "panel default/permissions", Level.WRONG, "no sudo admin"),
        (check(missing_permissions=("users.update",)), "panel default/permissions", Level.WRONG, "users.update"),
        (check(version="0.9.1"), "panel default/version", Level.NOTE, "BRIDGE_ENFORCEMENT=observe"),
        (check(version=None), "panel default/version", Level.NOTE, "does not say its version"),
        (panel(clock_ahead_seconds=61.0), "panel default/clock", Level.WRONG, "61 s ahead of"),
        (panel(clock_ahead_seconds=-3600.0), "panel default/clock", Level.WRONG, "3600 s behind"),
        (panel(clock_ahead_seconds=-20.0), "panel default/clock", Level.NOTE, "timedatectl"),
        (panel(has_webhook_secret=False), "panel default/webhook", Level.NOTE, "BRIDGE_WEBHOOK_SECRET"),
        (received(refused=4), "panel default/webhook", Level.WRONG, "4 refused"),
        (received(), "panel default/webhook", Level.NOTE, "panels webhook default"),
        (received(), "panel default/webhook", Level.NOTE, "listens on 127.0.0.1 alone"),
        (collector(error="no collector answers"), "collector/running", Level.WRONG, "COLLECTOR_URL"),
        (collector(reasons=("only 3 bytes are free",)), "collector/running", Level.WRONG, "only 3 bytes"),
        (collector(warnings=("a warning",)), "collector/warning", Level.NOTE, "a warning"),
        (collector(key_error="refuses the key"), "collector/key", Level.WRONG, "refuses the key"),
        (collector(reporter_keys=0), "collector/reporters", Level.NOTE, "reporters add NAME"),
        (collector(last_report_at=None), "collector/last report", Level.NOTE, "docs/agent.md"),
        (collector(last_report_at=NOW - timedelta(days=3)), "collector/last report", Level.NOTE, "3 d ago"),
        (bridge(error="no bridge answers"), "bridge/running", Level.WRONG, "marzban-bridge up"),
        (bridge(reasons=("5 users are held",)), "bridge/running", Level.WRONG, "5 users are held"),
        (bridge(warnings=("InfluxDB: away",)), "bridge/warning", Level.NOTE, "InfluxDB: away"),
        (bridge(enforcement="observe"), "bridge/enforcement", Level.NOTE, "changes nothing"),
        ({"influxdb": SeriesObservation(url="u", error="401 unauthorized")}, "InfluxDB/writable", Level.WRONG, "401"),
        ({"influxdb": SeriesObservation(url="u", error="away", is_passing=True)}, "InfluxDB/writable", Level.NOTE, "that it runs"),
        ({"influxdb": SeriesObservation(url="u", error="away", is_passing=True)}, "InfluxDB/writable", Level.NOTE, "INFLUXDB_URL"),
        ({"grafana": SeriesObservation(url="u", error="no Grafana", is_passing=True)}, "Grafana/reachable", Level.NOTE, "--grafana"),
        ({"grafana": SeriesObservation(url="u", error="see its log")}, "Grafana/reachable", Level.NOTE, "see its log"),
    ],
)  # fmt: skip
def test_each_fault_is_one_line_that_says_what_to_do(changes, subject, level, says):
    found = examine(replace(WELL, **changes))
    bad = [each for each in found if each.level is not Level.OK]
    assert [(f"{each.subject}/{each.check}", each.level) for each in bad] == [(subject, level)]
    assert says in f"{bad[0].text} {bad[0].todo}"
    assert is_healthy(found) is (level is Level.NOTE)


def test_what_the_bridge_says_of_the_panel_too_is_said_once():
    changes = panel(check=None, error=REFUSAL) | bridge(
        status="unready", reasons=(f"panel: {REFUSAL}",)
    )
    found = examine(replace(WELL, **changes))
    assert [each.text for each in found].count(REFUSAL) == 1
    assert [(each.subject, each.check) for each in found if each.level is Level.WRONG] == [
        ("panel default", "signed in"),
        ("bridge", "running"),
    ]


def test_what_bridge_and_collector_say_of_influxdb_too_is_said_once():
    fault = '404 bucket "traffic/raw" not found: run `traffic-collector bootstrap`'
    changes = {"influxdb": SeriesObservation(url="u", error=fault)} | bridge(
        warnings=(f"InfluxDB: {fault}",)
    )
    found = examine(replace(WELL, **changes))
    assert [fault in each.text for each in found].count(True) == 1
    assert [each.subject for each in found if each.level is Level.WRONG] == ["InfluxDB"]
    assert [each.subject for each in found][-2:] == ["InfluxDB", "Grafana"]


def test_of_webhooks_nothing_is_known_while_no_bridge_answers():
    changes = {"bridge": BridgeObservation(url="u", error="no bridge answers")}
    found = examine(replace(WELL, **changes))
    lines = {f"{each.subject}/{each.check}": each for each in found}
    webhook = lines["panel default/webhook"]
    assert (webhook.level, webhook.todo) == (Level.NOTE, "")
    assert "not known" in webhook.text
    assert "arrived" not in webhook.text


def test_a_bridge_that_follows_is_well():
    follower = bridge(status="following", reasons=("this bridge follows two, which leads",))
    lines = {f"{each.subject}/{each.check}": each for each in examine(replace(WELL, **follower))}
    assert lines["bridge/running"].level is Level.OK
    assert "follows two" in lines["bridge/running"].text


def test_without_influxdb_and_grafana_nothing_is_wrong():
    without = replace(WELL, influxdb=SeriesObservation(), grafana=SeriesObservation())
    found = examine(without)
    assert is_healthy(found)
    assert [each.subject for each in found][-1] == "InfluxDB"


def test_a_panel_on_the_bridges_own_machine_reaches_a_bridge_on_the_loopback():
    local = received() | {"panels": (replace(PANEL, url="http://127.0.0.1:8000"),)}
    (webhook,) = [each for each in examine(replace(WELL, **local)) if each.check == "webhook"]
    assert "alone" not in webhook.todo


def test_every_panel_has_its_lines():
    two = replace(PANEL, name="two", check=None, error="away")
    found = examine(replace(WELL, panels=(PANEL, two)))
    assert [each.check for each in found if each.subject == "panel two"] == [
        "signed in",
        "clock",
        "webhook",
    ]


def test_a_database_that_no_dashboard_reads_is_named_with_the_dashboards_that_are_empty():
    kind = TargetKind.VICTORIAMETRICS
    observation = SeriesObservation(
        url="u", product=kind.product, without_dashboards=kind.reason_without_dashboards
    )
    found = [
        each
        for each in examine(replace(WELL, influxdb=observation))
        if each.subject == "VictoriaMetrics"
    ]
    assert [(each.check, each.level) for each in found] == [
        ("writable", Level.OK),
        ("dashboards", Level.NOTE),
    ]
    assert "Overview" in found[1].text
    assert is_healthy(found)
