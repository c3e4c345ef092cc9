"""What engines of several machines refuse is in no statement of a ledger or a store."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
ROOMS = (
    "collector/ledger/postgres",
    "collector/ledger/sql",
    "collector/runtime/postgres",
    "marzban_bridge/store/postgres",
)
CHANGES = re.compile(r"\b(UPDATE|INSERT|DELETE)\b")
VOLATILE = re.compile(r"\b(clock_timestamp|timeofday|random|gen_random_uuid|nextval)\s*\(")


def statements(source):
    """Return the texts of a module; those of f-strings without what is put into them."""
    tree = ast.parse(source)
    composed = [each for each in ast.walk(tree) if isinstance(each, ast.JoinedStr)]
    parts = {id(part) for each in composed for part in each.values}
    texts = [each for each in ast.walk(tree) if isinstance(each, ast.Constant)]
    yield from (" ".join(map(text_of, each.values)) for each in composed)
    yield from (text_of(each) for each in texts if id(each) not in parts)


def text_of(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def volatile_changes(source):
    return [text for text in statements(source) if CHANGES.search(text) and VOLATILE.search(text)]


def test_no_change_of_rows_depends_on_a_function_that_differs_from_row_to_row():
    """Citus refuses it: "functions used in UPDATE queries … must not be VOLATILE"."""
    found = [
        f"{path.relative_to(ROOT)}: {text.strip()}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for text in volatile_changes(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use statement_timestamp():\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"UPDATE lease SET expires_at = clock_timestamp()"', 1),
        ('f"UPDATE {table} SET at = clock_timestamp () WHERE a = {b}"', 1),
        ('"SELECT expires_at <= clock_timestamp()"', 0),
        ('"UPDATE lease SET expires_at = statement_timestamp()"', 0),
    ],
)
def test_the_search_finds_what_it_is_for(source, count):
    assert len(volatile_changes(source)) == count
