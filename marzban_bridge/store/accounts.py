"""The part of the store that holds one panel's accounts, and what is known of names without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL, folded
from marzban_bridge.quota.account import Account, Event, shifted
from marzban_bridge.quota.reset_detection import ResetAll
from marzban_bridge.quota.shared import SharedQuota, depart, renewed
from marzban_bridge.quota.usage import Orphan, Totals, merged
from marzban_bridge.store.events import AuditTrail
from marzban_bridge.store.names.openings import OpeningBooks
from marzban_bridge.store.sqlite import from_millis, to_millis
from marzban_bridge.store.usage_sums import sum_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingResets:
    """Resets that were asked for and are not finished."""

    count: int
    oldest_requested_at: datetime | None


class AccountBooks(AuditTrail, OpeningBooks):
    """The accounts of one panel's users, and the names it is known not to have."""

    def keys(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Return a page, in order, of the names that concern the panel.

        Those are the names with external usage or an account, and those that are offered to it.
        Where quotas are shared, every name concerns every panel, and so do those of users on
        several panels that nothing was reported of.
        """
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?3"
        query = (
            f"SELECT account_key FROM external_usage WHERE account_key > ?1{of_panel} "
            f"UNION SELECT account_key FROM account WHERE account_key > ?1{of_panel} "
            "UNION SELECT account_key FROM gone_account WHERE account_key > ?1 AND panel = ?3 "
        )
        if self._handle.shares_quotas:
            query += "UNION SELECT account_key FROM namesake WHERE account_key > ?1 "
        elif self.panel != FIRST_PANEL:
            query += f"UNION {self._offers()} AND o.account_key > ?1 "
        arguments = (after, limit, self.panel)
        rows = self._db.execute(f"{query}ORDER BY account_key LIMIT ?2", arguments)
        return [row[0] for row in rows]

    def keys_of_owner(self, admin: str | None) -> list[str]:
        """Return the account keys of one owner's users; None owns those without an owner."""
        rows = self._db.execute(
            "SELECT account_key FROM account WHERE panel = ? AND admin IS ?", (self.panel, admin)
        )
        return [row[0] for row in rows]

    def account(self, key: str) -> Account | None:
        """Return an account, None when the name has none."""
        query = "SELECT state FROM account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self.panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Account)

    def accounts(self, *, admin: str | None = None) -> Iterator[Account]:
        """Yield all accounts, or those of one owner, by name."""
        query = (
            "SELECT state FROM account WHERE panel = ?1 AND (?2 IS NULL OR admin = ?2) "
            "ORDER BY account_key"
        )
        for row in self._db.execute(query, (self.panel, admin)).fetchall():
            yield msgspec.json.decode(row[0], type=Account)

    def account_page(self, *, admin: str | None, after: str, limit: int) -> list[Account]:
        """Return a page of accounts by name, of one owner or of all."""
        query = (
            "SELECT state FROM account WHERE account_key > ?1 AND panel = ?4 "
            "AND (?2 IS NULL OR admin = ?2) ORDER BY account_key LIMIT ?3"
        )
        rows = self._db.execute(query, (after, admin, limit, self.panel))
        return [msgspec.json.decode(row[0], type=Account) for row in rows]

    def save(
        self,
        account: Account,
        events: Iterable[Event] = (),
        *,
        at: datetime,
        shared: SharedQuota | None = None,
        takes_announcement: bool = False,
    ) -> None:
        """Store an account together with what happened to it, and the quota it shares.

        With that it is no orphan. `takes_announcement`: it has taken into account a reset webhook
        that waited for it.
        """
        with self._handle.transaction():
            self._put(account)
            if takes_announcement:
                self._take_announcement(account.key)
            if shared:
                self._put_shared_quota(account.key, shared)
            self._insert_events(account.username, events, at)
        self._handle.on_change(self.panel, (account.key,))

    def save_all(self, accounts: Sequence[Account]) -> None:
        """Store accounts after a look at which nothing happened to them, in one transaction."""
        if not accounts:
            return
        with self._handle.transaction():
            for account in accounts:
                self._put(account)
                self._take_announcement(account.key)
        self._handle.on_change(self.panel, [account.key for account in accounts])

    def _put(self, account: Account) -> None:
        request, key = account.reset_request, account.key
        self._db.execute(
            "INSERT OR REPLACE INTO account (account_key, panel, admin, is_held, "
            "reset_requested_at, odometer_bytes, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(key, self.panel, account.admin, account.is_held),
                to_millis(request.requested_at) if request else None,
                account.odometer_bytes,
                msgspec.json.encode(account),
            ),
        )
        statement = "DELETE FROM orphan WHERE account_key = ? AND panel = ?"
        if self._db.execute(statement, (key, self.panel)).rowcount:
            self._undeny(key)

    def _take_announcement(self, key: str) -> None:
        taken = self._db.execute(
            "DELETE FROM announcement WHERE account_key = ? AND panel = ?", (key, self.panel)
        )
        if taken.rowcount:
            self._db.execute("DELETE FROM meta WHERE key = ?", (self._again(key),))

    def claim(self, key: str, *, at: datetime) -> bool:
        """Count a name alone for this panel from now on, if it is offered; return whether it was.

        What was reported of it until it was released, or until this panel was last found not to
        have the user, is not this panel's user's: an account begins behind that (`opening`), or its
        baseline moves over it.
        """
        if not self.is_offered(key):
            return False
        query = "SELECT is_released FROM placement WHERE account_key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        before, account = self.totals(key), self.account(key)
        with self._handle.transaction():
            names = self._move_alone(key, source=FIRST_PANEL, target=self.panel)
            self._db.execute(
                "INSERT OR REPLACE INTO placement (account_key, panel, is_released) "
                "VALUES (?, ?, 0)",
                (key, self.panel),
            )
            passed = self._passed_alone(key, names)
            if account is not None and passed is not None:
                self._put(_behind(account, before, passed))
            elif account is not None and row is not None:
                self._put(shifted(account, before=before, after=self.totals(key)))
            elif row is not None and passed is None:
                self._insert_orphan(key, key, at)
        return True

    def _depart(self, key: str) -> None:
        """Keep of a shared quota what a user of it has used, or drop it with the last one."""
        account, shared = self.account(key), self.shared_quota(key)
        if account is None or shared is None:
            return
        left = self.members(key)
        left.pop(self.panel)
        if left:
            self._put_shared_quota(key, renewed(depart(shared, account), left))
        else:
            self._db.execute("DELETE FROM shared_quota WHERE account_key = ?", (key,))

    def shared_quota(self, key: str) -> SharedQuota | None:
        """Return the quota that a name's users on all panels share; None where there is none."""
        if not self._handle.shares_quotas:
            return None
        query = "SELECT state FROM shared_quota WHERE account_key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=SharedQuota)

    def _put_shared_quota(self, key: str, shared: SharedQuota) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO shared_quota VALUES (?, ?, ?)",
            (key, shared.departed_bytes, msgspec.json.encode(shared)),
        )

    def members(self, key: str) -> dict[str, Account]:
        """Return the accounts of one name by panel, in the order of the panels."""
        query = "SELECT panel, state FROM account WHERE account_key = ?"
        found = {
            panel: msgspec.json.decode(state, type=Account)
            for panel, state in self._db.execute(query, (key,)).fetchall()
        }
        order = {panel: place for place, panel in enumerate(self._handle.panels)}
        return {
            panel: found[panel]
            for panel in sorted(found, key=lambda panel: (order.get(panel, len(order)), panel))
        }

    def _insert_orphan(self, key: str, username: str, at: datetime, *, panel: str = "") -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO orphan (account_key, panel, username, first_seen_at, folded, "
            "candidates) VALUES (?, ?, ?, ?, ?, '[]')",
            (key, panel or self.panel, username, to_millis(at), folded(key)),
        )

    def is_orphan(self, key: str) -> bool:
        """Tell whether the panel is known not to have this name."""
        query = "SELECT 1 FROM orphan WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self.panel)).fetchone() is not None

    def _listed(self) -> str:
        """Select the orphans that are nobody's anywhere; panel names are safe as literals.

        A name alone is listed for the first panel. What is reported for another panel by name is
        listed for that one; its other entries only say that it does not have a name.
        """
        denied = "".join(
            " AND EXISTS (SELECT 1 FROM orphan AS p "
            f"WHERE p.account_key = o.account_key AND p.panel = '{each}')"
            for each in self._handle.panels[1:]
        )
        if self._handle.shares_quotas:
            return f"FROM orphan AS o WHERE o.panel = '{FIRST_PANEL}'{denied}"
        if len(self._handle.panels) == 1:
            return f"FROM orphan AS o WHERE o.panel = '{FIRST_PANEL}'"
        own = (
            "EXISTS (SELECT 1 FROM external_usage AS u WHERE u.account_key = o.account_key "
            "AND u.panel = o.panel AND u.username {}LIKE o.panel || '/%')"
        )
        return (
            f"FROM orphan AS o WHERE ({own.format('')} OR (o.panel = '{FIRST_PANEL}' "
            f"AND {own.format('NOT ')}{denied}))"
        )

    def _listed_by(self, key: str) -> set[str]:
        """Return the panels for which a name is listed."""
        query = f"SELECT o.panel {self._listed()} AND o.account_key = ?"
        return {row[0] for row in self._db.execute(query, (key,))}

    def has_account(self, key: str) -> bool:
        """Tell whether the name has an account."""
        query = "SELECT 1 FROM account WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self.panel)).fetchone() is not None

    def is_known(self, key: str) -> bool:
        """Tell whether the name has an account, or is reported and may be this panel's."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?2"
        query = (
            "SELECT 1 FROM account WHERE account_key = ?1 AND panel = ?2 "
            "UNION ALL SELECT 1 FROM gone_account WHERE account_key = ?1 AND panel = ?2 "
            f"UNION ALL SELECT 1 FROM external_usage WHERE account_key = ?1{of_panel}"
        )
        found = self._db.execute(query, (key, self.panel)).fetchone()
        return found is not None or self.is_offered(key)

    def orphans(self) -> list[Orphan]:
        """Return the names that were reported and that no panel knows which might."""
        of_panel = "" if self._handle.shares_quotas else " AND u.panel = o.panel"
        rows = self._db.execute(
            f"SELECT o.username, o.first_seen_at, {sum_of('u.total_bytes')}, "
            f"{sum_of('u.raw_bytes')}, (SELECT gone_at FROM gone_account AS g WHERE "
            "g.account_key = o.account_key AND g.panel = o.panel) FROM (SELECT account_key, "
            f"panel, username, first_seen_at {self._listed()} AND o.panel = ?) AS o "
            f"LEFT JOIN external_usage AS u ON u.account_key = o.account_key{of_panel} "
            "GROUP BY o.account_key ORDER BY 3 DESC",
            (self.panel,),
        )
        return [
            Orphan(
                username=row[0],
                first_seen_at=from_millis(row[1]),
                total_bytes=row[2],
                raw_bytes=row[3],
                gone_at=None if row[4] is None else from_millis(row[4]),
            )
            for row in rows
        ]

    def announce(
        self, announcements: Sequence[tuple[bytes, str]], *, at: datetime, remember_seconds: int
    ) -> list[str]:
        """Remember reset webhooks, given as (digest, account key); return the keys that are news.

        A redelivered webhook has the digest of the first delivery. The announcement stays until a
        look has taken it into account (`save`), so that neither a crash in between loses it nor a
        write that is stored meanwhile, nor that the user was taken for gone.
        """
        now = to_millis(at)
        news: list[str] = []
        with self._handle.transaction():
            self._db.execute(
                "DELETE FROM webhook_seen WHERE seen_at < ?", (now - remember_seconds * 1000,)
            )
            for digest, key in announcements:
                statement = "INSERT OR IGNORE INTO webhook_seen (digest, seen_at) VALUES (?, ?)"
                if self._db.execute(statement, (self._of_panel(digest), now)).rowcount:
                    if self.is_announced(key):
                        self._handle.set_meta(self._again(key), "1")
                    statement = "INSERT OR REPLACE INTO announcement VALUES (?, ?, ?)"
                    self._db.execute(statement, (key, self.panel, now))
                    news.append(key)
        return news

    def _of_panel(self, digest: bytes) -> bytes:
        """Tell what two panels say alike apart."""
        return digest if self.panel == FIRST_PANEL else digest + self.panel.encode()

    def is_announced(self, key: str) -> bool:
        """Tell whether a reset webhook for the account waits to be taken into account."""
        query = "SELECT 1 FROM announcement WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self.panel)).fetchone() is not None

    def is_announced_again(self, key: str) -> bool:
        """Tell whether more than one reset webhook waits: they are of as many resets."""
        return self._handle.meta(self._again(key)) is not None

    def _again(self, key: str) -> str:
        return f"announced_again:{self.panel}:{key}"

    def reset_all(self, admin: str | None) -> ResetAll | None:
        """Return the last reset of all of an owner's users that was noticed."""
        query = "SELECT seen_at FROM reset_all WHERE admin = ? AND panel = ?"
        row = self._db.execute(query, (admin or "", self.panel)).fetchone()
        if row is None:
            return None
        after_millis = int(self._handle.meta(self._reset_all_key(admin)) or row[0])
        return ResetAll(seen_at=from_millis(row[0]), after=from_millis(after_millis))

    def record_reset_all(self, admin: str | None, noticed: ResetAll) -> None:
        """Remember that all users of an owner were reset in the panel."""
        with self._handle.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO reset_all (admin, panel, seen_at) VALUES (?, ?, ?)",
                (admin or "", self.panel, to_millis(noticed.seen_at)),
            )
            self._handle.set_meta(self._reset_all_key(admin), str(to_millis(noticed.after)))

    def _reset_all_key(self, admin: str | None) -> str:
        return f"reset_all_after:{self.panel}:{admin or ''}"

    def counts(self) -> Mapping[str, int]:
        """Return how many accounts there are, how many of them are held, and how many orphans."""
        row = self._db.execute(
            "SELECT (SELECT count(*) FROM account WHERE panel = ?1), "
            f"(SELECT count(*) {self._listed()} AND o.panel = ?1), "
            "(SELECT count(*) FROM account WHERE panel = ?1 AND is_held)",
            (self.panel,),
        ).fetchone()
        held = row[0] if self._handle.doubt else row[2]
        return {"accounts": row[0], "orphans": row[1], "held": held}

    def pending_resets(self) -> PendingResets:
        """Return how many accounts wait for a reset to be finished, and since when."""
        row = self._db.execute(
            "SELECT count(*), min(reset_requested_at) FROM account "
            "WHERE panel = ? AND reset_requested_at IS NOT NULL",
            (self.panel,),
        ).fetchone()
        return PendingResets(
            count=row[0], oldest_requested_at=None if row[1] is None else from_millis(row[1])
        )


def _behind(account: Account, before: Totals, passed: Totals) -> Account:
    """Have an account begin behind what was reported of names that count for it from now on."""
    after = Totals(
        billed_bytes=before.billed_bytes + passed.billed_bytes,
        raw_bytes=before.raw_bytes + passed.raw_bytes,
        seqs=merged(before.seqs or (), passed.seqs or ()),
    )
    return shifted(account, before=before, after=after)
