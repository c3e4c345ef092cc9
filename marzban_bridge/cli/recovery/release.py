"""`marzban-bridge rebase` and `release`: through the API of a running bridge, else on the store."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

from marzban_bridge.api.answers import REBASE_PHRASE, RELEASE_PHRASE, RebaseAnswer, ReleaseAnswer
from marzban_bridge.bridge import Bridges
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.output import console, say
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.settings import Settings
from marzban_bridge.quota.balance import Balance, balance_with_raw
from marzban_bridge.tables import UserRow, seen_totals, user_rows_table

LONGEST_SECONDS = 3600.0
"""Timeout of the call: the bridge reads the whole ledger, or writes to every user."""

Alone = Callable[[Callable[[Settings], Coroutine[None, None, int]]], int]
"""Runs the command in this process, where no bridge runs."""


def add_rebase_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `rebase`, of which `--panel` is for `rebase_panel`."""
    command.add_argument(
        "--panel",
        nargs="?",
        const="",
        metavar="NAME",
        help="instead accept this panel as it is, after it was restored, moved or emptied",
    )
    command.add_argument(
        "--yes", action="store_true", help="with --panel: do not ask for a typed confirmation"
    )
    command.add_argument(
        "--restored", action="store_true", help="the store is a restored copy not made by `backup`"
    )


def rebase(settings: Settings, *, is_restored: bool, alone: Alone) -> int:
    """Accept the ledger as it is, and show the accounts whose baseline moved."""
    with RunningBridge.find(settings) as running:
        if running is None:
            return alone(lambda found: _rebase_alone(found, is_restored=is_restored))
        body = {"confirm": REBASE_PHRASE, "restored": is_restored}
        answer = RebaseAnswer.model_validate(
            running.call("POST", "/v1/rebase", json=body, timeout=LONGEST_SECONDS)
        )
    _show_moved(
        [
            UserRow.of_parts(
                username=each.username,
                status=each.status,
                is_held=each.is_held,
                is_disabled_by_us=each.is_disabled_by_bridge,
                balance=Balance(
                    quota_bytes=each.quota_bytes,
                    panel_bytes=each.marzban_bytes,
                    external_bytes=each.external_bytes,
                    external_raw_bytes=each.external_raw_bytes,
                ),
                published_limit_bytes=each.published_limit_bytes,
            )
            for each in answer.users
        ]
    )
    return 0


async def _rebase_alone(settings: Settings, *, is_restored: bool) -> int:
    async def accept(bridges: Bridges) -> list[UserRow]:
        moved = await bridges.rebase(actor="command line", is_restored=is_restored)
        return [
            UserRow.of(
                replace(each, username=bridge.store.placement.public_name(each.username)),
                balance_with_raw(each, seen_totals(each)),
            )
            for bridge, each in moved
        ]

    _show_moved(await with_bridges(settings, accept))
    return 0


def _show_moved(rows: Sequence[UserRow]) -> None:
    title = "Users whose baseline moved; their usage is as before"
    console.print(user_rows_table(rows, title=title))


def release(settings: Settings, *, changes_panel: bool, alone: Alone) -> int:
    """Give every user its quota back, and print the users that were written to."""
    with RunningBridge.find(settings) as running:
        if running is None:
            return alone(lambda found: _release_alone(found, changes_panel=changes_panel))
        answer = ReleaseAnswer.model_validate(
            running.call(
                "POST",
                "/v1/release",
                params={"change_panel": changes_panel},
                json={"confirm": RELEASE_PHRASE},
                timeout=LONGEST_SECONDS,
            )
        )
    for username in answer.usernames:
        _say_released(username)
    _say_all_released(len(answer.usernames))
    say(answer.state)
    return 0


async def _release_alone(settings: Settings, *, changes_panel: bool) -> int:
    async def release_all(bridges: Bridges) -> int:
        written = 0
        async for bridge, account, was_written in bridges.release(changes_panel=changes_panel):
            written += was_written
            if was_written:
                _say_released(bridge.store.placement.public_name(account.username))
        return written

    _say_all_released(await with_bridges(settings, release_all))
    return 0


def _say_released(username: str) -> None:
    say(f"{username}: quota and status restored as the admin set them")


def _say_all_released(written: int) -> None:
    say(f"{written} users were written to; the bridge's limits and note lines are gone")
