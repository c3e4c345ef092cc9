"""The commands that pages and CI give: they bring what they need, and nothing but that."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEST_COMMAND = re.compile(r"^uv run .*pytest[^#\n]*", re.MULTILINE)
WITHOUT_GROUP = re.compile(
    r"uv run (?:pytest|ruff|mypy|lint-imports|pre-commit|python benchmarks)[^\n]*"
)
PLACES = (
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / ".github").rglob("*.y*ml"),
    *(ROOT / "benchmarks").glob("*.py"),
    ROOT / ".ci" / "run",
    ROOT / ".pre-commit-config.yaml",
    ROOT / "justfile",
)


def command_of(path: Path) -> str:
    found = TEST_COMMAND.search(path.read_text())
    assert found, f"{path} names no command that runs the tests"
    return found[0].strip()


def test_a_plain_uv_run_brings_no_development_tools():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["tool"]["uv"]["default-groups"] == []


def test_ci_runs_the_test_command_of_the_readme():
    command = command_of(ROOT / "README.md")
    assert command_of(ROOT / ".ci" / "run") == command
    assert command_of(ROOT / "CONTRIBUTING.md") == command


def test_every_command_with_a_development_tool_names_its_group():
    bad = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in PLACES
        for found in WITHOUT_GROUP.findall(path.read_text())
    ]
    assert not bad, "\n".join(bad)
