"""What happens to each user during the traffic; a story raises where something else happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from marzban_bridge.demo.stage import Stage, http_client
from marzban_bridge.quota.account import GIB

RESELLER_PASSWORD = "reseller-password"  # noqa: S105 - of a panel that exists for a minute


REFUSED = frozenset({403, 404})
"""How a panel answers a reseller who asks for another's user: PasarGuard shows no such user."""


class StoryError(Exception):
    """The product did something else than the story expects."""


class UnfinishedStoryError(Exception):
    """The demo was over before what a story waits for happened."""


Story = Callable[[Stage], Awaitable[None]]


async def button(stage: Stage) -> None:
    """Alice is limited by the panel, and an admin presses "Reset usage"."""
    await _until(stage, "alice", "limited", lambda user: user["status"] == "limited")
    async with _new_period(stage, "alice", 10 * GIB):
        stage.tell("an admin presses [b]Reset usage[/] for alice")
        stage.panel.reset_user("alice")


async def external_only(stage: Stage) -> None:
    """Bob, whom no data limit can cut off, is disabled by the bridge and active after a reset."""
    await _until(stage, "bob", "disabled", lambda user: user["status"] == "disabled")
    async with _new_period(stage, "bob", 5 * GIB):
        stage.tell("an admin presses [b]Reset usage[/] for bob, who never used the panel's nodes")
        stage.panel.reset_user("bob")


async def larger_quota(stage: Stage) -> None:
    """Carol is limited, and an admin types a larger limit into the edit dialog."""
    await _until(stage, "carol", "limited", lambda user: user["status"] == "limited")
    stage.tell("an admin edits carol: data limit 8 → 60 GiB")
    stage.panel.edit_in_dialog("carol", data_limit=60 * GIB)
    await _until(stage, "carol", "active again", lambda user: user["status"] == "active")


async def next_plan(stage: Stage) -> None:
    """Dave's next plan fires when the quota is used up."""
    await _until(stage, "dave", "near its quota", lambda _: _spent(stage, "dave") > 5.7 * GIB)
    async with _new_period(stage, "dave", 30 * GIB):
        left_bytes = 6 * GIB - _spent(stage, "dave")
        if left_bytes > 0:
            stage.panel.use_traffic("dave", left_bytes)
        await _until(stage, "dave", "on the next plan", lambda _: _quota(stage) == 30 * GIB)
    stage.tell("dave's [b]next plan[/] fired: 30 GiB")


async def reseller(stage: Stage) -> None:
    """Judy's reseller signs in at the bridge and resets her."""
    await _until(stage, "judy", "limited", lambda user: user["status"] == "limited")
    async with _new_period(stage, "judy", 4 * GIB):
        stage.tell("judy's reseller resets her through the [b]bridge's API[/]")
        async with http_client(stage.bridge_url) as client:
            form = {"username": "reseller", "password": RESELLER_PASSWORD}
            token = (await client.post("/api/admin/token", data=form)).json()["access_token"]
            headers = {"authorization": f"Bearer {token}"}
            answer = await client.post("/api/admin/usage/reset/judy", headers=headers)
            if answer.status_code != 200:
                raise StoryError(f"judy's reset was answered {answer.status_code}: {answer.text}")
            foreign = await client.post("/api/admin/usage/reset/alice", headers=headers)
            if foreign.status_code not in REFUSED:
                raise StoryError(f"a reseller may reset another's user: {foreign.status_code}")


STORIES: tuple[Story, ...] = (button, external_only, larger_quota, next_plan, reseller)


@contextlib.asynccontextmanager
async def _new_period(stage: Stage, username: str, quota_bytes: int) -> AsyncIterator[None]:
    """Stop the user's traffic for what the block does, until the user has its whole quota again."""
    await stage.pause(username)
    yield
    await _until_usable(stage, username, quota_bytes)
    stage.begin_period(username)
    stage.paused.discard(username)


def _quota(stage: Stage) -> int | None:
    """Return dave's quota in the bridge: the panel may fire the plan by itself."""
    account = stage.bridges.store.accounts.get("dave")
    return account.quota_bytes if account else None


def _spent(stage: Stage, username: str) -> int:
    used_bytes: int = stage.user(username)["used_traffic"]
    return used_bytes + stage.books[username].period_bytes if username in stage.books else 0


async def _until_usable(stage: Stage, username: str, quota_bytes: int) -> None:
    await _until(
        stage,
        username,
        f"usable with {quota_bytes // GIB} GiB",
        lambda user: user["status"] == "active" and user["data_limit"] == quota_bytes,
    )


async def _until(
    stage: Stage, username: str, what: str, holds: Callable[[dict[str, object]], bool]
) -> None:
    """Wait until the panel shows something; UnfinishedStoryError when the demo ends before."""
    while not holds(stage.user(username)):
        if stage.is_over:
            user = stage.user(username)
            raise UnfinishedStoryError(
                f"{username} did not become {what}: it is {user['status']}, "
                f"data limit {user['data_limit']}"
            )
        await asyncio.sleep(0.05)
