"""Updates an account from an older backup by the panel's newer state.

If the account explains the panel's limit, it is kept to the byte. If not, there was a reset or
another quota since. Then only the user's remaining bytes are certain: the panel's limit minus what
the panel counted; they stay the same. The quota is the backup's, if the panel's limit can be a
remainder of it, and the external usage of the period follows from the published limit. Only if the
ledger was restored too, the bytes that it lost are not charged.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.users import PanelUser, Status, is_same_creation
from marzban_bridge.quota.account import (
    FLOOR_BYTES,
    REMEMBERED_LIMITS,
    ROUNDING_BYTES,
    Account,
    Enforcement,
    Event,
    snapshot_of,
)
from marzban_bridge.quota.adoption import adopt
from marzban_bridge.quota.balance import desired
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE
from marzban_bridge.quota.resets.detection import period_start
from marzban_bridge.quota.usage import Totals


def recover(
    account: Account | None,
    user: PanelUser,
    *,
    totals: Totals,
    is_ledger_newer: bool,
    enforcement: Enforcement,
    now: datetime,
    actor: str,
) -> tuple[Account, Event]:
    """Return the account updated from the panel and the ledger, and the event.

    `is_ledger_newer`: the ledger was not restored along with the store.
    """
    total_bytes = totals.billed_bytes
    if account is None or not is_same_creation(account.created_at, user.created_at):
        text = "not in the restored store: what the panel shows as limit is taken as the quota"
        opened = adopt(user, baseline=totals, totals=totals, now=now)
        return opened, _event(None, opened, text, actor)
    seen = snapshot_of(user, seen_at=now)
    was_reset = (
        seen.used_bytes < account.sighting.used_bytes
        or seen.logged_bytes != account.sighting.logged_bytes
    )
    # The account is compared with the ledger as it is now, whatever was seen of it before.
    shown = replace(account, sighting=seen, is_held=False, seen_total_bytes=0)
    limit_bytes, quota_bytes = user.data_limit_bytes, account.quota_bytes
    external_bytes = before_bytes = total_bytes - account.baseline_bytes
    if not was_reset and _explains(shown, total_bytes=total_bytes, enforcement=enforcement):
        text = "the restored account fits the panel and is kept"
    elif limit_bytes is None or quota_bytes is None or limit_bytes > quota_bytes + ROUNDING_BYTES:
        text = "there is another quota or a reset since the backup: the panel's limit is the quota"
        quota_bytes, external_bytes = limit_bytes, 0
    elif not is_ledger_newer:
        text = "the ledger is of the backup's moment too: what was reported since is forgotten"
        external_bytes = 0 if was_reset else external_bytes
    else:
        text = (
            "there was a reset or another quota since the backup: the quota is the backup's, "
            "what is left of it the panel's"
        )
        is_used_up = limit_bytes <= FLOOR_BYTES
        external_bytes = quota_bytes if is_used_up else quota_bytes - limit_bytes
    is_ours = user.status is Status.DISABLED and (
        account.is_disabled_by_us
        or (account.sighting.status is not Status.DISABLED and limit_bytes == FLOOR_BYTES)
    )
    remembered = account.remembered_limits
    if limit_bytes is not None and limit_bytes != quota_bytes:
        remembered = (*remembered, limit_bytes)[-REMEMBERED_LIMITS:]
    started_at = period_start(created_at=user.created_at, strategy=user.reset_strategy, now=now)
    baseline_bytes = total_bytes - external_bytes
    recovered = replace(
        account,
        username=user.username,
        created_at=user.created_at,
        admin=user.admin,
        quota_bytes=quota_bytes,
        baseline_bytes=baseline_bytes,
        admin_baseline_bytes=min(account.admin_baseline_bytes, total_bytes),
        seen_total_bytes=total_bytes,
        raw_baseline_bytes=_raw_baseline(account, totals, external_bytes, before_bytes),
        seen_raw_bytes=totals.raw_bytes,
        period_seqs=totals.seqs,
        admin_seqs=totals.seqs,
        seen_seqs=totals.seqs,
        corrected_seqs=totals.seqs or (),
        period_started_at=max(account.period_started_at, started_at),
        sighting=seen,
        published_bytes=None if limit_bytes == quota_bytes else limit_bytes,
        intended_bytes=None,
        intended_status=None,
        remembered_limits=remembered,
        is_disabled_by_us=is_ours,
        is_held=False,
        needs_readd=False,
        used_when_due_bytes=None,
        reset_all_seen_at=now,
        resets_known_until=now,
        recent_totals=(),
        dropped_plan=None,
        dropped_plan_at=None,
        restoration=None,
        reset_request=None,
        fire_attempts=0,
        spent_before_bytes=account.spent_before_bytes
        + (account.sighting.used_bytes if was_reset else 0),
        superseded=None,
    )
    return recovered, _event(account, recovered, text, actor)


def _raw_baseline(account: Account, totals: Totals, external_bytes: int, before_bytes: int) -> int:
    """Keep the period's raw bytes where its billed bytes are kept.

    Where those are worked out from the panel, the raw ones are known no better.
    """
    if external_bytes == before_bytes:
        return account.raw_baseline_bytes
    return totals.raw_bytes - external_bytes


def _explains(account: Account, *, total_bytes: int, enforcement: Enforcement) -> bool:
    """Tell whether the panel's limit is what the account says, or was a publishing step ago."""
    wanted = desired(account, total_bytes=total_bytes, enforcement=enforcement)
    shown_bytes, exact_bytes = account.sighting.data_limit_bytes, wanted.data_limit_bytes
    if shown_bytes is None or exact_bytes is None:
        return shown_bytes is exact_bytes
    left_bytes = exact_bytes - account.sighting.used_bytes
    step_bytes = max(PUBLISH_STEP_BYTES, int(left_bytes * PUBLISH_STEP_SHARE))
    return -ROUNDING_BYTES <= shown_bytes - exact_bytes <= step_bytes + ROUNDING_BYTES


def _event(before: Account | None, after: Account, text: str, actor: str) -> Event:
    return Event(
        kind="rebased",
        text=f"after an older store was restored: {text}; see that the quota is the one you mean",
        actor=actor,
        before=None if before is None else _shown(before),
        after=_shown(after),
    )


def _shown(account: Account) -> str:
    quota = "unlimited" if account.quota_bytes is None else str(account.quota_bytes)
    return f"quota {quota}, baseline {account.baseline_bytes}"
