"""Compares all sums: reported = in the ledger = counted by the bridge = enforced by the panel."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from marzban_bridge.demo.cast import UNKNOWN_NAME
from marzban_bridge.demo.stage import Stage, UserSums
from marzban_bridge.errors import BridgeError
from marzban_bridge.quota.balance import Balance, balance
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE, plan

UNTOUCHED = frozenset({"on_hold", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One user's line of the final table; `problems` is empty where all sums agree."""

    username: str
    status: str
    balance: Balance | None
    reported_bytes: int
    ledger_bytes: int
    data_limit_bytes: int | None
    problems: tuple[str, ...]


async def check(stage: Stage, client: httpx.AsyncClient) -> list[Line]:
    """Compare the demo's own sums with ledger, bridge and panel, user by user."""
    return [
        await _check_user(stage, client, username, line)
        for username, line in sorted(stage.books.items())
    ]


async def _check_user(
    stage: Stage, client: httpx.AsyncClient, username: str, line: UserSums
) -> Line:
    usage = (await client.get(f"/v1/usage/{username}")).json()
    ledger_bytes = usage["upload_bytes"] + usage["download_bytes"]
    problems: list[str] = []
    if ledger_bytes != line.acknowledged_bytes:
        problems.append(f"acknowledged {line.acknowledged_bytes}, in the ledger {ledger_bytes}")
    total_bytes = stage.bridges.store.usage.total_bytes(username)
    if total_bytes != ledger_bytes:
        problems.append(f"the bridge counts {total_bytes}")
    if username == UNKNOWN_NAME:
        if not stage.bridges.store.placement.is_missing(username):
            problems.append("is not listed as an unknown name")
        return Line(
            username=username,
            status="unknown name",
            balance=None,
            reported_bytes=line.acknowledged_bytes,
            ledger_bytes=ledger_bytes,
            data_limit_bytes=None,
            problems=tuple(problems),
        )
    account = stage.bridges.store.accounts.get(username)
    if account is None:
        raise BridgeError(f"the bridge has no account of {username}")
    found = balance(account, total_bytes=total_bytes)
    user = stage.user(username)
    if found.external_bytes != line.period_bytes:
        problems.append(f"of the period: {line.period_bytes}, counted {found.external_bytes}")
    if plan(
        account,
        total_bytes=total_bytes,
        enforcement=stage.bridges.settings.enforcement,
        now=stage.bridges.clock(),
        dialect=stage.bridges.first.panel.dialect,
    ):
        problems.append("the bridge still has something to do")
    problems += _check_enforced(found, user)
    return Line(
        username=username,
        status=user["status"],
        balance=found,
        reported_bytes=line.acknowledged_bytes,
        ledger_bytes=ledger_bytes,
        data_limit_bytes=user["data_limit"],
        problems=tuple(problems),
    )


def _check_enforced(found: Balance, user: dict[str, object]) -> list[str]:
    """Check that the panel cuts off exactly the users whose quota is used up."""
    if found.quota_bytes is None:
        return [] if user["data_limit"] is None else ["an unlimited user was given a limit"]
    if user["status"] in UNTOUCHED:
        return [] if user["data_limit"] == found.quota_bytes else ["its limit was touched"]
    is_cut_off = user["status"] in {"limited", "disabled"}
    if is_cut_off != found.is_exhausted:
        return [f"is {user['status']} with {found.left_bytes} bytes left"]
    shown_bytes = user["data_limit"]
    left_bytes = found.left_bytes or 0
    if is_cut_off or not isinstance(shown_bytes, int):
        return []
    lag_bytes = shown_bytes - (found.quota_bytes - found.external_bytes)
    if lag_bytes > max(PUBLISH_STEP_BYTES, left_bytes * PUBLISH_STEP_SHARE) + 2**14:
        return [f"the panel's limit lags by {lag_bytes} bytes"]
    return []
