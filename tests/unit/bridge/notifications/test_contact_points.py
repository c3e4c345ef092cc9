"""What Grafana reads of contact points: complete, without a `$`, and taken out again."""

from __future__ import annotations

import json

import yaml

from marzban_bridge.notifications.contact_points import contact_file, receivers, smtp_values
from marzban_bridge.notifications.files import write_alerting, write_smtp
from marzban_bridge.notifications.settings import NotificationSettings, read_notification_settings
from tests.support.grafana.grafana_files import RULES
from tests.unit.bridge.notifications.test_notification_settings import EMAIL, TELEGRAM, WEBHOOK

ALL, _ = read_notification_settings(
    {**TELEGRAM, **EMAIL, **WEBHOOK, "ALERTS_WEBHOOK_TOKEN": "a$HOME-$$-b"}
)
UIDS = ["traffic-telegram", "traffic-email", "traffic-webhook"]


def test_nothing_configured_is_no_file():
    assert contact_file(NotificationSettings(), before=None) is None


def test_each_place_is_a_receiver_with_texts():
    found = {each["uid"]: each for each in receivers(ALL)}
    assert list(found) == UIDS
    assert {each["type"] for each in found.values()} == {"telegram", "email", "webhook"}
    telegram = found["traffic-telegram"]["settings"]
    assert telegram["chatid"] == "-1001234567890", "a text, although it looks a number"
    assert found["traffic-email"]["settings"]["addresses"] == "you@example.com;me@example.com"
    for each in found.values():
        assert each["settings"]["message"].startswith('{{ template "traffic.')
        assert all(isinstance(value, str | bool) for value in each["settings"].values())


def test_a_dollar_is_doubled_for_grafana():
    [webhook] = [each for each in receivers(ALL) if each["type"] == "webhook"]
    assert webhook["settings"]["authorization_credentials"] == "a$$HOME-$$$$-b"


def test_all_goes_to_one_contact_point_and_is_grouped_by_rule():
    content = contact_file(ALL, before=None)
    [point], [policy] = content["contactPoints"], content["policies"]
    assert policy["receiver"] == point["name"]
    assert policy["group_by"] == ["grafana_folder", "alertname"]
    assert "deleteContactPoints" not in content


def test_what_is_configured_no_more_is_taken_out_of_grafana():
    first = contact_file(ALL, before=None)
    telegram, _ = read_notification_settings(TELEGRAM)
    second = contact_file(telegram, before=first)
    assert [each["uid"] for each in second["deleteContactPoints"]] == UIDS[1:]
    third = contact_file(NotificationSettings(), before=second)
    assert third["resetPolicies"] == [1]
    assert [each["uid"] for each in third["deleteContactPoints"]] == UIDS[:1]
    assert "contactPoints" not in third
    assert contact_file(NotificationSettings(), before=third) is None


def test_the_folder_has_rules_texts_and_contacts(tmp_path):
    write_alerting(ALL, rules=RULES.parent, folder=tmp_path / "alerting")
    found = {path.name for path in (tmp_path / "alerting").iterdir()}
    assert found == {"rules.yaml", "templates.yaml", "contact-points.yaml"}
    written = tmp_path / "alerting" / "contact-points.yaml"
    assert yaml.safe_load(written.read_text()) == contact_file(ALL, before=None)
    rules = (tmp_path / "alerting" / "rules.yaml").read_text()
    assert "externalURL" not in rules
    assert "'http://localhost:3000/d/traffic-alerts?viewPanel=2'" in rules
    write_alerting(NotificationSettings(), rules=RULES.parent, folder=tmp_path / "alerting")
    assert json.loads(written.read_text())["resetPolicies"] == [1]
    write_alerting(NotificationSettings(), rules=RULES.parent, folder=tmp_path / "alerting")
    assert not written.exists()


def test_mail_is_off_unless_all_of_it_is_there(tmp_path):
    write_smtp(NotificationSettings(), tmp_path)
    assert (tmp_path / "enabled").read_text() == "false"
    write_smtp(ALL, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == smtp_values(ALL)
    assert (tmp_path / "host").read_text() == "mail.example.com:587"
