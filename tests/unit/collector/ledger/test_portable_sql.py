"""What engines of several machines refuse is in no statement of a ledger or a store."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from collector.ledger.postgres import append

ROOT = Path(__file__).parents[4]
ROOMS = (
    "collector/ledger/migration",
    "collector/ledger/postgres",
    "collector/ledger/sql",
    "collector/runtime/postgres",
    "marzban_bridge/store/postgres",
)
MIGRATIONS = ROOT / "collector/ledger/postgres/schema.py"
CHANGES = re.compile(r"\b(UPDATE|INSERT|DELETE)\b")
READS = re.compile(r"\b(SELECT|WHERE)\b")
WHOLE = re.compile(r"CAST\([^/]*? / [^/]*? AS bigint\)|\([^/()]* / [^/()]*\)::int\b")
"""A division whose remainder is dropped whatever an engine makes of `/`."""
BY_NAME = re.compile(r"\b(setval|currval|pg_get_serial_sequence)\s*\(|::reg[a-z]+\b")
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


def test_what_a_commit_stored_is_counted_by_the_rows_that_it_returns():
    """Citus counts the rows that an INSERT … SELECT … ON CONFLICT DO NOTHING has selected.

    A report that another collector stored meanwhile would be taken for stored, and counted twice in
    the sums of its group. So the loser of a race for an id is given an error.
    """
    text = " ".join(append._STORE.split())
    assert "ON CONFLICT" not in text
    assert "RETURNING 1 ) SELECT (SELECT count(*) FROM stored)" in text


def test_what_decides_whether_a_commit_stores_is_read_once():
    """Citus executes the parts of a WITH one after the other, each with a snapshot of its own.

    A group would be stored without its reports, were a condition read again for them.
    """
    text = " ".join(append._STORE.split())
    assert len(re.findall(r"\b(?:FROM|JOIN) (?:report|report_group)\b", text)) == 1
    assert len(re.findall(r"\b(?:FROM|JOIN) series_epoch\b", text)) == 1


def tables_beside_names(source):
    return [
        text for text in statements(source) if re.search(r"\bFROM\b", text) and BY_NAME.search(text)
    ]


def test_what_finds_a_table_by_a_text_reads_no_other_table():
    """Citus sends the statement on to the node of a table that it reads, where the name is another.

    There `setval(pg_get_serial_sequence('series', 'id'), …)` finds nothing, or a sequence that is
    not the one from which new rows are numbered.
    """
    found = [
        f"{path.relative_to(ROOT)}: {text.strip()}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for text in tables_beside_names(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use two statements:\n" + "\n".join(found)


def bare_divisions(source):
    return [
        text for text in statements(source) if READS.search(text) and " / " in WHOLE.sub("", text)
    ]


def test_no_division_depends_on_what_an_engine_makes_of_the_remainder():
    """CockroachDB divides integers into a decimal: hours and days would be fractions."""
    found = [
        f"{path.relative_to(ROOT)}: {text.strip()}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if path != MIGRATIONS  # what these divided is divided, or the table is empty
        for text in bare_divisions(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use sql.database.quotient:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"SELECT reported_at / 86400000 AS day FROM report"', 1),
        ('f"SELECT low FROM {a} WHERE (low + high) / 2 > 3"', 1),
        ('"SELECT CAST(reported_at / 86400000 AS bigint) FROM report"', 0),
        ('"SELECT (reported_at / 86400000)::int FROM report"', 0),
        ('"reads / writes"', 0),
    ],
)
def test_the_search_finds_bare_divisions(source, count):
    assert len(bare_divisions(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"SELECT setval(pg_get_serial_sequence(%s, %s), (SELECT max(id) FROM series))"', 1),
        ("\"SELECT 'x'::regclass FROM t\"", 1),
        ('"SELECT setval(pg_get_serial_sequence(%s, %s), %s)"', 0),
        ('"SELECT max(id) FROM series"', 0),
    ],
)
def test_the_search_finds_tables_beside_names(source, count):
    assert len(tables_beside_names(source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"UPDATE lease SET expires_at = clock_timestamp()"', 1),
        ('f"UPDATE {table} SET at = clock_timestamp () WHERE a = {b}"', 1),
        ('"SELECT expires_at <= clock_timestamp()"', 0),
        ('"UPDATE lease SET expires_at = statement_timestamp()"', 0),
    ],
)
def test_the_search_finds_volatile_changes(source, count):
    assert len(volatile_changes(source)) == count
