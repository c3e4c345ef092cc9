"""The texts of notifications: short whatever the number of alerts, with the names of the first."""

from __future__ import annotations

import re

import pytest
import yaml

from marzban_bridge.notifications.contact_points import ABOUT, MESSAGE, NAME_ALONE, TITLE
from tests.support.grafana.alert_evaluation import texts
from tests.support.grafana.go_template import Templates
from tests.support.grafana.grafana_files import PROVISIONING, rules
from tests.support.rows import for_each

FILE = PROVISIONING / "alerting" / "templates.yaml"
[TEMPLATE] = yaml.safe_load(FILE.read_text())["templates"]
LONGEST_BYTES = 4000
MOST_NAMED = 11
"""One more than any text names."""
NEAR = next(rule for rule in rules() if rule["uid"] == "user-near-limit")


def message(rule, *, firing=(), resolved=(), what="message"):
    """Return what is sent for these names, all of one rule."""
    parts = []
    for names in (firing, resolved):
        found = [
            texts(rule, (("user", name), ("reporter", name)), 0.8731) for name in names[:MOST_NAMED]
        ]
        found += found[-1:] * (len(names) - len(found))  # only counted
        parts.append([{"Annotations": each} for each in found])
    every = [each["Annotations"] for part in parts for each in part]
    common = {key: value for key, value in every[0].items() if all(e[key] == value for e in every)}
    data = {
        "Alerts": {"Firing": parts[0], "Resolved": parts[1]},
        "CommonLabels": {"alertname": rule["title"]},
        "CommonAnnotations": {"description": "", "runbook_url": ""} | common,
    }
    return Templates(TEMPLATE["template"]).render(f'{{{{ template "traffic.{what}" . }}}}', data)


def test_the_file_has_what_grafanas_parser_takes():
    assert yaml.safe_load(FILE.read_text()).keys() == {"apiVersion", "templates"}
    assert TEMPLATE.keys() == {"orgId", "name", "template"}


def test_a_notice_says_who_how_many_and_what_it_means():
    text = message(NEAR, firing=["alice", "bob"], resolved=["carol"])
    assert text.splitlines()[0] == "🔴 User near limit: 2"
    assert "• alice has used 87.31% of the quota" in text
    assert "Over:\n• carol has used 87.31% of the quota" in text
    assert "The user will be cut off at 100 %." in text
    assert text.splitlines()[-1].startswith(
        "http://grafana.example.com/d/traffic-alerts?viewPanel="
    )
    assert "in all" not in text
    assert "\n\n\n" not in text


def test_a_post_of_a_webhook_counts_nothing():
    """Grafana makes its texts of the two alerts that are left."""
    assert message(NEAR, firing=["alice", "bob"], what="name") == "🔴 User near limit"
    about = message(NEAR, firing=["alice", "bob"], what="about")
    assert about.splitlines()[0].startswith("The user will be cut off")


def test_every_text_that_a_contact_point_names_is_there():
    named = {NAME_ALONE, ABOUT, TITLE, MESSAGE}
    defined = set(re.findall(r'define "(.+?)"', TEMPLATE["template"]))
    assert {re.findall(r'template "(.+?)"', each)[0] for each in named} == defined


def test_an_end_is_told_as_one():
    text = message(NEAR, resolved=["alice"])
    assert text.splitlines()[:4] == [
        "🟢 User near limit: 1 over",
        "",
        "• alice has used 87.31% of the quota",
        "",
    ]
    assert message(NEAR, resolved=["alice"], what="title") == "🟢 User near limit: 1 over"


def test_five_hundred_are_one_short_notice():
    names = [f"user-{number:03}" for number in range(500)]
    text = message(NEAR, firing=names, resolved=names)
    assert "user-009" in text
    assert "user-010" not in text
    assert text.count("… 500 in all") == 2
    assert len(text.encode()) < 1500


@for_each("rule", rules(), called=lambda rule: rule["uid"])
def test_the_longest_names_there_are_stay_below_what_telegram_takes(rule):
    names = [f"{number:03}/" + "n" * 128 for number in range(500)]
    assert len(message(rule, firing=names, resolved=names).encode()) < LONGEST_BYTES


@pytest.mark.parametrize("what", ["title", "message"])
def test_a_text_has_no_gaps_where_a_value_is_missing(what):
    text = message(NEAR, firing=["alice"], what=what)
    assert "no value" not in text
    assert text == text.strip()
