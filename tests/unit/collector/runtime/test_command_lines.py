"""What the command lines have in common: JSON, completion, examples, and a version at once."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import collector.__main__
import collector.agent.__main__
import marzban_bridge.__main__
from collector import __version__
from collector.agent import cli as agent_cli
from collector.agent.config.file import DEFAULT_PATH
from collector.cli import main as collector_cli
from collector.runtime.cli import INTERRUPTED, completion_of, print_json
from marzban_bridge.cli import main as bridge_cli

PARSERS = {
    "traffic-collector": collector_cli._parser,
    "marzban-bridge": lambda: bridge_cli._parser([]),
    "traffic-agent": agent_cli._parser,
}


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser, with theirs."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found[name] = command
                found |= {f"{name} {each}": sub for each, sub in commands_of(command).items()}
    return found


@pytest.mark.parametrize(
    ("program", "module"),
    [
        (collector.__main__, "collector.cli.main"),
        (collector.agent.__main__, "collector.agent.cli"),
        (marzban_bridge.__main__, "marzban_bridge.cli.main"),
    ],
)
def test_the_version_needs_no_command_s_module(program, module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--version"])
    monkeypatch.setitem(sys.modules, module, None)  # importing it would fail
    assert program.main() == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "program", [collector.__main__, collector.agent.__main__, marzban_bridge.__main__]
)
def test_an_interrupt_while_modules_are_imported_is_no_traceback(program, monkeypatch):
    def interrupted(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["x", "serve"])
    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert program.main() == INTERRUPTED


def test_what_shows_something_shows_it_as_json_too():
    showing = {
        "traffic-collector": {
            *("check", "export status", "corrections", "ratios list", "reporters list"),
        },
        "marzban-bridge": {
            *("plan", "users", "events", "panels", "resellers"),
            *(f"resellers {action}" for action in ("show", "set", "unset", "reset")),
        },
        "traffic-agent": {"status", "dead-letters"},
    }
    for program, expected in showing.items():
        commands = commands_of(PARSERS[program]())
        having = {
            name
            for name, command in commands.items()
            if "--json" in command._option_string_actions and name != "doctor"
        }
        assert having == expected, program


@pytest.mark.parametrize("command", ["run", "check", "status", "dead-letters"])
def test_the_agent_s_file_is_named_before_or_after_the_command(command):
    parse = agent_cli._parser().parse_args
    assert parse([command]).config == DEFAULT_PATH
    assert parse(["--config", "a.toml", command]).config == Path("a.toml")
    assert parse([command, "--config", "a.toml"]).config == Path("a.toml")


@pytest.mark.parametrize("program", PARSERS)
def test_the_help_has_examples_whose_commands_there_are(program):
    parser = PARSERS[program]()
    lines = [each.split() for each in parser.format_help().splitlines() if f"  {program} " in each]
    assert len(lines) >= 4
    for line in lines:
        assert line[1] in commands_of(parser), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
@pytest.mark.parametrize("program", PARSERS)
def test_a_shell_completes_every_command(program, shell, capsys):
    parser = PARSERS[program]()
    assert completion_of(parser.parse_args(["completion", shell])) == 0
    printed = capsys.readouterr().out
    missing = [name for name in commands_of(parser) if name.split()[-1] not in printed]
    assert missing == []


def test_json_is_exact_and_any_name_survives(capsys):
    at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    print_json([{"username": "ж'\ud800\n", "bytes": 2**62 + 1, "at": at, "none": None}])
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["bytes"] == 2**62 + 1
    assert printed["at"] == "2026-11-28T12:00:00+00:00"
    assert printed["none"] is None
    assert printed["username"].startswith("ж'")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["events", "--limit", "x"], "expected a number from 1 to 1000000, not 'x'"),
        (["events", "--limit", "0"], "expected a number from 1 to 1000000"),
        (["cleanup", "--days", "9" * 5000], "expected a number of days from 1 to 36500"),
    ],
)
def test_a_wrong_number_is_told_in_words(command, words, capsys):
    with pytest.raises(SystemExit):
        bridge_cli._parser(command).parse_args(command)
    assert words in capsys.readouterr().err
