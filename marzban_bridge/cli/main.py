"""`marzban-bridge`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from collector.known_names import NAMES
from collector.runtime.cli import (
    add_completion,
    add_json,
    commands_of,
    completion_of,
    program,
    run_command,
)
from collector.runtime.config.dotenv_file import read_environment
from collector.runtime.sqlite.file import fault
from marzban_bridge import __version__
from marzban_bridge.app import create_app
from marzban_bridge.cli import commands, contact_points, doctor, serve
from marzban_bridge.cli import panels as panels_command
from marzban_bridge.cli import reset as reset_commands
from marzban_bridge.cli.kept_key import is_of_up, with_kept_key
from marzban_bridge.cli.recovery import rebase_panel as panel_commands
from marzban_bridge.cli.recovery import rebuild as rebuild_command
from marzban_bridge.cli.recovery import release as release_commands
from marzban_bridge.cli.resellers import command as resellers_command
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import BridgeError
from marzban_bridge.reconcile.action_names import CLEANUP_PHRASE, RESET_ALL_PHRASE
from marzban_bridge.reconcile.trust.panel_rebase import REBASE_PANEL_PHRASE
from marzban_bridge.store.sqlite import STORE

STAND_INS = (
    ("demo", "marzban_bridge.demo.run", "the whole product against a simulated panel, checked"),
    ("simulator", "marzban_bridge.simulator.run", "serve a simulated panel to try things on"),
    (
        "synthetic",
        "marzban_bridge.demo.synthetic",
        "report made-up traffic for the simulator's crowd",
    ),
)
"""Commands whose module has `add_arguments` and `run`; it is imported when the command is given.

So a running bridge does not load the simulated panel.
"""


Run = Callable[[argparse.Namespace], int]
Add = Callable[[str, str, Run], argparse.ArgumentParser]
"""Adds a command of a name, with its help, which calls a function; returns its parser."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is printed as one line."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(given).parse_args(given)
    if (code := completion_of(arguments)) is not None:
        return code
    run: Run = arguments.run
    return run_command(lambda: run(arguments), errors=(BridgeError,), explain=_explain)


def _explain(error: sqlite3.Error) -> str:
    """Return the message for a SQLite error that a command got from the store."""
    store = Settings.from_env(read_environment(NAMES)).store
    if isinstance(store, Path):
        return str(fault(STORE, store, error))
    return f"the copy of the store in memory failed: {error}"


def _settings() -> Settings:
    return with_kept_key(Settings.from_env(read_environment(NAMES)))


def _alone(act: Callable[[Settings], Coroutine[None, None, int]]) -> int:
    """Run a command that needs the bridge stopped; in an `up` set-up, with its collector."""
    found = read_environment(NAMES)
    settings = Settings.from_env(found)
    if not is_of_up(settings):
        return asyncio.run(act(settings))
    from marzban_bridge.cli import standalone  # noqa: PLC0415 - a bridge alone needs no collector

    return standalone.beside_collector(found, act)


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = program(
        "marzban-bridge",
        description="Makes the data limit of a Marzban or PasarGuard user cover all traffic, the "
        "panel's own and external.",
        version=__version__,
        examples=(
            "doctor                 what is wrong, and what to do",
            "plan                   what would be changed in the panel",
            "users alice            quota and usage of one user",
            "users --json           of all users, for scripts",
            "events alice --limit 5 the five newest events of alice",
            "reset alice            start a new period",
            "resellers set shop --quota 5TiB --reset month",
        ),
    )
    subcommands = commands_of(parser)

    def add(name: str, help_text: str, run: Run) -> argparse.ArgumentParser:
        command = subcommands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(run=run)
        return command

    _add_running(add)
    _add_showing(add)
    _add_changing(add)
    _add_recovering(add)
    contact_points.add_arguments(
        add(
            "contact-points",
            "write Grafana's files of alert rules and contact points (ALERTS_…)",
            lambda it: contact_points.write(
                read_environment(NAMES), rules=it.rules, folder=it.to, smtp=it.smtp
            ),
        )
    )
    for name, module, help_text in STAND_INS:
        command = add(name, help_text, _stand_in(module))
        if name in given:
            importlib.import_module(module).add_arguments(command)
    add_completion(subcommands, parser)
    return parser


def _add_running(add: Add) -> None:
    """Add the commands that run collector and bridge, or one pass."""
    up = add("up", "collector and bridge in one process", _up)
    up.add_argument(
        "--check", action="store_true", help="say what is wrong with the settings; start nothing"
    )
    add("run", "serve and reconcile until stopped", _run)
    add("once", "one pass over all users, then stop", lambda _: _alone(commands.once))


def _add_showing(add: Add) -> None:
    """Add the commands that change nothing."""
    examination = add(
        "doctor",
        "check panels, collector, bridge, InfluxDB and Grafana, and print what to do; changes "
        "nothing, and exits with 1 if something is wrong",
        _doctor,
    )
    doctor.add_arguments(examination)
    add_json(add("plan", "show what a pass would change; change nothing", _plan))
    users = add(
        "users",
        "quota and usage of every user with external traffic, or of one",
        lambda it: commands.users(_settings(), it.user, as_json=it.json),
    )
    users.add_argument("user", nargs="?", metavar="NAME", help="only this user")
    add_json(users)
    events = add(
        "events",
        "list events: limits, releases, resets and changed quotas, by whom and when",
        lambda it: commands.events(_settings(), it.user, it.limit, as_json=it.json),
    )
    add_json(events)
    events.add_argument("user", nargs="?", help="only events of this user")
    events.add_argument(
        "--limit", type=_count, default=50, help="how many of the newest (default: 50)"
    )


def _add_changing(add: Add) -> None:
    """Add the commands that an admin changes users, quotas and panels by."""
    reset = add("reset", "start a new period for a user, in the panel and in the bridge", _reset)
    whom = reset.add_mutually_exclusive_group(required=True)
    whom.add_argument("user", nargs="?")
    whom.add_argument("--all", action="store_true", help="all users, through the panel")
    reset.add_argument("--yes", action="store_true", help="do not ask for a typed confirmation")
    _add_change(reset)
    resellers_command.add_arguments(
        add(
            "resellers",
            "quotas of admins for all of their users together; off until one is set",
            lambda it: resellers_command.run(_settings(), it),
        )
    )
    panels_command.add_arguments(
        add("panels", "list the panels; print the secrets of their webhooks", _panels)
    )
    cleanup = add("cleanup", "delete the collector's old rows; totals and quotas stay", _cleanup)
    cleanup.add_argument(
        "--days", type=_days, required=True, metavar="N", help="delete rows older than N days"
    )
    cleanup.add_argument("--yes", action="store_true", help="do not ask for a typed confirmation")
    release = add(
        "release",
        "give every user the admin's quota back, before an uninstall; a running bridge then "
        "changes nothing until it is restarted",
        lambda it: release_commands.release(
            _settings(), changes_panel=it.change_the_panel, alone=_alone
        ),
    )
    _add_change(release)


def _add_recovering(add: Add) -> None:
    """Add the commands that copy, move and accept a store, ledger or panel."""
    backup = add(
        "backup",
        "copy the store while it is in use, and verify the copy",
        lambda it: commands.backup(_settings(), it.file),
    )
    backup.add_argument("file", type=Path, metavar="FILE", help="the copy; must not exist yet")
    release_commands.add_rebase_arguments(
        add(
            "rebase",
            "accept ledger and store as they are now, after a restore; the bridge may be running",
            _rebase,
        )
    )
    rebuild_command.add_arguments(
        add(
            "rebuild",
            "rebuild a lost store from the lines in users' notes; stop the bridge first",
            lambda it: asyncio.run(
                rebuild_command.rebuild(_settings(), from_store=it.store, is_carried_out=it.yes)
            ),
        )
    )
    move = add(
        "move-store",
        "move a store from its file into PostgreSQL (BRIDGE_STORE); stop all bridges first",
        lambda it: asyncio.run(commands.move_store(_settings(), it.file)),
    )
    move.add_argument("file", type=Path, metavar="FILE", help="the file to move")


def _add_change(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--change-the-panel",
        action="store_true",
        help="change the panel even with BRIDGE_ENFORCEMENT=observe",
    )


def _run(_: argparse.Namespace) -> int:
    settings = _settings()
    panels_command.demand_different(settings)
    return serve.run(settings, create_app)


def _plan(arguments: argparse.Namespace) -> int:
    return commands.plan(_settings(), as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    return doctor.examine_all(read_environment(NAMES), arguments)


def _up(arguments: argparse.Namespace) -> int:
    from marzban_bridge.cli import standalone  # noqa: PLC0415 - a bridge alone needs no collector

    found = read_environment(NAMES)
    panels_command.demand_different(Settings.from_env(found))
    if arguments.check:
        standalone.read_settings(found)
        print("The settings are right.")
        return 0
    return standalone.up(found, create_app)


def _stand_in(module: str) -> Run:
    def run(arguments: argparse.Namespace) -> int:
        code: int = importlib.import_module(module).run(arguments)
        return code

    return run


def _reset(arguments: argparse.Namespace) -> int:
    if not arguments.all:
        return reset_commands.reset_user(
            _settings(), arguments.user, changes_panel=arguments.change_the_panel
        )
    if not arguments.yes:
        print("This resets the traffic of all users; the panel restarts xray on every node.")
        if not _is_confirmed(RESET_ALL_PHRASE):
            return 1
    return reset_commands.reset_all(_settings(), changes_panel=arguments.change_the_panel)


def _rebase(arguments: argparse.Namespace) -> int:
    if arguments.panel is None:
        return release_commands.rebase(_settings(), is_restored=arguments.restored, alone=_alone)
    return panel_commands.rebase_panel(
        _settings(),
        arguments.panel or None,
        confirmed=lambda: arguments.yes or _is_confirmed(REBASE_PANEL_PHRASE),
    )


def _panels(arguments: argparse.Namespace) -> int:
    if arguments.asked is None:
        return panels_command.show(_settings(), as_json=arguments.json)
    if arguments.asked == "webhook":
        return panels_command.show_webhook(_settings(), arguments.panel)
    if arguments.asked == "apart":
        return asyncio.run(panels_command.tell_apart(_settings(), *arguments.panels))
    if not arguments.yes:
        print(f"This drops the accounts of panel {arguments.panel}, quotas and usage included.")
        if not _is_confirmed(panels_command.FORGET_PHRASE):
            return 1
    return asyncio.run(panels_command.forget(_settings(), arguments.panel))


def _cleanup(arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        print(f"This removes the collector's reports and daily rows of over {arguments.days} days.")
        if not _is_confirmed(CLEANUP_PHRASE):
            return 1
    return commands.cleanup(_settings(), arguments.days)


def _is_confirmed(phrase: str) -> bool:
    is_confirmed = _typed(f"Type '{phrase}' to go on: ") == phrase
    if not is_confirmed:
        print("Nothing was changed.")
    return is_confirmed


def _typed(prompt: str) -> str:
    """Return the line that is typed; an empty one without a terminal."""
    try:
        return input(prompt)
    except EOFError:
        return ""


def _count(raw: str) -> int:
    return _whole(raw, 1_000_000, "a number")


def _days(raw: str) -> int:
    return _whole(raw, 36500, "a number of days")


def _whole(raw: str, most: int, what: str) -> int:
    is_digits = raw.isascii() and raw.isdecimal() and len(raw) <= 9
    if not is_digits or not 1 <= int(raw) <= most:
        raise argparse.ArgumentTypeError(f"expected {what} from 1 to {most}, not {raw[:40]!r}")
    return int(raw)


if __name__ == "__main__":
    sys.exit(main())
