"""`marzban-bridge resellers`: through the API of a running bridge, else on the store."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from collector.runtime.cli import add_json, print_json
from marzban_bridge.api.resellers import ResellerEntry, shown_reseller
from marzban_bridge.bridge import Bridges
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.output import console, say
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import UnknownResellerError
from marzban_bridge.panels.names import FIRST_PANEL, take_apart
from marzban_bridge.quota.resellers.reseller import (
    MAX_QUOTA_BYTES,
    Reseller,
    ResellerChange,
    ResellerReset,
)
from marzban_bridge.reconcile.reseller_actions import ResellerActions
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.open import open_to_read
from marzban_bridge.tables import resellers_table

ACTOR = "command line"
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([KMGTP]iB|B)?", re.ASCII)
_UNITS = {unit: 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}


def amount(raw: str) -> int:
    """Read an amount such as `5TiB`, `1.5 TiB` or a number of bytes; argparse's error otherwise."""
    found = _AMOUNT.fullmatch(raw.strip())
    amount_bytes = int(float(found[1]) * _UNITS[found[2] or "B"]) if found else -1
    if not 0 <= amount_bytes <= MAX_QUOTA_BYTES:
        raise argparse.ArgumentTypeError(
            f"expected an amount of at most 1024 PiB such as 5TiB, 500GiB or a number of bytes, "
            f"not {raw[:40]!r}"
        )
    return amount_bytes


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the subcommands; without one, the resellers are listed."""
    add_json(command)
    asked = command.add_subparsers(dest="asked", metavar="WHAT")
    show = asked.add_parser("show", help="quota and usage of one reseller")
    setting = asked.add_parser("set", help="set a reseller's quota, or change the values given")
    setting.add_argument(
        "--quota", type=amount, metavar="AMOUNT", help="such as 5TiB; needed the first time"
    )
    setting.add_argument(
        "--reset",
        choices=[each.value for each in ResellerReset],
        help="when a new period begins by itself, at midnight UTC (default: never)",
    )
    setting.add_argument(
        "--used", type=amount, metavar="AMOUNT", help="set what is used in the current period"
    )
    setting.add_argument(
        "--enforce",
        action=argparse.BooleanOptionalAction,
        help="cut the reseller's users off while the quota is used up (default: no)",
    )
    unset = asked.add_parser("unset", help="remove a reseller's quota; enable its users again")
    reset = asked.add_parser(
        "reset", help="begin a new period of the quota; the users' own quotas stay"
    )
    for each in (show, setting, unset, reset):
        each.add_argument("name", metavar="NAME", help="an admin of the panel; or PANEL/NAME")
        each.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,  # keeps the value of one before the subcommand
            help="print it as JSON, for scripts",
        )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Carry out what was asked and print the result. Raises UnknownResellerError for a name."""
    if arguments.asked is None:
        _print(_stored(settings), as_json=arguments.json)
        return 0
    if arguments.asked == "show":
        panel, name = _place(settings, arguments.name)
        found = [
            (of_panel, each)
            for of_panel, each in _stored(settings)
            if (of_panel, each.admin) == (panel, name)
        ]
        if not found:
            raise UnknownResellerError(
                f"reseller {name!r} has no quota; `marzban-bridge resellers` lists those that have"
            )
        _print(found, as_json=arguments.json)
        return 0
    entry = _CHANGES[arguments.asked](settings, arguments)
    if arguments.json:
        print_json(entry.model_dump())
    else:
        say(_sentence(arguments.asked, entry))
    return 0


def _set(settings: Settings, arguments: argparse.Namespace) -> ResellerEntry:
    change = ResellerChange(
        quota_bytes=arguments.quota,
        reset=ResellerReset(arguments.reset) if arguments.reset else None,
        is_enforced=arguments.enforce,
        used_bytes=arguments.used,
    )

    async def act(actions: ResellerActions, name: str) -> Reseller:
        return await actions.set(name, change, actor=ACTOR)

    return _change(settings, arguments.name, "PUT", "", act, json=asdict(change))


def _unset(settings: Settings, arguments: argparse.Namespace) -> ResellerEntry:
    async def act(actions: ResellerActions, name: str) -> Reseller:
        reseller = actions.find(name)
        actions.unset(name, actor=ACTOR)
        return reseller

    return _change(settings, arguments.name, "DELETE", "", act)


def _reset(settings: Settings, arguments: argparse.Namespace) -> ResellerEntry:
    async def act(actions: ResellerActions, name: str) -> Reseller:
        return actions.reset(name, actor=ACTOR)

    return _change(settings, arguments.name, "POST", "/reset", act)


_CHANGES: Mapping[str, Callable[[Settings, argparse.Namespace], ResellerEntry]] = {
    "set": _set,
    "unset": _unset,
    "reset": _reset,
}


def _change(
    settings: Settings,
    public_name: str,
    method: str,
    path: str,
    act: Callable[[ResellerActions, str], Awaitable[Reseller]],
    **arguments: Any,
) -> ResellerEntry:
    """Make a change through the running bridge, or on the store if none runs."""
    panel, name = _place(settings, public_name)
    panels = {each.name: each for each in load_panels(settings)}

    async def change(bridges: Bridges) -> ResellerEntry:
        reseller = await act(bridges.by_name[panel].resellers, name)
        return shown_reseller(reseller, panel=panel)

    with RunningBridge.find(settings, panels[panel]) as running:
        if running is None:
            return asyncio.run(with_bridges(settings, change))
        answer = running.call(method, f"/v1/resellers/{quote(name, safe='')}{path}", **arguments)
        return ResellerEntry(**answer)


def _place(settings: Settings, public_name: str) -> tuple[str, str]:
    """Split a reseller's public name into its panel and its name there."""
    name = take_apart(public_name, panels=[each.name for each in load_panels(settings)])
    if name.panel is None:
        return FIRST_PANEL, public_name
    return name.panel, public_name.removeprefix(f"{name.panel}/")


def _stored(settings: Settings) -> list[tuple[str, Reseller]]:
    """Return the resellers of all panels, each with its panel's name."""
    store = open_to_read(settings)
    try:
        return [(panel, each) for panel in store.panels for each in store.of(panel).resellers.all()]
    finally:
        store.close()


def _print(found: Sequence[tuple[str, Reseller]], *, as_json: bool) -> None:
    if as_json:
        print_json([shown_reseller(each, panel=panel).model_dump() for panel, each in found])
    elif found:
        console.print(resellers_table(found))
    else:
        say("No reseller has a quota: marzban-bridge resellers set NAME --quota 5TiB")


def _sentence(asked: str, entry: ResellerEntry) -> str:
    if asked == "unset":
        return f"reseller {entry.reseller} has no quota any more; its users are enabled again"
    effect = "its users are cut off while it is used up" if entry.is_enforced else "not enforced"
    return (
        f"reseller {entry.reseller}: {human_bytes(entry.used_bytes)} of "
        f"{human_bytes(entry.quota_bytes)} used since {entry.period_started_at[:16]}, "
        f"reset {entry.reset}, {effect}"
    )
