"""The pages of the agent and the client: what they tell to paste is right, and nothing is left out."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import generate_latest

from collector.agent.config import settings as config
from collector.agent.metrics import AgentMetrics
from collector.agent.sources.kinds import KINDS
from collector.agent.state.state import State
from collector.client import Client, FailureKind
from collector.client.spool.spool import Spool

DOCS = Path(__file__).parents[4] / "docs"
AGENT = (DOCS / "agent.md").read_text()
OF_THE_COLLECTOR = ("3x-ui.md", "v2board.md")
"""Pages of panels that report by themselves."""
PAGES = [
    DOCS / "agent.md",
    *(
        path
        for path in sorted((DOCS / "sources").glob("*.md"))
        if path.name not in OF_THE_COLLECTOR
    ),
]
FILES = {
    "peers.toml": '"a key" = "alice"',
    "keys.toml": '"1" = "alice"',
    "remnawave-users.json": '{"42": "alice"}',
    "users.toml": "",
}


def blocks(path, language):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)


def whole(text):
    """Return an example with what it leaves out: where to report, and who it is."""
    said = tomllib.loads(text)
    head = '[agent]\nserver = "de-1"\n' if "agent" not in said else ""
    head += '[collector]\nurl = "https://c"\nkey = "rk_k"\n' if "collector" not in said else ""
    return head + text


TOML = [(path.name, block) for path in PAGES for block in blocks(path, "toml")]


@pytest.mark.parametrize(("page", "text"), TOML, ids=[f"{p}-{n}" for n, (p, _) in enumerate(TOML)])
def test_a_configuration_to_paste_is_right(page, text):
    text = re.sub(r"^ {3}", "", text, flags=re.MULTILINE) if text.startswith("   ") else text
    config.parse(whole(text), read_file=FILES.__getitem__)


def test_every_kind_has_an_example_and_a_place_in_the_list():
    shown = {kind for _, text in TOML for kind in re.findall(r'kind = "([\w-]+)"', text)}
    assert set(KINDS) <= shown
    assert set(KINDS) <= set(re.findall(r"`([\w-]+)`", AGENT.split("## Sources")[1]))


def test_every_page_of_a_source_is_listed():
    assert set(re.findall(r"\(sources/([\w-]+\.md)\)", AGENT)) == {p.name for p in PAGES[1:]}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_json_to_paste_is_json(path):
    for block in blocks(path, "json"):
        json.loads(block)


def test_every_metric_is_described_and_no_other(tmp_path):
    state = State(Spool(tmp_path / "state"))
    state.note_problem("x", "for once")
    metrics = AgentMetrics(
        state, sent=lambda: {"reports": 1}, failing=list, now=lambda: datetime.now(tz=UTC)
    )
    metrics.posts = lambda: {("r", "kept"): 1}
    told = set(
        re.findall(
            r"^# TYPE (agent_\w+)", generate_latest(metrics.registry()).decode(), re.MULTILINE
        )
    )
    state.spool.close()
    assert told == set(re.findall(r"`(agent_\w+)", AGENT.split("| metric | |")[1]))


def test_python_to_paste_compiles_and_names_what_there_is():
    text = (DOCS / "client.md").read_text()
    for block in blocks(DOCS / "client.md", "python"):
        compile(block, "client.md", "exec")
    methods, options, kinds, _ = re.split(
        r"^## (?:Options|Errors|Threads.*)$", text, flags=re.MULTILINE
    )
    for name in re.findall(r"^\| `(\w+)", methods, re.MULTILINE):
        assert hasattr(Client, name)
    parameters = inspect.signature(Client).parameters
    for name in re.findall(r"^\| `(\w+)` \|", options, re.MULTILINE):
        assert name in parameters
    first_cells = "".join(re.findall(r"^\| (`.*?) \|", kinds, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) - {"kind"} == set(get_args(FailureKind)) - {
        "address"  # refused where the client is made, but for what no check foresees
    }
