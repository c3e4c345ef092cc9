"""Recovers a lost account from the line in the user's note.

The line was written together with a limit, and has the quota, baseline and status of that time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.users import PanelUser, Status
from marzban_bridge.quota.account import Account, Event, is_same_limit
from marzban_bridge.quota.adoption import adopt
from marzban_bridge.quota.usage import Totals
from marzban_bridge.quota.writes.note_line import NoteLine


def recovered_from(
    line: NoteLine,
    user: PanelUser,
    *,
    totals: Totals,
    now: datetime,
    actor: str,
    accepts_ledger: bool = False,
) -> tuple[Account, Event]:
    """Return the account as the line has it, at the ledger's totals, and the event to say so.

    Where another limit stands beside the line, an admin has set it since: it is the quota. Where
    the ledger's total is below the line's, the ledger has lost something: the user is held at the
    line's total until `rebase`, or goes on with the line's external usage if `accepts_ledger`.
    """
    is_whole = totals.billed_bytes >= line.total_bytes
    external_bytes = max(totals.billed_bytes, line.total_bytes) - line.baseline_bytes
    seen_bytes = max(totals.billed_bytes, line.total_bytes)
    if not is_whole and accepts_ledger:
        external_bytes, seen_bytes = line.external_bytes, totals.billed_bytes
    # Which reports of before are of the period the line does not say: what corrections take back of
    # them later is not given back.
    baseline = Totals(
        billed_bytes=seen_bytes - external_bytes,
        raw_bytes=totals.raw_bytes - external_bytes,
        seqs=totals.seqs,
    )
    is_limit_ours = is_same_limit(line.limit_bytes, user.data_limit_bytes)
    quota_bytes = line.quota_bytes if is_limit_ours else user.data_limit_bytes
    is_published = is_limit_ours and user.data_limit_bytes != quota_bytes
    opened = adopt(user, baseline=baseline, totals=totals, now=now)
    account = replace(
        opened,
        quota_bytes=quota_bytes,
        is_held=not is_whole and not accepts_ledger,
        seen_total_bytes=seen_bytes,
        published_bytes=user.data_limit_bytes if is_published else None,
        is_disabled_by_us=line.is_disabled and user.status is Status.DISABLED,
        write_number=line.number,
    )
    text = f"the account is restored from the line in the user's note, of write {line.number}"
    if not is_limit_ours:
        text += "; the limit beside it is another one: it is the quota"
    if account.is_held:
        text += "; the ledger has less than the line knows of: held until `marzban-bridge rebase`"
    after = f"quota {quota_bytes}, baseline {baseline.billed_bytes}"
    return account, Event(kind="rebuilt", text=text, actor=actor, after=after)
