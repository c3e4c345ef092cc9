"""The client alone: what is in its wheel needs nothing that is not, and runs on Python 3.10."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

import collector

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "packaging" / "client"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())
TARGETS = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
NEW_IN_3_11 = {
    "asyncio": {"timeout", "timeout_at", "Runner", "TaskGroup", "Barrier"},
    "datetime": {"UTC"},
    "enum": {"StrEnum"},
    "typing": {"Self", "assert_never", "LiteralString", "Never", "NotRequired"},
}


def shipped():
    """Return the modules of the wheel by their place in the tree."""
    files = []
    for source in TARGETS:
        path = (FOLDER / source).resolve()
        files += path.rglob("*.py") if path.is_dir() else [path] * (path.suffix == ".py")
    return sorted(str(each.relative_to(ROOT)) for each in files)


def run_time_nodes(module):
    """Walk a module, without what only a type checker reads."""
    waiting = [ast.parse((ROOT / module).read_text(), feature_version=(3, 10))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def imported(module):
    for node in run_time_nodes(module):
        if isinstance(node, ast.Import):
            yield from ((each.name, None) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, each.name) for each in node.names)


def test_each_file_is_shipped_where_it_is_imported_from():
    for source, place in TARGETS.items():
        path = (FOLDER / source).resolve()
        assert path.exists()
        assert path.name == "LICENSE" or place == str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", shipped())
def test_what_it_imports_is_shipped_or_a_dependency(module):
    known = {each.removesuffix(".py").replace("/", ".") for each in shipped()}
    known |= {each.removesuffix(".__init__") for each in known}
    needed = {each.split(">=")[0] for each in PROJECT["project"]["dependencies"]}
    for name, part in imported(module):
        root = name.split(".")[0]
        if root == "collector":
            assert name in known
            assert name != "collector.client" or f"collector.client.{part}" in known
        else:
            assert root in needed | sys.stdlib_module_names


@pytest.mark.parametrize("module", shipped())
def test_it_uses_nothing_that_came_with_python_3_11(module):
    assert PROJECT["project"]["requires-python"] == ">=3.10"
    used = set(imported(module))
    for node in run_time_nodes(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add((node.value.id, node.attr))
    assert not {(root, name) for root, names in NEW_IN_3_11.items() for name in names} & used


def test_its_version_and_dependencies_are_those_of_the_whole():
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert PROJECT["project"]["version"] == whole["version"] == collector.__version__
    assert set(PROJECT["project"]["dependencies"]) <= set(whole["dependencies"])
