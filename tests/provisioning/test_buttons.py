"""The buttons: where they post, what they ask first, and what there is instead of them."""

from __future__ import annotations

import json
import re

import yaml

from marzban_bridge.api import confirm, dashboard
from marzban_bridge.api.operations import ResetAll
from tests.support.grafana.grafana_files import PROVISIONING, ROOT, dashboards, places
from tests.support.rows import for_each

PROXY = "/api/datasources/proxy/uid/bridge-actions/"


def buttons():
    return [
        (f"{uid}/{panel['title']}", action)
        for uid, panel in places()
        for override in panel.get("fieldConfig", {}).get("overrides", [])
        for prop in override["properties"]
        if prop["id"] == "actions"
        for action in prop["value"]
    ]


def pages():
    return {
        (link["title"], link["url"])
        for _, panel in places()
        for override in panel.get("fieldConfig", {}).get("overrides", [])
        for prop in override["properties"]
        if prop["id"] == "links"
        for link in prop["value"]
        if link["url"].startswith("${bridge_url}")
    }


def matches(router, method, path):
    return any(route.path_regex.match(path) and method in route.methods for route in router.routes)


def typed(action, **answers):
    return re.sub(r"\$(\w+)", lambda found: answers[found[1]], action["fetch"]["body"])


def test_every_control_of_the_old_page_has_a_button():
    assert {place for place, _ in buttons()} == {
        "traffic-overview/Users near their limit",
        "traffic-overview/Users over their limit",
        "traffic-overview/Reset All",
        "traffic-overview/Cleanup Old Data",
        "traffic-user/Reset this user",
        "traffic-resellers/Their users nearest the limit",
    }


@for_each(("place", "action"), buttons(), called=lambda button: button[0])
def test_a_button_posts_json_through_grafana_and_asks_first(place, action):
    fetch = action["fetch"]
    assert action["type"] == "fetch"
    assert action["confirmation"].count("?") == 1
    assert fetch["method"] == "POST"
    assert fetch["headers"] == [["Content-Type", "application/json"]], "and no secret: all see it"
    assert fetch["url"].startswith(PROXY)
    path = fetch["url"].removeprefix(PROXY).replace("${__data.fields.user:percentencode}", "alice")
    assert matches(dashboard.router, "POST", f"/{path}")


def test_what_a_person_types_makes_the_bodies_that_the_bridge_wants():
    found = {action["title"]: action for _, action in buttons()}
    assert json.loads(found["Reset"]["fetch"]["body"]) == {}
    everybody = typed(found["Reset all users"], confirm="reset all users")
    assert ResetAll.model_validate_json(everybody)
    cleanup = typed(found["Cleanup old data"], days="30")
    assert dashboard.Cleanup.model_validate_json(cleanup).days == 30
    for action in found.values():
        asked = {each["key"] for each in action.get("variables", [])}
        assert asked == set(re.findall(r"\$(\w+)", action["fetch"]["body"]))


def test_every_button_has_a_page_of_the_bridge_beside_it():
    """For a Grafana without buttons, and for those who may not press them."""
    assert {url for _, url in pages()} == {
        "${bridge_url}/confirm/users/${__data.fields.user:percentencode}/reset",
        "${bridge_url}/confirm/reset-all",
        "${bridge_url}/confirm/cleanup?days=30",
    }
    for path in ("/confirm/users/alice/reset", "/confirm/reset-all", "/confirm/cleanup"):
        assert matches(confirm.router, "GET", path)


def test_where_there_are_no_buttons_the_same_cell_is_a_link_to_that_page():
    """A Grafana without buttons shows the cell's text; it must not be a dead word."""
    for place, panel in places():
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            found = {each["id"]: each["value"] for each in override["properties"]}
            if "actions" in found:
                [link] = found["links"]
                assert link["url"].startswith("${bridge_url}/confirm/"), place
                assert found["mappings"][0]["options"]["result"]["text"].endswith(" …"), place


def test_the_address_of_the_pages_is_known_where_they_are_linked():
    for uid, panel in places():
        if "${bridge_url}" in json.dumps(panel):
            [variable] = [
                each
                for each in dashboards()[uid]["templating"]["list"]
                if each["name"] == "bridge_url"
            ]
            assert variable["hide"] == 2
            assert variable["definition"] == "label_values(bridge_info, public_url)"


def test_the_secret_is_added_by_grafana_and_the_way_is_open():
    text = (PROVISIONING / "datasources" / "datasources.yaml").read_text()
    [source] = [
        each for each in yaml.safe_load(text)["datasources"] if each["uid"] == "bridge-actions"
    ]
    assert source["jsonData"]["httpHeaderName1"] == "X-Bridge-Token"
    assert source["secureJsonData"]["httpHeaderValue1"] == "${GF_TRAFFIC_ACTION_TOKEN}"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_ACTIONS_ALLOW_POST_URL"] == f"{PROXY}*"
    assert environment["GF_DATAPROXY_SEND_USER_HEADER"] == "true"
    assert "bridge_action_token" in compose["services"]["grafana"]["secrets"]
    file = "/run/secrets/bridge_action_token"
    assert environment["GF_TRAFFIC_ACTION_TOKEN__FILE"] == file
