"""docs/report.md lists the fields of a report as the code takes them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import msgspec.json

from collector.api.reports import Answer
from collector.reports.decode import decode
from collector.reports.report import MAX_REPORTS_PER_REQUEST, Limits, Report, WireReport, accept
from collector.reports.unknown_fields import why_unknown

PAGE = (Path(__file__).parents[4] / "docs" / "report.md").read_text()


def rows(heading):
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def schema_rows():
    """Return name, type, whether it is required, and limits of each field, from the code."""
    _, components = msgspec.json.schema_components([WireReport])
    schema = components["WireReport"]
    for name, field in schema["properties"].items():
        options = field.get("anyOf", [field])
        facts = next(each for each in options if each["type"] != "null")
        kind = facts["type"] + (" or null" if len(options) > 1 else "")
        needed = "required"
        if name not in schema["required"]:
            needed = f"optional, {json.dumps(field['default'])}"
        limits = "RFC 3339 with a time zone"
        if facts.get("format") != "date-time":
            least = facts.get("minLength", facts.get("minimum"))
            most = facts.get("maxLength", facts.get("maximum"))
            limits = f"{least} to {most}" + (" characters" if facts["type"] == "string" else "")
        yield name, kind, needed, limits


def test_the_page_lists_every_field_with_type_and_limits():
    listed = [
        (name.strip("`| "), kind, needed, limits.partition(";")[0])
        for name, kind, needed, limits, _ in rows("Fields")
    ]
    assert listed == list(schema_rows())
    assert f"up to {MAX_REPORTS_PER_REQUEST:,}" in PAGE


def test_the_page_lists_what_an_answer_has():
    assert [row[0].strip("`| ") for row in rows("The answer")] == list(Answer.model_fields)


def test_the_examples_of_the_page_are_taken():
    examples = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    now_millis = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp() * 1000)
    for example in examples:
        decoded = decode(example.encode(), is_strict=True)
        assert not decoded.refusals
        for index, wire in decoded.reports:
            outcome = accept(
                wire,
                index=index,
                username=wire.user_token,
                scope="reporter:r",
                fallback_id=None,
                now_millis=now_millis,
                limits=Limits(),
            )
            assert isinstance(outcome, Report)


def test_the_misspelt_field_of_the_page_is_refused_as_it_says():
    assert why_unknown("reportId") in PAGE
