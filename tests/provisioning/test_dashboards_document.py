"""docs/dashboards.md tells the truth about panels, pictures and controls."""

from __future__ import annotations

import re

import pytest

from tests.support.grafana.grafana_files import ROOT, dashboards, panels

DOCUMENT = ROOT / "docs" / "dashboards.md"
OLD_PAGE = [
    *("Total Users", "Total Servers", "Traffic Used", "Total Connections", "Total Records"),
    *("Unique Users", "Unique Servers", "Database Size", "Retention Policy", "Server Details"),
    *("Traffic per Server", "Connection Count", "Last Used", "Refresh", "Reset All"),
    "Cleanup Old Data",
]


def rows(heading):
    section = DOCUMENT.read_text().split(heading)[1].split("\n## ")[0]
    lines = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)[1:]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def by_title():
    return {each["title"]: each for each in dashboards().values()}


def test_everything_of_the_old_page_has_its_place():
    assert [each[0] for each in rows("## Where things of the old page are")] == OLD_PAGE


@pytest.mark.parametrize(("old", "dashboard", "panel"), rows("## Where things of the old page are"))
def test_the_place_exists(old, dashboard, panel):
    assert panel in {each["title"] for each in panels(by_title()[dashboard])}


def test_every_dashboard_is_listed_with_its_question():
    found = dict(rows("# Dashboards"))
    assert found == {title: each["description"] for title, each in by_title().items()}


def test_pictures_exist():
    for path in re.findall(r"\]\((pictures/[^)]+)\)", DOCUMENT.read_text()):
        assert (DOCUMENT.parent / path).is_file()
