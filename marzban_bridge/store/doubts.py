"""The part of the store that says why no account of a panel is to be changed, over restarts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from marzban_bridge.quota.account import Event
from marzban_bridge.quota.panel_doubt import PanelDoubt
from marzban_bridge.store.names.placement import NameBooks
from marzban_bridge.store.sqlite import to_millis

PANEL_DOUBTS = "panel_doubts:"
"""Before a panel's name: why none of its accounts is changed."""
ONE_PANEL = "one_panel"
"""The kind of doubt about a panel that is another entry's, too; also in the metric."""


class DoubtBooks(NameBooks):
    """Reasons why one panel is in doubt; there may be several at once, one of each kind."""

    @property
    def panel_doubts(self) -> tuple[PanelDoubt, ...]:
        """Why no account of the panel is changed now; empty when all is well."""
        stored = self._handle.meta(self._doubt_meta)
        if stored is None:
            return ()
        return msgspec.json.decode(stored, type=tuple[PanelDoubt, ...])

    @property
    def is_another_entrys_panel(self) -> bool:
        """Whether the panel is another configured entry's, too, and left alone as this one's."""
        return any(each.kind == ONE_PANEL for each in self.panel_doubts)

    @property
    def panel_doubt(self) -> str | None:
        """The same in words, None when all is well."""
        return "; ".join(each.text for each in self.panel_doubts) or None

    def begin_panel_doubt(self, doubt: PanelDoubt, *, at: datetime) -> bool:
        """Have no account of the panel changed; return whether that is news of this kind.

        What is known of a kind that is there already is replaced.
        """
        others = [each for each in self.panel_doubts if each.kind != doubt.kind]
        is_news = len(others) == len(self.panel_doubts)
        with self._handle.transaction():
            self._set_panel_doubts([*others, doubt])
            if is_news:
                self._insert_events("", [Event(kind="doubt", text=doubt.text)], at)
        if is_news:
            self._handle.on_change(self.panel, ())
        return is_news

    def end_panel_doubt(self, kind: str, text: str, *, actor: str = "bridge", at: datetime) -> bool:
        """Have accounts of the panel changed again, for all of this kind; was it in doubt?"""
        others = [each for each in self.panel_doubts if each.kind != kind]
        if len(others) == len(self.panel_doubts):
            return False
        with self._handle.transaction():
            self._set_panel_doubts(others)
            self._insert_events("", [Event(kind="doubt_over", text=text, actor=actor)], at)
        self._handle.on_change(self.panel, ())
        return True

    @property
    def _doubt_meta(self) -> str:
        return f"{PANEL_DOUBTS}{self.panel}"

    def _set_panel_doubts(self, doubts: Sequence[PanelDoubt]) -> None:
        self._handle.set_meta(self._doubt_meta, msgspec.json.encode(doubts).decode())

    def has_lost_all_since(self, at: datetime) -> bool:
        """Tell whether the panel has no account left, and the last one's user is gone since."""
        query = (
            "SELECT 1 FROM gone_account WHERE panel = ?1 AND gone_at >= ?2 "
            "AND NOT EXISTS (SELECT 1 FROM account WHERE panel = ?1)"
        )
        return self._db.execute(query, (self.panel, to_millis(at))).fetchone() is not None

    def sample(self, *, admin: str | None, limit: int) -> list[str]:
        """Return some accounts of the panel, at random; up to half of them of one owner's users."""
        query = "SELECT account_key FROM account WHERE panel = ?1 {} ORDER BY random() LIMIT ?2"
        of_owner = self._db.execute(
            query.format("AND admin IS ?3"), (self.panel, limit // 2, admin)
        ).fetchall()
        of_all = self._db.execute(query.format(""), (self.panel, limit)).fetchall()
        return list(dict.fromkeys(row[0] for row in (*of_owner, *of_all)))[:limit]
