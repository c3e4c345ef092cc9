"""House rules of the queries in dashboards and alerts, as they are written."""

from __future__ import annotations

import re

from collector import schema
from tests.support.engines.prometheus_engine import WorkedPrograms
from tests.support.grafana.grafana_files import INFLUX, PROMETHEUS, all_queries, panel_queries
from tests.support.grafana.grafana_interpolation import names_used
from tests.support.rows import for_each

BUILT_IN = {"timeFilter", "__interval", "__interval_ms"}
INFLUXQL = [each for each in all_queries() if each.datasource == INFLUX]
EACH_QUERY = for_each("query", INFLUXQL)
MEASUREMENTS = [each for each in vars(schema).values() if isinstance(each, schema.Measurement)]
NAMES = "|".join({each.name for each in MEASUREMENTS})


@EACH_QUERY
def test_a_query_is_bounded_in_time_and_names_its_retention_policy(query):
    assert ";" not in query.text, "statements of one panel are joined with semicolons"
    if query.text.startswith("SHOW TAG VALUES"):
        assert re.search(r'FROM "(traffic|reseller_users)"', query.text)
        return
    assert "$timeFilter" in query.text
    sources = re.findall(r'FROM ("[^"]*"(?:\."[^"]*")?)', query.text)
    assert sources
    for each in sources:
        assert re.fullmatch(rf'"(raw|daily|\$policy)"\."({NAMES})"', each), each


@EACH_QUERY
def test_a_variable_is_compared_as_an_escaped_pattern_of_the_whole(query):
    """`= '$user'` breaks for b.c, and newer Grafana does not escape a name that begins with a digit
    unless told to."""
    rest = re.sub(r'"\w+" =~ /\^\$\{\w+:regex\}\$/', "", query.text).replace('"$policy".', "")
    assert names_used(rest) <= BUILT_IN, query.text


@EACH_QUERY
def test_a_query_uses_names_of_the_schema_alone(query):
    known = {"raw", "daily", "$policy"}
    for each in MEASUREMENTS:
        known |= {each.name, *each.tags, *each.fields}
    aliases = set(re.findall(r'AS "([^"]+)"', query.text))
    assert set(re.findall(r'"([^"]+)"', query.text)) <= known | aliases, query.text


@for_each("query", [each for each in panel_queries() if "GROUP BY time(" in each.text])
def test_a_graph_has_a_bounded_number_of_lines(query):
    """Ten thousand users must not become ten thousand lines."""
    assert re.search(r"GROUP BY time\(\$__interval(, now\(\))?\)( fill\(none\))?$", query.text)
    if any(f'"{tag}"' in query.text.split("FROM")[0] for tag in ("user", "server", "admin")):
        assert re.match(r'SELECT top\("\w+", "\w+", \d\) ', query.text)


@for_each("query", [each for each in panel_queries() if 'GROUP BY "user"' in each.text])
def test_a_table_of_users_is_a_top_or_a_number(query):
    assert re.match(r"SELECT (top|count|sum)\(", query.text) or ":regex}$/" in query.text


def test_promql_uses_names_that_the_programs_have():
    known = WorkedPrograms().metric_names() | {"up"}
    unknown = {
        (name, query.place)
        for query in all_queries()
        if query.datasource == PROMETHEUS
        for name in re.findall(r"\b(?:collector|bridge)_\w+|\bup\b", query.text)
        if name not in known
    }
    assert unknown == set()
