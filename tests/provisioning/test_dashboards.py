"""House rules of the dashboards, each for a reason that cost somebody a day."""

from __future__ import annotations

import json
import re
from collections import Counter
from urllib.parse import urlsplit

import yaml

from collector import schema
from tests.support.grafana.grafana_files import (
    DASHBOARDS,
    INFLUX,
    PROVISIONING,
    dashboards,
    panels,
    places,
)
from tests.support.rows import for_each

COLUMNS = 24
NO_DATA = "#6e7077"
"""Grey as a background."""
WITHOUT_DATA = {"row", "text", "alertlist"}
ROW_KEYS = {"id", "type", "title", "collapsed", "gridPos", "panels"}
EXPORT_ONLY = {"id", "version", "iteration", "__inputs", "__requires", "gnetId"}
EACH_DASHBOARD = for_each("uid", dashboards())
EACH_PANEL = for_each(
    ("uid", "panel"),
    places(),
    called=lambda place: f"{place[0]}/{place[1]['id']} {place[1]['title']}",
)


def datasources():
    text = (PROVISIONING / "datasources" / "datasources.yaml").read_text()
    return {each["uid"]: each for each in yaml.safe_load(text)["datasources"]}


def variables(uid):
    return {each["name"]: each for each in dashboards()[uid]["templating"]["list"]}


def strings(node):
    """Yield every text in a piece of JSON."""
    if isinstance(node, dict):
        for each in node.values():
            yield from strings(each)
    elif isinstance(node, list):
        for each in node:
            yield from strings(each)
    elif isinstance(node, str):
        yield node


def test_the_six_dashboards_are_there():
    assert set(dashboards()) == {
        "traffic-operations",
        "traffic-overview",
        "traffic-alerts",
        "traffic-resellers",
        "traffic-servers",
        "traffic-user",
    }


@EACH_DASHBOARD
def test_a_file_is_in_canonical_form(uid):
    """Two spaces, names as they are, one line break at the end: diffs show what changed."""
    text = (DASHBOARDS / f"{uid}.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@EACH_DASHBOARD
def test_a_dashboard_is_named_as_its_file_and_carries_nothing_of_an_export(uid):
    dashboard = dashboards()[uid]
    assert dashboard["uid"] == uid
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid)
    assert not EXPORT_ONLY & dashboard.keys()
    assert dashboard["schemaVersion"] <= 41


@EACH_DASHBOARD
def test_dashboards_share_their_manners(uid):
    dashboard = dashboards()[uid]
    assert dashboard["tags"] == ["vpn-traffic"]
    assert dashboard["timezone"] == "browser"
    assert dashboard["refresh"] in {"30s", "1m"}
    assert dashboard["editable"] is False
    assert dashboard["graphTooltip"] == 1
    assert dashboard["description"].endswith("?"), "a dashboard answers one question"
    [siblings] = dashboard["links"]
    assert (siblings["type"], siblings["tags"]) == ("dashboards", ["vpn-traffic"])


def test_titles_are_unique_in_the_folder():
    titles = [each["title"] for each in dashboards().values()]
    assert len(set(titles)) == len(titles)


@EACH_DASHBOARD
def test_panels_have_numbers_and_titles_of_their_own(uid):
    found = list(panels(dashboards()[uid]))
    assert [n for n, times in Counter(each["id"] for each in found).items() if times > 1] == []
    assert [t for t, times in Counter(each["title"] for each in found).items() if times > 1] == []


@EACH_DASHBOARD
def test_panels_fit_the_grid_and_do_not_overlap(uid):
    taken = {}
    for panel in panels(dashboards()[uid]):
        grid = panel["gridPos"]
        assert grid["w"] > 0, panel["title"]
        assert grid["h"] > 0, panel["title"]
        assert grid["x"] + grid["w"] <= COLUMNS, panel["title"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


@EACH_DASHBOARD
def test_the_grid_has_no_holes(uid):
    cells = sum(each["gridPos"]["w"] * each["gridPos"]["h"] for each in panels(dashboards()[uid]))
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels(dashboards()[uid]))
    assert cells == height * COLUMNS


@EACH_PANEL
def test_a_panel_says_what_it_shows(uid, panel):
    if panel["type"] == "row":
        assert panel.keys() == ROW_KEYS
        return
    assert len(panel["description"]) > 20
    assert panel["description"].endswith((".", "?"))


@EACH_PANEL
def test_a_panel_with_data_says_what_its_absence_means_and_counts_in_a_unit(uid, panel):
    if panel["type"] in WITHOUT_DATA:
        assert not panel.get("targets")
        return
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["noValue"]
    assert defaults["unit"]
    assert panel["targets"]


@EACH_PANEL
def test_bytes_are_shown_in_the_units_of_the_panel(uid, panel):
    """Marzban writes GiB: decbytes would show another number than the panel does."""
    assert not {"decbytes", "kbytes", "decmbytes", "Bps"} & set(strings(panel.get("fieldConfig")))


@EACH_PANEL
def test_a_panel_reads_from_datasources_that_exist(uid, panel):
    if panel["type"] in {"row", "text"}:
        return
    sources = [panel["datasource"], *(each["datasource"] for each in panel.get("targets", []))]
    for each in sources:
        assert datasources()[each["uid"]]["type"] == each["type"]
    assert len({each["uid"] for each in sources}) == 1
    assert panel["datasource"]["uid"] != "bridge-actions", "that one is for buttons"


@EACH_PANEL
def test_a_panel_has_no_leftovers_of_the_query_builder(uid, panel):
    refs = [each["refId"] for each in panel.get("targets", [])]
    assert len(set(refs)) == len(refs)
    for target in panel.get("targets", []):
        if target["datasource"]["uid"] == INFLUX:
            assert target["rawQuery"] is True
            assert target["resultFormat"] in {"table", "time_series"}
            assert not {"select", "groupBy", "measurement", "tags"} & target.keys()


@EACH_PANEL
def test_overrides_name_columns_and_never_count_them(uid, panel):
    """A table's tag columns come in another order each time."""
    if panel["type"] not in WITHOUT_DATA:
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["id"] in {"byName", "byRegexp"}
    for step in panel.get("transformations", []):
        assert step["id"] != "filterByIndex"


TEXT_COLUMNS = {
    "user",
    "server",
    "admin",
    "port",
    "protocol",
    "reporter",
    "text",
    "before",
    "after",
}


@EACH_PANEL
def test_a_cell_of_a_table_stands_for_itself(uid, panel):
    """A user called 10086 is not 10.1 K, and an empty cell does not repeat the panel's message."""
    if panel["type"] != "table":
        return
    for override in panel["fieldConfig"]["overrides"]:
        found = {each["id"]: each["value"] for each in override["properties"]}
        if override["matcher"]["options"] in TEXT_COLUMNS:
            assert found["unit"] == "string"
        assert "mappings" in found or found["noValue"] == "-"


@EACH_PANEL
def test_a_gauge_of_use_turns_orange_at_four_fifths_and_red_at_all(uid, panel):
    for node in [panel.get("fieldConfig", {}).get("defaults", {}), *_override_values(panel)]:
        if node.get("unit") == "percentunit":
            steps = [(each["value"], each["color"]) for each in node["thresholds"]["steps"]]
            assert steps == [(None, "text"), (0, "green"), (0.8, "orange"), (1, "red")]


def test_green_means_checked():
    """The first colour is that of no data, which is grey; a state is one of data."""
    for uid, panel in places():
        if panel["type"] not in {"stat", "gauge", "bargauge"}:
            continue
        for node in [panel["fieldConfig"]["defaults"], *_override_values(panel)]:
            if "thresholds" in node:
                base = node["thresholds"]["steps"][0]
                assert base["value"] is None
                assert base["color"] in {"text", "blue", NO_DATA}, f"{uid}/{panel['title']}"


def test_users_and_reports_are_shown_as_whole_numbers():
    """5,012 users, not 5 K."""
    for uid, panel in places():
        if panel["type"] in {"stat", "table", "bargauge"}:
            assert "short" not in set(strings(panel["fieldConfig"])), f"{uid}/{panel['title']}"


def test_problems_and_names_come_before_totals():
    """On a phone the panels stand one below the other, in the order of the file."""
    for uid, dashboard in dashboards().items():
        found = [panel["gridPos"] for panel in panels(dashboard)]
        assert found == sorted(found, key=lambda at: (at["y"], at["x"])), uid
    titles = [panel["title"] for panel in dashboards()["traffic-overview"]["panels"]]
    assert titles[:3] == ["Problems", "Services", "Used up, yet active"]
    names = ("Who runs out next", "Users near their limit", "Users over their limit")
    assert max(map(titles.index, names)) < titles.index("Traffic over time")
    assert max(map(titles.index, names)) < titles.index("Total Users")
    assert dashboards()["traffic-operations"]["panels"][0]["title"] == "Problems"
    assert dashboards()["traffic-resellers"]["panels"][0]["title"] == "Resellers"


def _override_values(panel):
    for override in panel.get("fieldConfig", {}).get("overrides", []):
        yield {each["id"]: each["value"] for each in override["properties"]}


@EACH_PANEL
def test_links_lead_to_dashboards_and_variables_that_exist(uid, panel):
    for text in strings(panel):
        parts = urlsplit(text)
        if not parts.path.startswith("/d/"):
            continue
        target = parts.path.removeprefix("/d/")
        assert target in dashboards(), text
        for name in re.findall(r"var-(\w+)=", parts.query):
            assert name in variables(target), text
        for name in re.findall(r"\$\{(\w+):queryparam\}", text):
            assert name in variables(uid), text
            assert name in variables(target), text


@EACH_PANEL
def test_names_in_addresses_are_encoded(uid, panel):
    """A user may be called a/b or a&b."""
    for text in strings(panel):
        if "var-" in text or "/users/" in text:
            assert not re.findall(r"\$\{__data\.fields\.\w+\}", text.split("?", 1)[-1]), text
            for each in re.findall(r"/users/(.*?)/", text):
                assert each.endswith(":percentencode}"), text


@EACH_PANEL
def test_texts_use_variables_of_their_own_dashboard(uid, panel):
    own = variables(uid).keys()
    for text in strings([panel.get("options"), panel.get("fieldConfig")]):
        for name in re.findall(r"\$\{(\w+)", text):
            assert name in own or name.startswith("__"), text


@EACH_DASHBOARD
def test_variables_can_hold_every_name(uid):
    for each in variables(uid).values():
        assert each["multi"] is False, "several values are escaped by rules of their own"
        assert each.get("allValue", ".*") == ".*"
        assert each["description"]
        if each["type"] == "query":
            assert each["datasource"]["uid"] in datasources()
            query = each["query"]
            assert each["definition"] == (query if isinstance(query, str) else query["query"])


def test_the_choice_of_record_is_the_same_everywhere():
    found = [variables(uid)["policy"] for uid in dashboards() if "policy" in variables(uid)]
    assert len(found) == 2
    first, *others = [{**each, "description": None} for each in found]
    assert all(each == first for each in others)
    assert [each["value"] for each in found[0]["options"]] == list(schema.Policy)


@EACH_PANEL
def test_a_panel_that_may_read_days_says_what_a_day_is(uid, panel):
    if any("$policy" in text for text in strings(panel.get("targets", []))):
        assert "00:00 UTC" in panel["description"]


@EACH_DASHBOARD
def test_annotations_carry_tags_and_text(uid):
    for each in dashboards()[uid]["annotations"]["list"]:
        if "query" in each:
            assert each["datasource"]["uid"] == INFLUX
            assert each["tagsColumn"], "an empty one makes every column a tag"
            for column in ("textColumn", "titleColumn", "tagsColumn"):
                assert f'"{each[column]}"' in each["query"]
