"""The bounds on connections build on insides of uvicorn, which may go away with any version.

Then a deadline or a bound might silently not be there. Here it is said which piece is missing.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from collector.runtime.http import direct
from collector.runtime.http import limits as connections

ROOT = Path(__file__).parents[4]
ADVICE = (
    "uvicorn {version} has no {piece} any more, on which collector/runtime/http/limits.py builds: keep to "
    "the versions before in pyproject.toml, or find another way to hold the bound"
)


def _protocol_classes() -> list[ast.AST]:
    """Return our classes, each on top of the one before."""
    ours = (connections.BoundedProtocol, direct.DirectProtocol)
    return [ast.parse(inspect.getsource(each)).body[0] for each in ours]


def _nodes() -> list[ast.AST]:
    return [node for each in _protocol_classes() for node in ast.walk(each)]


def _own() -> set[str]:
    """Return what our classes have of their own: methods that are new, and their attributes."""
    bodies = [node for each in _protocol_classes() for node in each.body]
    named = {node.target.id for node in bodies if isinstance(node, ast.AnnAssign)}
    called = _inherited_calls()
    methods = {node.name for node in bodies if isinstance(node, ast.FunctionDef)} - called
    made = {
        node.attr
        for node in _nodes()
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and node.attr.startswith("_")
    }
    return named | methods | made


def _inherited_calls() -> set[str]:
    """Return the methods that are extended: our class calls uvicorn's of the same name."""
    return {
        node.attr
        for node in _nodes()
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", None) == "super"
    }


def _borrowed() -> list[str]:
    """Return what our class takes from uvicorn's."""
    used = {
        node.attr
        for node in _nodes()
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self"
    }
    return sorted((used | _inherited_calls()) - _own() - {"__init__"})


@pytest.fixture(scope="module")
def protocol():
    async def app(scope, receive, send):
        raise AssertionError("nobody asks")

    loop = asyncio.new_event_loop()
    protocol = HttpToolsProtocol(Config(app, lifespan="off"), ServerState(), {}, _loop=loop)
    protocol.on_message_begin()
    yield protocol
    loop.close()


def test_the_pieces_are_found():
    borrowed = _borrowed()
    assert {"connections", "pipeline", "cycle", "transport", "on_headers_complete"} <= set(borrowed)
    assert {"parser", "url", "server_state", "root_path"} <= set(borrowed)
    assert not {"turn_away", "send", "heads"} & set(borrowed)


@pytest.mark.parametrize("piece", _borrowed())
def test_uvicorn_has_each_piece_that_the_bounds_on_connections_build_on(protocol, piece):
    assert hasattr(protocol, piece), ADVICE.format(version=version("uvicorn"), piece=piece)


@pytest.mark.parametrize("method", sorted(_inherited_calls() - {"__init__"}))
def test_uvicorn_itself_reacts_where_the_bounds_hook_in(method):
    """A method that only asyncio's base class has would be called by nobody of uvicorn's."""
    found = getattr(HttpToolsProtocol, method)
    assert found.__module__.startswith("uvicorn."), ADVICE.format(
        version=version("uvicorn"), piece=method
    )


def test_a_request_knows_whether_it_was_answered():
    source = inspect.getsource(connections.RequestResponseCycle)
    assert "self.response_complete" in source, ADVICE.format(
        version=version("uvicorn"), piece="response_complete"
    )


def test_no_version_that_was_not_tried_is_installed():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (line,) = (each for each in wanted if each.startswith("uvicorn"))
    assert ",<" in line, "uvicorn needs an upper bound: its insides may change in any version"
