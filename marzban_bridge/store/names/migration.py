"""Migrates a store with case-folded names to the panels' own spelling of every name.

Until schema 5 an account was stored under its lower-case name, so that `Alice` and `alice` shared
one. Charged bytes stay where they are: names in other spellings become aliases of the account, and
the next evaluation finds which of them are users of their own. Users of a shared quota with
different spellings get one each, in which all earlier usage is used.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL, account_key, folded, take_apart

_Row = dict[str, Any]


def spell_names_as_panels(db: sqlite3.Connection) -> None:
    """Rename accounts and all that goes with them, in the open transaction of a migration."""
    _Spelling(db).run()


class _Spelling:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        metas = dict(db.execute("SELECT key, value FROM meta").fetchall())
        self._panels = (metas.get("panels") or FIRST_PANEL).split()
        self._shares_quotas = metas.get("shares_quotas") == "true"
        self._accounts: dict[tuple[str, str], _Row] = {
            (key, panel): msgspec.json.decode(state)
            for key, panel, state in db.execute("SELECT account_key, panel, state FROM account")
        }
        self._gone: dict[tuple[str, str], _Row] = {
            (key, panel): msgspec.json.decode(state)
            for key, panel, state in db.execute(
                "SELECT account_key, panel, state FROM gone_account"
            )
        }
        order = {panel: number for number, panel in enumerate(self._panels)}
        self._spelt: dict[str, dict[str, str]] = {}
        """By old key: the panels' spellings in the order of the panels, deleted users' last."""
        for rows in (self._accounts, {place: it["account"] for place, it in self._gone.items()}):
            for key, panel in sorted(rows, key=lambda it: (order.get(it[1], 99), it[1])):
                spelling = account_key(rows[key, panel]["username"])
                self._spelt.setdefault(key, {}).setdefault(panel, spelling)
        self._known_panels = {*self._panels, *(panel for _, panel in self._accounts)}

    def run(self) -> None:
        """Rename everything."""
        before = {place: self._total(*place) for place in (*self._accounts, *self._gone)}
        unknown = self._spell_usage()
        self._spell_accounts()
        self._spell_unknown_names(unknown)
        self._spell_placements(unknown)
        for key, panel in self._accounts:
            spelling = self._spelt[key][panel]
            self._db.execute(
                "UPDATE announcement SET account_key = ? WHERE account_key = ? AND panel = ?",
                (spelling, key, panel),
            )
        self._db.execute("DELETE FROM namesake")  # found again by the next scan of all panels
        if self._shares_quotas:
            self._split_shared_quotas(before)
        self._spell_gone(before)

    def _spell_usage(self) -> dict[str, list[str]]:
        """Assign each reported name; return those without an account, by old key."""
        unknown: dict[str, list[str]] = {}
        rows = self._db.execute(
            "SELECT username, account_key, panel FROM external_usage"
        ).fetchall()
        for username, key, panel in rows:
            name = take_apart(username, panels=self._known_panels).key
            spelt = self._spelt.get(key, {})
            found = [spelt[panel]] if panel in spelt else []
            if self._shares_quotas:
                found = list(spelt.values())
            owner = name if name in found or not found else found[0]
            self._db.execute(
                "UPDATE external_usage SET account_key = ? WHERE username = ?", (owner, username)
            )
            if owner != name:
                self._db.execute(
                    "INSERT INTO alias VALUES (?, ?, ?, 0, 0)", (username, owner, folded(name))
                )
            if not found:
                unknown.setdefault(key, []).append(name)
        return unknown

    def _spell_accounts(self) -> None:
        for (key, panel), account in self._accounts.items():
            self._db.execute(
                "UPDATE account SET account_key = ? WHERE account_key = ? AND panel = ?",
                (account_key(account["username"]), key, panel),
            )

    def _spell_gone(self, before: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Rename the accounts of deleted users, whose totals must not change."""
        for (key, panel), gone in self._gone.items():
            name = account_key(gone["account"]["username"])
            self._db.execute(
                "UPDATE gone_account SET account_key = ? WHERE account_key = ? AND panel = ?",
                (name, key, panel),
            )
            after = self._total(name, panel)
            missing = [was - now for was, now in zip(before[key, panel], after, strict=True)]
            if any(missing):
                self._db.execute(
                    "INSERT INTO kept_usage VALUES (?, ?, ?, ?)", (name, panel, *missing)
                )

    def _names_of(self, key: str, unknown: dict[str, list[str]]) -> Collection[str]:
        """Return the new names of an old key: of its users, and names without a user."""
        names = [*self._spelt.get(key, {}).values(), *unknown.get(key, ())]
        return dict.fromkeys(names)

    def _spell_unknown_names(self, unknown: dict[str, list[str]]) -> None:
        """Migrate the unknown names of each panel, except names with an account there."""
        rows = self._db.execute(
            "SELECT account_key, panel, username, first_seen_at FROM orphan"
        ).fetchall()
        self._db.execute("DELETE FROM orphan")
        for key, panel, username, first_seen_at in rows:
            has = self._spelt[key][panel] if (key, panel) in self._accounts else None
            for name in self._names_of(key, unknown) or [account_key(username)]:
                if name != has:
                    self._db.execute(
                        "INSERT OR IGNORE INTO orphan VALUES (?, ?, ?, ?, ?, '[]')",
                        (name, panel, name, first_seen_at, folded(name)),
                    )

    def _spell_placements(self, unknown: dict[str, list[str]]) -> None:
        rows = self._db.execute("SELECT account_key, panel, is_released FROM placement").fetchall()
        self._db.execute("DELETE FROM placement")
        for key, panel, is_released in rows:
            own = None if is_released else self._spelt.get(key, {}).get(panel)
            names: Iterable[str] = [own] if own else self._names_of(key, unknown) or [key]
            for name in names:
                self._db.execute(
                    "INSERT OR IGNORE INTO placement VALUES (?, ?, ?)", (name, panel, is_released)
                )

    def _total(self, key: str, panel: str) -> tuple[int, int]:
        """Return the totals against which an account's baseline is set: billed and raw bytes."""
        of_panel = "" if self._shares_quotas else " AND panel = ?"
        total_bytes, raw_bytes = self._db.execute(
            "SELECT coalesce(sum(total_bytes), 0), coalesce(sum(raw_bytes), 0) FROM "
            f"counted_usage WHERE account_key = ?{of_panel}",
            (key, panel) if of_panel else (key,),
        ).fetchone()
        if not self._shares_quotas:
            return total_bytes, raw_bytes
        others_bytes = self._db.execute(
            "SELECT (SELECT coalesce(sum(lifetime_panel_bytes), 0) FROM account "
            "WHERE account_key = :key AND panel <> :panel) + coalesce((SELECT departed_bytes "
            "FROM shared_quota WHERE account_key = :key), 0)",
            {"key": key, "panel": panel},
        ).fetchone()[0]
        return total_bytes + others_bytes, raw_bytes + others_bytes

    def _split_shared_quotas(self, before: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Give each spelling its own quota, in which all earlier usage is used."""
        rows = self._db.execute("SELECT account_key, departed_bytes, state FROM shared_quota")
        quotas = {key: (departed, msgspec.json.decode(state)) for key, departed, state in rows}
        self._db.execute("DELETE FROM shared_quota")
        for key, (departed_bytes, quota) in quotas.items():
            spelt = {
                panel: name
                for panel, name in self._spelt.get(key, {}).items()
                if (key, panel) in self._accounts
            }
            is_split = len(set(spelt.values())) > 1
            for name in dict.fromkeys(spelt.values()) or [key]:
                own = quota | ({"departed_bytes": 0} if is_split else {})
                self._put_quota(name, 0 if is_split else departed_bytes, own)
            if not is_split:
                continue
            for name in dict.fromkeys(spelt.values()):
                panels = [panel for panel, spelling in spelt.items() if spelling == name]
                for panel in panels:
                    shift = self._shift(key, panel, name, before[key, panel])
                self._start_later(name, quota, shift)
                self._tell(name, panels[0], [each for each in spelt.values() if each != name])

    def _put_quota(self, name: str, departed_bytes: int, quota: _Row) -> None:
        self._db.execute(
            "INSERT INTO shared_quota VALUES (?, ?, ?)",
            (name, departed_bytes, msgspec.json.encode(quota)),
        )

    def _shift(self, key: str, panel: str, name: str, before: tuple[int, int]) -> tuple[int, int]:
        """Move an account's baseline by the change of its total; return that change."""
        after = self._total(name, panel)
        shift, raw_shift = after[0] - before[0], after[1] - before[1]
        account = self._accounts[key, panel]
        for field in ("baseline_bytes", "admin_baseline_bytes", "seen_total_bytes"):
            account[field] += shift
        for field in ("raw_baseline_bytes", "seen_raw_bytes"):
            account[field] += raw_shift
        if request := account.get("reset_request"):
            request["total_bytes"] += shift
            request["raw_total_bytes"] += raw_shift
        self._db.execute(
            "UPDATE account SET state = ? WHERE account_key = ? AND panel = ?",
            (msgspec.json.encode(account), name, panel),
        )
        return shift, raw_shift

    def _start_later(self, name: str, quota: _Row, shift: tuple[int, int]) -> None:
        """Move the baseline of the shared period by the same."""
        start = quota.get("start")
        if start:
            start = {
                "billed_bytes": start["billed_bytes"] + shift[0],
                "raw_bytes": start["raw_bytes"] + shift[1],
            }
        own = quota | {"departed_bytes": 0, "start": start}
        self._db.execute(
            "UPDATE shared_quota SET state = ? WHERE account_key = ?",
            (msgspec.json.encode(own), name),
        )

    def _tell(self, name: str, panel: str, others: Collection[str]) -> None:
        text = (
            f"names are case-sensitive from now on: the quota is not shared with "
            f"{' and '.join(sorted(set(others)))} any more; all that was used of it stays used"
        )
        self._db.execute(
            "INSERT INTO event (at, username, kind, actor, text, panel) "
            "VALUES (?, ?, 'name_parted', 'bridge', ?, ?)",
            (int(time.time() * 1000), name, text, panel),
        )
