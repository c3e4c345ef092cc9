"""The pages are whole: no conflict of a merge is left in them, and every decision is listed."""

from __future__ import annotations

import re

from tests.support.rows import for_each
from tests.unit.project.test_words import PAGES, ROOT

CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
DECISIONS = ROOT / "docs" / "decisions"


@for_each("path", PAGES)
def test_no_conflict_is_left(path):
    assert CONFLICT.search(path.read_text()) is None


def test_every_decision_is_listed_in_the_order_of_the_numbers():
    listed = re.findall(
        r"^\| \[\d{4}\]\((.+)\) \|", (DECISIONS / "README.md").read_text(), re.MULTILINE
    )
    assert listed == sorted(path.name for path in DECISIONS.glob("0*.md"))
