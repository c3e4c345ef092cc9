"""Finds the deepest chain of imports within a package: `python tests/support/import_chain.py`.

Imports inside functions and under TYPE_CHECKING count as well: a reader follows them, too. An
`__init__.py` with a docstring alone is no link.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("collector", "marzban_bridge")


def deepest_chain(package: str) -> list[str]:
    """Return a longest chain, from the importing module down; CycleError where there is a circle."""
    imports = imports_within(package)
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(imports).static_order():
        below = max((chains[each] for each in sorted(imports[module])), key=len, default=[])
        chains[module] = [module, *below]
    return max(chains.values(), key=len)


def imports_within(package: str) -> dict[str, set[str]]:
    """Return, by module of a package, which others of it are imported there."""
    trees = {_name_of(path): ast.parse(path.read_text()) for path in (ROOT / package).rglob("*.py")}
    trees = {name: tree for name, tree in trees.items() if len(tree.body) > 1}
    return {name: _imported(tree, set(trees)) - {name} for name, tree in trees.items()}


def _name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(tree: ast.Module, modules: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {node.module}
    return found & modules


if __name__ == "__main__":
    for each in PACKAGES:
        try:
            chain = deepest_chain(each)
            print(f"{each}: {len(chain)}", *chain, sep="\n  ")  # noqa: T201 - a command prints
        except CycleError as error:
            print(f"{each}: a circle", *error.args[1], sep="\n  ")  # noqa: T201 - likewise
