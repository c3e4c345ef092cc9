"""docs/security.md names tests that exist, functions that compare as it says, and real settings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import collector.settings
import marzban_bridge.config.settings
from collector.runtime.http.limits import MAX_HEAD_BYTES, MAX_PIPELINED
from tests.support.rows import for_each

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = sorted(set(re.findall(r"`([\w/]+/test_\w+\.py)::(\w+)`", TEXT)))
COMPARES = re.findall(r"`((?:collector|marzban_bridge)/[\w/]+\.py)::(\w+)`: (.+) \|", TEXT)


def functions(path: Path) -> dict[str, ast.AST]:
    return {
        node.name: node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}")[1].split("\n## ")[0]


@for_each(("file", "name"), TESTS)
def test_every_test_that_is_named_is_there(file, name):
    assert name.startswith("test_")
    assert name in functions(ROOT / "tests" / file)


def test_every_threat_names_its_test():
    rows = [row for row in section("Threats").splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        threat, defence, test, _ = row.removeprefix("| ").removesuffix("|").split(" |")
        assert threat
        assert defence
        assert "::test_" in test or "ci.yml" in test


@for_each(("file", "name", "how"), COMPARES)
def test_what_compares_secrets_does_it_as_the_document_says(file, name, how):
    source = ast.unparse(functions(ROOT / file)[name])
    assert ("compare_digest" if "compare_digest" in how else "hash_key") in source


def test_every_comparison_is_in_the_document():
    documented = {file for file, _, _ in COMPARES}
    for package in ("collector", "marzban_bridge"):
        for path in (ROOT / package).rglob("*.py"):
            module = str(path.relative_to(ROOT))
            if "compare_digest(" in path.read_text() and "/simulator/" not in module:
                assert module in documented


def test_every_variable_that_is_named_is_there():
    both = (collector.settings.Settings, marzban_bridge.config.settings.Settings)
    known = {each.name for kind in both for each in kind.variables()}
    known |= {"GRAFANA_ADMIN_PASSWORD", "WEBHOOK_SECRET"}
    known |= {"POSTGRES_PASSWORD"}
    assert set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT)) <= known


def test_the_bounds_are_those_of_the_code():
    said = section("Connections")
    assert f"| {MAX_HEAD_BYTES // 1024} KiB, then 431 |" in said
    assert f"| {MAX_PIPELINED}, then 400 |" in said
    defaults = collector.settings.Settings(), marzban_bridge.config.settings.Settings()
    for settings, prefix in zip(defaults, ("COLLECTOR", "BRIDGE"), strict=True):
        assert f"`{prefix}_MAX_CONNECTIONS` ({settings.max_connections})" in said
        assert settings.read_seconds == 15


def test_ci_and_the_chore_ask_for_known_vulnerabilities_alike():
    command = re.search(r"uv export .*pip-audit.*", (ROOT / "justfile").read_text())[0]
    assert command in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "--strict" in command
