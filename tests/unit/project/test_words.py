"""The product speaks the field's words: what was coined for it once stands nowhere any more."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.support.rows import for_each

ROOT = Path(__file__).parents[3]
CODE = sorted(
    path for package in ("collector", "marzban_bridge") for path in (ROOT / package).rglob("*.py")
)
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / ".env.example",
        *(path for path in (ROOT / "provisioning").rglob("*") if path.is_file()),
        *(ROOT / "scripts").iterdir(),
    )
)

COINED = {
    "account_books": "store.accounts",
    "audit_trail": "store.events",
    "body_room": "body_memory",
    "calm_down": "WorkQueue.clear",
    "doubt": "suspended, suspension",
    "hurry": "WorkQueue.add",
    "hurry_others": "WorkQueue.add",
    "keep_standing": "report_position",
    "known_store": "ReaderPosition",
    "lean": "fast_routes",
    "ledger_place": "LedgerBackend",
    "lineage": "identity",
    "looks": "evaluation",
    "namesake": "duplicate name",
    "odometer": "lifetime_panel_bytes",
    "orphan": "unknown name",
    "postgres_place": "PostgresBackend",
    "read_handle": "ReplicaReader",
    "recognition": "panel identity",
    "roll_call": "DuplicateNameScan",
    "shared_handle": "PostgresReplica",
    "sighting": "panel snapshot",
    "snapshots": "TimeSeriesWriter",
    "sole_writer": "exclusive",
    "source_book": "SourcesConfig",
    "sqlite_place": "SqliteBackend",
    "standing": "balance, ReaderPosition, SourceStatus, LeaseRow",
    "usage_books": "store.usage",
    "whole_answers": "CoalescingTransport",
    "witness": "RollbackCheck",
}
"""Parts of names, as `snake_case`, with what the thing is called."""

RIDDLES = (
    r"anew\b",
    r"calm(s|ed)? down",
    r"called (so )?next",
    r"hand that goes round",
    r"haste",
    r"hurr(y|ies|ied) ",
    r"leaves? word|left word",
    r"lineages?",
    r"namesakes?",
    r"newcomers?",
    r"nobody's",
    r"(answer|believe|change|charge|count|cut|hold|keep|limit|own|reset|show|warn)s? nobody",
    r"(about|against|at|beside|by|for|from|of|to|with) nobody",
    r"odometers?",
    r"roll[ -]call",
    r"sightings?",
    r"signs? of life",
    r"sole writer",
    r"somebody",
    r"whoever",
)
"""What no text says: a thing with a name does something that the field has a word for."""

STORED = {
    "account.sighting": "a key of an account's stored JSON",
    "namesake": "a table of the bridge's store",
    "odometer_bytes": "a column of the bridge's store",
    "orphan": "a table of the bridge's store, a kind of event, a key of its API",
    "orphans": "a key of the bridge's API",
}
"""Names of stored and sent things, which stay; they stand in texts of SQL, JSON and metrics."""

KEPT = {
    "doubt": ("marzban_bridge/api/answers.py", "marzban_bridge/cli/recovery/rebase_panel.py"),
    "orphans": ("marzban_bridge/api/operations.py",),
    "sighting": ("marzban_bridge/",),
}
"""Fields that are named as they are stored or sent, and the modules that may name them.

The keys `doubt` and `orphans` of the bridge's API, and `Account.sighting`, which is stored JSON.
"""


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _names_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.keyword(arg=str(name)):
                yield name
            case _:
                pass


def _text_of(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":  # what was released stays as it was written
        return source.partition("## [Unreleased]")[2].partition("\n## [")[0]
    if path.suffix != ".py":
        return source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(
        each.string for each in tokens if each.type in {tokenize.STRING, tokenize.COMMENT}
    )


def _is_kept(path: Path, name: str) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(KEPT.get(name, ()))


@for_each("path", CODE, called=lambda path: path.relative_to(ROOT).as_posix())
def test_no_name_in_the_code_is_coined(path):
    names = {*_names_of(ast.parse(path.read_text(encoding="utf-8"))), path.stem, path.parent.name}
    found = {
        name: COINED[word]
        for name in names
        for word in COINED
        if re.search(rf"(?:^|_){word}s?(?:_|$)", _snake(name)) and not _is_kept(path, name)
    }
    assert not found, f"say instead: {found}"


@for_each("path", [*CODE, *PAGES], called=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_speaks_in_riddles(path):
    text = _text_of(path)
    for stored in STORED:
        text = re.sub(rf"\b{re.escape(stored)}\b", "", text)
    found = {
        match.group() for riddle in RIDDLES for match in re.finditer(rf"(?i)\b(?:{riddle})", text)
    }
    assert not found
