"""House rules of the alert rules, the samples and the runbook."""

from __future__ import annotations

import re

import yaml

from tests.support.grafana.grafana_files import (
    EXPRESSIONS,
    INFLUX,
    ROOT,
    RULES,
    SAMPLES,
    dashboards,
    panels,
    rules,
)
from tests.support.grafana.runbook import runbook
from tests.support.rows import for_each

RUNBOOK = ROOT / "docs" / "alerts.md"
# What Grafana's parser takes; it drops any other key without a word.
GROUP_KEYS = {"orgId", "name", "folder", "interval", "rules"}
RULE_KEYS = {
    *("uid", "title", "condition", "for", "noDataState", "execErrState", "labels"),
    *("annotations", "dashboardUid", "panelId", "data"),
}
DATA_KEYS = {"refId", "datasourceUid", "relativeTimeRange", "model"}
MODEL_KEYS = {
    INFLUX: {"refId", "rawQuery", "resultFormat", "intervalMs", "maxDataPoints", "query"},
    "prometheus": {"refId", "instant", "range", "intervalMs", "maxDataPoints", "expr"},
    "reduce": {"refId", "type", "expression", "reducer"},
    "threshold": {"refId", "type", "expression", "conditions"},
}
KEPT_UIDS = {"unknown-names": "orphan-usernames", "panel-suspended": "panel-in-doubt"}
"""Rules that were renamed: with another uid Grafana would have them twice, and lose their state."""
EACH_RULE = for_each("rule", rules(), called=lambda rule: rule["uid"])


def anchor(title):
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def sections():
    return re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)


def test_groups_have_known_keys_and_one_folder():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        assert group.keys() == GROUP_KEYS
        assert group["folder"] == "VPN traffic"


def test_rules_are_named_once():
    for key in ("uid", "title"):
        values = [rule[key] for rule in rules()]
        assert len(set(values)) == len(values)


@EACH_RULE
def test_a_rule_has_known_keys_and_values(rule):
    assert rule.keys() == RULE_KEYS
    assert re.fullmatch(r"[a-z0-9-]{1,40}", rule["uid"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    # Error and NoData send alerts of other names, without labels, and end those that fire.
    assert rule["noDataState"] in {"OK", "KeepLast"}
    assert rule["execErrState"] in {"Alerting", "KeepLast"}


@EACH_RULE
def test_a_rule_is_a_query_its_last_value_and_a_threshold(rule):
    """No query selects two columns: two series with the same labels are an error."""
    query, reduce, threshold = rule["data"]
    assert rule["condition"] == threshold["refId"]
    assert query.keys() == DATA_KEYS
    assert query["model"].keys() == MODEL_KEYS[query["datasourceUid"]]
    for each, source in ((reduce, query), (threshold, reduce)):
        assert each.keys() == DATA_KEYS - {"relativeTimeRange"}
        assert each["datasourceUid"] == EXPRESSIONS
        assert each["model"].keys() == MODEL_KEYS[each["model"]["type"]]
        assert each["model"]["expression"] == source["refId"]
    for each in rule["data"]:
        assert each["model"]["refId"] == each["refId"]
    assert len(threshold["model"]["conditions"]) == 1


@EACH_RULE
def test_a_rule_about_users_asks_for_those_concerned_alone(rule):
    """Grafana keeps a state for every series a query returns."""
    query = rule["data"][0]
    if '"user_usage"' in str(query["model"].get("query")):
        assert re.search(r'\) WHERE .+ GROUP BY "user"$', query["model"]["query"])
        assert query["relativeTimeRange"]["from"] >= 1200, "it must hold two heartbeats"


def test_the_document_says_what_each_rule_does_in_an_outage():
    row = re.compile(r"^\| \[(.+)\]\(#(.+)\) \| (\w+) \| (\w+) \| (\w+) \| .+ \|$", re.MULTILINE)
    assert row.findall(RUNBOOK.read_text()) == [
        (
            rule["title"],
            anchor(rule["title"]),
            rule["for"],
            rule["noDataState"],
            rule["execErrState"],
        )
        for rule in rules()
    ]


def test_one_rule_for_each_datasource_fires_when_it_cannot_be_read():
    """All others keep what they have: an outage is one alert, and ends none."""
    telling = [rule for rule in rules() if rule["execErrState"] == "Alerting"]
    read = {rule["data"][0]["datasourceUid"] for rule in rules()}
    assert sorted(rule["data"][0]["datasourceUid"] for rule in telling) == sorted(read)


@EACH_RULE
def test_a_rule_says_what_it_means_and_where_to_look(rule):
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook", "runbook_url"}
    assert annotations["description"].endswith(".")
    assert annotations["runbook"] == f"docs/alerts.md#{anchor(rule['title'])}"
    [page] = [
        panel for panel in panels(dashboards()["traffic-alerts"]) if panel["title"] == rule["title"]
    ]
    where = f"d/traffic-alerts?viewPanel={page['id']}"
    assert annotations["runbook_url"] == f"{{{{ externalURL }}}}{where}"
    name = anchor(rule["title"])
    assert rule["uid"] == KEPT_UIDS.get(name, name)
    shown = {panel["id"]: panel for panel in panels(dashboards()[rule["dashboardUid"]])}
    assert shown[rule["panelId"]]["type"] != "row"


@EACH_RULE
def test_labels_have_no_dollar_that_grafana_would_eat(rule):
    """In labels and names `$` is Grafana's interpolation; in annotations and queries it is ours."""
    for text in (rule["uid"], rule["title"], *rule["labels"].values()):
        assert "$" not in text


def test_the_runbook_in_grafana_is_the_document():
    """`uv run python -m tests.support.grafana.runbook` writes it."""
    assert dashboards()["traffic-alerts"] == runbook()


def test_every_rule_has_a_section_in_the_runbook_and_every_section_a_rule():
    assert sections() == [rule["title"] for rule in rules()]


@for_each("title", sections())
def test_a_section_says_what_it_means_how_to_look_and_what_to_do(title):
    text = RUNBOOK.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert text.count(part) == 1


@for_each("path", SAMPLES)
def test_a_sample_stands_for_itself(path):
    """Unset variables become empty settings, with which Grafana does not start."""
    content = yaml.safe_load(path.read_text())
    assert content.keys() <= {"apiVersion", "contactPoints", "policies"}
    code = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
    assert "$" not in code
    for point in content.get("contactPoints", []):
        for receiver in point["receivers"]:
            assert receiver["uid"]
            assert all(isinstance(value, str) for value in receiver["settings"].values())


def test_the_samples_are_not_where_grafana_reads():
    """It reads the files of its folder, not those of folders in it."""
    read = [path.name for path in RULES.parent.iterdir() if path.is_file()]
    assert sorted(read) == ["rules.yaml", "templates.yaml"]
    assert {path.stem for path in SAMPLES} == {"email", "policy", "telegram", "webhook"}
