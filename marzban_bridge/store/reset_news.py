"""Resets made in the panel: stored webhooks about single users, and resets of all users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.store.handle import OF_KEYS, StoreHandle, from_millis, keys_json, to_millis


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNews:
    """What is known of resets of one user in the panel."""

    told_at: datetime | None
    """When the newest reset happened of which a webhook waits; None where none does."""
    is_told_again: bool
    """Whether more than one reset webhook waits: they are of as many resets."""
    reset_all: ResetAll | None
    """The last detected reset of all users of its admin."""


class ResetNews:
    """Resets that one panel sent webhooks about, and detected resets of all its users."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def announce(
        self,
        announcements: Sequence[tuple[bytes, str]],
        *,
        happened_at: Mapping[bytes, datetime] = MappingProxyType({}),
        at: datetime,
        remember_seconds: int,
    ) -> list[str]:
        """Remember reset webhooks, as (digest, account key); return the keys that are news.

        `happened_at` has the times of the resets by digest, as far as the panel says them truly;
        `at` stands for the others.

        A redelivered webhook has the digest of the first delivery. The announcement stays until an
        evaluation has used it (`save`): neither a crash in between, nor a write that is stored
        meanwhile, nor a user who is taken as deleted for a while loses it.
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
                    told_at = min(happened_at.get(digest, at), at)
                    if earlier := self.announced_at(key):
                        self._handle.set_meta(self._again(key), "1")
                        told_at = max(told_at, earlier)
                    statement = "INSERT OR REPLACE INTO announcement VALUES (?, ?, ?)"
                    self._db.execute(statement, (key, self._panel, to_millis(told_at)))
                    news.append(key)
        return news

    def _of_panel(self, digest: bytes) -> bytes:
        """Tell what two panels say alike apart."""
        return digest if self._panel == FIRST_PANEL else digest + self._panel.encode()

    def take(self, *keys: str) -> None:
        """Delete the webhooks of accounts that include them, within a transaction."""
        for key in self._announced(keys):
            statement = "DELETE FROM announcement WHERE account_key = ? AND panel = ?"
            self._db.execute(statement, (key, self._panel))
            self._handle.delete_meta(self._again(key))

    def _announced(self, keys: Iterable[str]) -> dict[str, datetime]:
        query = (
            "SELECT account_key, seen_at FROM announcement "
            f"WHERE panel = ? AND account_key {OF_KEYS}"
        )
        rows = self._db.execute(query, (self._panel, keys_json(keys))).fetchall()
        return {key: from_millis(millis) for key, millis in rows}

    def of_users(self, admins: Mapping[str, str | None]) -> dict[str, UserNews]:
        """Return what is known of users' resets, each given with its admin."""
        told, resets = self._announced(admins), {}
        for admin in set(admins.values()):
            resets[admin] = self.of_everybody(admin)
        return {
            key: UserNews(
                told_at=told.get(key),
                is_told_again=key in told and self.is_announced_again(key),
                reset_all=resets[admin],
            )
            for key, admin in admins.items()
        }

    def is_announced(self, key: str) -> bool:
        """Tell whether a reset webhook for the account waits to be taken into account."""
        query = "SELECT 1 FROM announcement WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self._panel)).fetchone() is not None

    def announced_at(self, key: str) -> datetime | None:
        """Return when the newest reset happened of which a webhook waits; None where none does."""
        query = "SELECT seen_at FROM announcement WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self._panel)).fetchone()
        return None if row is None else from_millis(row[0])

    def is_announced_again(self, key: str) -> bool:
        """Tell whether more than one reset webhook waits: they are of as many resets."""
        return self._handle.meta(self._again(key)) is not None

    def _again(self, key: str) -> str:
        return f"announced_again:{self._panel}:{key}"

    def of_everybody(self, admin: str | None) -> ResetAll | None:
        """Return the last detected reset of all users of an admin."""
        query = "SELECT seen_at FROM reset_all WHERE admin = ? AND panel = ?"
        row = self._db.execute(query, (admin or "", self._panel)).fetchone()
        if row is None:
            return None
        after_millis = int(self._handle.meta(self._reset_all_key(admin)) or row[0])
        return ResetAll(seen_at=from_millis(row[0]), after=from_millis(after_millis))

    def record_of_everybody(self, admin: str | None, noticed: ResetAll) -> None:
        """Record that all users of an admin were reset in the panel."""
        with self._handle.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO reset_all (admin, panel, seen_at) VALUES (?, ?, ?)",
                (admin or "", self._panel, to_millis(noticed.seen_at)),
            )
            self._handle.set_meta(self._reset_all_key(admin), str(to_millis(noticed.after)))

    def _reset_all_key(self, admin: str | None) -> str:
        return f"reset_all_after:{self._panel}:{admin or ''}"
