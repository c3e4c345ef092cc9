"""Several hosts of a database become one connection string each, with the ports that libpq means."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from collector.runtime.postgres.connection import conninfo_of, hosts_of


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@a:1,b:2/d", [("a", "1"), ("b", "2")]),
        ("postgresql://u@a,b:5433/d", [("a", ""), ("b", "5433")]),
        ("postgresql://u@a,b/d?port=6432", [("a", "6432"), ("b", "6432")]),
        ("postgresql://u@a:1/d", [("a", "1")]),
        ("postgresql:///d", [(None, None)]),
    ],
)
def test_each_host_has_its_own_port(url, expected):
    found = [conninfo_to_dict(each) for each in hosts_of(conninfo_of(url, application="x"))]
    assert [(each.get("host"), each.get("port")) for each in found] == expected
    assert {each["dbname"] for each in found} == {"d"}
