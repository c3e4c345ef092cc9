"""Secrets are compared in constant time, or looked up by their hash, and never with `==`."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.rows import for_each

ROOT = Path(__file__).parents[3]
SECRET = re.compile(
    r"(^|_)(token|secret|password|passphrase|bearer|credentials?|signature|authorization"
    r"|(admin|action|reporter|api)_key|key_hash)s?$"
)
LEADERS = (
    ("collector/ledger/lost_commits.py", "each.token in known"),
    ("collector/ledger/lost_commits.py", "token_then != known.token"),
    ("collector/runtime/postgres/lease.py", "row.token == self.token"),
    ("collector/ledger/postgres/recall.py", "token not in self._tokens"),
    ("marzban_bridge/store/postgres/lease.py", "self.known.token == self.token"),
    ("marzban_bridge/store/postgres/lease.py", "self.row.token not in {'', self.token}"),
    ("marzban_bridge/store/postgres/terms.py", "now.token == known.token"),
)
HARMLESS = {
    **dict.fromkeys(LEADERS, "it names who leads, or led, and opens nothing"),
    (
        "marzban_bridge/panels/identity.py",
        "one.credentials == other.credentials",
    ): "both are marks of what panels showed; nobody proves anything with them",
    (
        "collector/api/pipeline.py",
        "token in sender.tokens",
    ): "both came in one request, and the panel said whose the second is",
    **{
        ("marzban_bridge/panels/http/session.py", each): "both are ours; nobody can ask twice"
        for each in ("self._token != stale", "token == self._token", "token != self._token")
    },
}
SIMULATOR = "marzban_bridge/simulator/"
"""A stand-in for tests and demonstrations, not for use."""


def modules() -> list[Path]:
    found = [*(ROOT / "collector").rglob("*.py"), *(ROOT / "marzban_bridge").rglob("*.py")]
    return [path for path in found if not str(path.relative_to(ROOT)).startswith(SIMULATOR)]


def name_of(node: ast.expr) -> str:
    """Return the last name of an expression: what a call or a method is of does not hide it."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if SECRET.search(name):
            return name
        case ast.Attribute(value=inner) | ast.Subscript(value=inner):
            return name_of(inner)
        case ast.Call(func=ast.Attribute(value=inner)):
            return name_of(inner)
    return ""


def comparisons(tree: ast.AST) -> list[str]:
    """Return comparisons of something named like a secret with something that is no constant."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for pair, operator in zip(pairwise(sides), node.ops, strict=True):
            is_equality = isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn)
            is_between_variables = not any(isinstance(each, ast.Constant) for each in pair)
            is_about_secrets = any(SECRET.search(name_of(each)) for each in pair)
            if is_equality and is_between_variables and is_about_secrets:
                found.append(ast.unparse(node))
    return found


@for_each("path", modules())
def test_no_secret_is_compared_with_equals(path):
    module = str(path.relative_to(ROOT))
    found = comparisons(ast.parse(path.read_text()))
    assert [each for each in found if (module, each) not in HARMLESS] == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("given_token == settings.action_token", True),
        ("secret.encode() != x_webhook_secret.encode()", True),
        ("key_hash in hashes", True),
        ("if a and password == form['password']: pass", True),
        ("token == ''", False),
        ("token is None", False),
        ("account_key == other", False),
        ("hmac.compare_digest(token, expected)", False),
    ],
)
def test_the_search_finds_what_it_is_for(text, is_found):
    assert bool(comparisons(ast.parse(text))) is is_found


def test_every_exception_is_still_there():
    for module, text in HARMLESS:
        assert text in comparisons(ast.parse((ROOT / module).read_text()))
